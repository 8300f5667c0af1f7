"""T1 and T2 as pipelines, and naive decorrelation."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

import topoloss
from topoloss_decorrelation.magnitudes import sum_of_magnitudes


def t1(
    *,
    reduction: Literal["sum", "mean"] = "sum",
    filtration: str | topoloss.Filtration = "correlation",
    persistence: str | topoloss.Persistence = "mst",
    on_nonfinite: Literal["raise", "skip"] = "raise",
    check_finite: bool | None = None,
) -> topoloss.Pipeline:
    """Correlation dissimilarity, minimum spanning tree, T1.

    Parameters
    ----------
    reduction : {"sum", "mean"}
        The sum of the deaths, as in the paper, or their mean.
    filtration, persistence
        Names or instances to put in place of the paper's.
    on_nonfinite, check_finite
        See :class:`topoloss.Regulariser`.
    """
    loss = topoloss.loss("t1", reduction=reduction)
    return topoloss.pipeline(
        filtration, persistence, loss, on_nonfinite=on_nonfinite, check_finite=check_finite
    )


def t2(
    *,
    alpha: float = 0.5,
    beta: float = 0.5,
    filtration: str | topoloss.Filtration = "correlation",
    persistence: str | topoloss.Persistence = "mst",
    on_nonfinite: Literal["raise", "skip"] = "raise",
    check_finite: bool | None = None,
) -> topoloss.Pipeline:
    """Correlation dissimilarity, minimum spanning tree, T2.

    Parameters
    ----------
    alpha, beta : float
        Weights of the mean and of the standard deviation of the deaths.
    filtration, persistence
        Names or instances to put in place of the paper's.
    on_nonfinite, check_finite
        See :class:`topoloss.Regulariser`.
    """
    loss = topoloss.loss("t2", alpha=alpha, beta=beta)
    return topoloss.pipeline(
        filtration, persistence, loss, on_nonfinite=on_nonfinite, check_finite=check_finite
    )


class Naive(topoloss.Regulariser):
    """Naive decorrelation, the mean of ``|r|`` over all pairs of distinct neurons.

    Parameters
    ----------
    constant : {"independent", "drop"}
        A constant neuron contributes correlations 0, or nothing at all; see the
        ``correlation`` filtration.
    on_nonfinite, check_finite
        See :class:`topoloss.Regulariser`.

    Notes
    -----
    Every pair has a gradient, which is made along with the value, block by block: O(n^2 d)
    time in the forward pass and O(n d) in the backward pass, in O(n d) memory and a block of
    64 MiB. One neuron has no pairs: the value is 0. The gradient at ``r = 0``, up to rounding,
    is 0. It is differentiable any number of times in reverse mode; forward mode
    (:func:`torch.func.jvp`) is not defined.

    References
    ----------
    Ballester, Casacuberta, Escalera, "Decorrelating neurons using persistence",
    PMLR 228 (2024), section 5.

    Examples
    --------
    >>> import torch, topoloss
    >>> reg = topoloss.regulariser("naive")
    >>> reg(torch.tensor([[1.0, -1.0, 1.0], [2.0, -2.0, -1.0], [1.0, -1.0, -3.0]]))
    tensor(0.3333)
    """

    def __init__(
        self,
        *,
        constant: Literal["independent", "drop"] = "independent",
        on_nonfinite: Literal["raise", "skip"] = "raise",
        check_finite: bool | None = None,
    ) -> None:
        super().__init__(on_nonfinite=on_nonfinite, check_finite=check_finite)
        self.correlation = topoloss.filtration("correlation", constant=constant)

    def compute(self, x: Float[Tensor, "samples n"]) -> Float[Tensor, ""]:
        v = self.correlation.vertices(x)
        neuron = torch.arange(v.shape[0], device=v.device)
        count = self.correlation.edge_weights(v, neuron, neuron).sum()
        pairs = (count * (count - 1) / 2).clamp(min=1)
        # Every unordered pair is in the sum twice.
        return sum_of_magnitudes(v) / (2 * pairs)
