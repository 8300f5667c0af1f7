"""The loss ``persistent-entropy``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import topoloss
from topoloss_plugins.points import check_dimension, chosen
from topoloss_plugins.scales import power_of_two


class PersistentEntropy(topoloss.Loss):
    r"""The entropy of lifetimes, :math:`-\sum_i p_i \log p_i` with :math:`p_i = l_i / \sum_j l_j`.

    It is 0 for a single point, and largest, :math:`\log n`, where n lifetimes are equal. Minimising
    it lets few classes outlive the others.

    Parameters
    ----------
    dimension : int
        The homology dimension whose points count.

    Notes
    -----
    Essential classes are left out, and the logarithm is natural. A point of lifetime 0 does not
    count, and its gradient is 0 by definition: near lifetime 0 the gradient grows without bound.
    Where no lifetime is above 0 the value is 0. Multiplying all lifetimes by
    one positive number leaves the value unchanged.

    References
    ----------
    Chintakunta, Gentimis, Gonzalez-Diaz, Jimenez, Krim, "An entropy-based persistence barcode",
    Pattern Recognition 48 (2015).

    Examples
    --------
    >>> import torch, topoloss
    >>> reg = topoloss.pipeline("euclidean", "mst", "persistent-entropy")
    >>> reg(torch.tensor([[0.0, 1.0, 2.0]]))  # two lifetimes of 1: log(2)
    tensor(0.6931)
    """

    def __init__(self, *, dimension: int = 0) -> None:
        super().__init__()
        check_dimension(dimension)
        self.dimension = dimension

    def forward(self, diagrams: Sequence[topoloss.Diagram]) -> Tensor:
        d = chosen(diagrams, self.dimension, self)
        if d.deaths.shape[0] == 0:
            return d.lifetimes.sum()
        lives = d.weights * d.lifetimes
        counts = lives.detach() > 0
        # Scaled by the longest, so that no sum overflows.
        scaled = lives / power_of_two(lives.detach().amax().clamp(min=0))
        total = torch.where(counts, scaled, 0).sum()
        share = torch.where(counts, scaled, 1) / torch.where(counts.any(), total, 1)
        return -torch.where(counts, share * share.log(), 0).sum()

    def extra_repr(self) -> str:
        return f"dimension={self.dimension}"


@topoloss.hookimpl
def topoloss_losses() -> dict[str, type[topoloss.Loss]]:
    return {"persistent-entropy": PersistentEntropy}
