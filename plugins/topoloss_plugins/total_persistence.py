"""The loss ``total-persistence``."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

import topoloss
from topoloss_plugins.points import check_dimension, chosen


class TotalPersistence(topoloss.Loss):
    r"""Sum of lifetimes to a power, :math:`\sum (death - birth)^p`.

    Parameters
    ----------
    power : float
        The exponent p, at least 1.
    dimension : int, optional
        The homology dimension whose points count. By default all dimensions count.

    Notes
    -----
    Essential classes are left out. With ``power=1`` in dimension 0 it is minus T1.

    References
    ----------
    Cohen-Steiner, Edelsbrunner, Harer, Mileyko, "Lipschitz functions have
    L_p-stable persistence", Found. Comput. Math. 10 (2010), section 2.

    Examples
    --------
    >>> import torch, topoloss
    >>> reg = topoloss.pipeline("euclidean", "mst", topoloss.loss("total-persistence", power=2))
    >>> reg(torch.tensor([[0.0, 1.0, 5.0]]))
    tensor(17.)
    """

    def __init__(self, *, power: float = 1.0, dimension: int | None = None) -> None:
        super().__init__()
        topoloss.check_number("power", power, least=1)
        if dimension is not None:
            check_dimension(dimension, instead="None")
        self.power = power
        self.dimension = dimension

    def forward(self, diagrams: Sequence[topoloss.Diagram]) -> Tensor:
        counted = diagrams if self.dimension is None else [chosen(diagrams, self.dimension, self)]
        terms = [(d.weights * self._powers(d.lifetimes)).sum() for d in counted]
        return sum(terms[1:], start=terms[0])

    def _powers(self, lifetimes: Tensor) -> Tensor:
        if self.power != int(self.power):
            # Rounding may leave a lifetime below 0, where this power is NaN.
            lifetimes = lifetimes.clamp(min=0)
        return lifetimes**self.power

    def extra_repr(self) -> str:
        of = "" if self.dimension is None else f", dimension={self.dimension}"
        return f"power={self.power}{of}"


@topoloss.hookimpl
def topoloss_losses() -> dict[str, type[topoloss.Loss]]:
    return {"total-persistence": TotalPersistence}
