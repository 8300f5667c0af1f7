"""The regularisers of "Decorrelating neurons using persistence": ``t1``, ``t2``, ``naive``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

import topoloss
from topoloss_plugins.magnitudes import sum_of_magnitudes
from topoloss_plugins.scales import power_of_two


class T1(topoloss.Loss):
    r"""Minus the sum of deaths in dimension 0, :math:`T_1 = -\sum_{d \in D} d`.

    Minimising it pushes the deaths up, and so the strongest correlations down.

    Parameters
    ----------
    reduction : {"sum", "mean"}
        ``"mean"`` divides by the number of deaths that count, one less than the number of
        neurons by default, so that values of networks of different sizes can be compared. The
        useful weight of the mean grows with that number; that of the sum hardly depends on it.

    Notes
    -----
    T1 is minus the weight of the minimum spanning tree. One vertex has no deaths: the value
    is 0 and the gradient 0. Where two edges tie, the gradient is that of the tree that the
    engine's tie rule picks.

    References
    ----------
    Ballester, Casacuberta, Escalera, "Decorrelating neurons using persistence",
    PMLR 228 (2024), definition of T_1 in section 4, Theorem 1.

    Examples
    --------
    >>> import torch, topoloss
    >>> reg = topoloss.pipeline("euclidean", "mst", "t1")
    >>> reg(torch.tensor([[0.0, 1.0, 5.0]]))
    tensor(-5.)
    """

    def __init__(self, *, reduction: Literal["sum", "mean"] = "sum") -> None:
        super().__init__()
        topoloss.check_choice("reduction", reduction, ("sum", "mean"))
        self.reduction = reduction

    def forward(self, diagrams: Sequence[topoloss.Diagram]) -> Tensor:
        d = diagrams[0]
        total = -(d.weights * d.deaths).sum()
        return total if self.reduction == "sum" else total / d.weights.sum().clamp(min=1)

    def extra_repr(self) -> str:
        return "" if self.reduction == "sum" else f"reduction={self.reduction!r}"


class T2(topoloss.Loss):
    r"""Minus the mean of deaths, plus their spread.

    .. math:: T_2 = -\alpha\,\mathrm{mean}(D) + \beta\,\mathrm{std}(D)

    Minimising it pushes the deaths up and towards each other.

    Parameters
    ----------
    alpha, beta : float
        Weights of the mean and of the population standard deviation (divided by the
        number of deaths).

    Notes
    -----
    The standard deviation has a kink where all deaths are equal; its gradient there is 0,
    which is a subgradient. Elsewhere its gradient with respect to the deaths has norm
    ``1 / sqrt(len(D))``. Second derivatives grow without bound near the kink. One vertex
    has no deaths: the value is 0.

    References
    ----------
    Ballester, Casacuberta, Escalera, "Decorrelating neurons using persistence",
    PMLR 228 (2024), definition of T_2 in section 4, Theorem 1.

    Examples
    --------
    >>> import torch, topoloss
    >>> reg = topoloss.pipeline("euclidean", "mst", "t2")
    >>> reg(torch.tensor([[0.0, 1.0, 5.0]]))  # -(1 + 4) / 2 / 2 + 1.5 / 2
    tensor(-0.5000)
    """

    def __init__(self, *, alpha: float = 0.5, beta: float = 0.5) -> None:
        super().__init__()
        topoloss.check_number("alpha", alpha)
        topoloss.check_number("beta", beta)
        self.alpha = alpha
        self.beta = beta

    def forward(self, diagrams: Sequence[topoloss.Diagram]) -> Tensor:
        d = diagrams[0]
        if d.deaths.shape[0] == 0:
            return d.deaths.sum()
        count = d.weights.sum().clamp(min=1)
        # Divided by a unit near the largest death, neither sums nor squares overflow.
        unit = power_of_two((d.weights * d.deaths).abs().amax())
        deaths = d.deaths / unit
        mean = (d.weights * deaths).sum() / count
        std = _population_std(deaths, d.weights, count)
        return (-self.alpha * mean + self.beta * std) * unit

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, beta={self.beta}"


def _population_std(
    x: Float[Tensor, " k"], weights: Float[Tensor, " k"], count: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """Standard deviation of the points that count, with gradient 0 where it is 0."""
    counted = weights.detach() > 0
    value = x.detach()
    highest = torch.where(counted, value, -torch.inf).amax()
    lowest = torch.where(counted, value, torch.inf).amin()
    # Decide whether all deaths are equal before taking a mean, which rounds.
    spread = highest > lowest
    centred = torch.where(spread, x - (weights * x).sum() / count, 0)
    # Divided by a unit near the spread, squares do not underflow.
    unit = power_of_two(torch.where(spread, highest - lowest, 1))
    variance = (weights * (centred / unit).square()).sum() / count
    # Rounding may still turn a tiny spread into 0; the standard deviation is then 0 as well.
    positive = variance.detach() > 0
    return torch.where(positive, torch.where(positive, variance, 1).sqrt() * unit, 0)


def t1(
    *,
    reduction: Literal["sum", "mean"] = "sum",
    filtration: str | topoloss.Filtration = "correlation",
    persistence: str | topoloss.Persistence = "mst",
    on_nonfinite: Literal["raise", "skip"] = "raise",
    check_finite: bool | None = None,
) -> topoloss.Pipeline:
    """Minus the sum of ``1 - |r|`` along a minimum spanning tree of the neurons: T1.

    Parameters
    ----------
    reduction : {"sum", "mean"}
        The sum of the deaths, as in the paper, or their mean.
    filtration, persistence
        Names or instances; the defaults are those of the paper.
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
    """Push the deaths ``1 - |r|`` of the neurons up and towards each other: T2.

    Parameters
    ----------
    alpha, beta : float
        Weights of the mean and of the standard deviation of the deaths.
    filtration, persistence
        Names or instances; the defaults are those of the paper.
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
        Count the correlations of a constant neuron as 0, or leave the neuron out; see the
        ``correlation`` filtration.
    on_nonfinite, check_finite
        See :class:`topoloss.Regulariser`.

    Notes
    -----
    Every pair has a gradient. The forward pass computes it together with the value, block by
    block, in O(n^2 d) time; the backward pass takes O(n d) time. Memory is O(n d) and two blocks
    of 64 MiB in float32. One neuron has no pairs: the value is 0. The gradient at ``r = 0``, up to
    rounding, is 0. The value is differentiable any number of times in reverse mode; forward mode
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
        # The sum contains every unordered pair twice.
        return sum_of_magnitudes(v) / (2 * pairs)


@topoloss.hookimpl
def topoloss_losses() -> dict[str, type[topoloss.Loss]]:
    return {"t1": T1, "t2": T2}


@topoloss.hookimpl
def topoloss_regularisers() -> dict[str, Callable[..., topoloss.Regulariser]]:
    return {"t1": t1, "t2": t2, "naive": Naive}
