"""The penalty on redundancy of "Barlow Twins", ``barlow-twins``."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

import topoloss
from topoloss_plugins.covariances import LayerByLayer, off_diagonal_squares


class BarlowTwins(LayerByLayer):
    r"""Sum of squared correlations of distinct neurons of a layer.

    It is the second term of the paper's loss, equation (1), without its weight:

    .. math:: \sum_i \sum_{j \neq i} C_{ij}^2

    where :math:`C_{ij}`, equation (2), is the correlation of neurons i and j over the samples. The
    paper correlates two distorted views of each sample. Here there is only one view, so the
    paper's first term, :math:`\sum_i (1 - C_{ii})^2`, is left out: it would be 0 but for constant
    neurons. For a network, the value is the sum over its layers.

    Parameters
    ----------
    on_nonfinite, check_finite
        See :class:`topoloss.Regulariser`.

    Notes
    -----
    Constant neurons and precision are as for the filtration ``correlation``: a constant neuron
    correlates 0 with everything, with a zero gradient. ``x -> a x + b`` with a
    non-zero leaves the value unchanged. It takes O(samples n^2) time and O(n^2) memory in each
    layer.

    References
    ----------
    Zbontar, Jing, Misra, LeCun, Deny, "Barlow Twins: self-supervised learning via redundancy
    reduction", PMLR 139 (2021), arXiv 2103.03230.

    Examples
    --------
    >>> import torch, topoloss
    >>> x = torch.tensor([[1.0, 2.0], [-1.0, -2.0]])  # correlation 1, counted twice
    >>> topoloss.regulariser("barlow-twins")(x).round(decimals=5)
    tensor(2.)
    """

    def __init__(
        self,
        *,
        on_nonfinite: Literal["raise", "skip"] = "raise",
        check_finite: bool | None = None,
    ) -> None:
        super().__init__(on_nonfinite=on_nonfinite, check_finite=check_finite)
        self.correlation = topoloss.filtration("correlation")

    def compute(self, x: Float[Tensor, "samples n"]) -> Float[Tensor, ""]:
        rows = self.correlation.vertices(x)
        return off_diagonal_squares(rows @ rows.mT)


@topoloss.hookimpl
def topoloss_regularisers() -> dict[str, type[topoloss.Regulariser]]:
    return {"barlow-twins": BarlowTwins}
