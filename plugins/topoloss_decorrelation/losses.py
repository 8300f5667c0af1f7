"""T1 and T2 of the deaths in dimension 0."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

import topoloss


class T1(topoloss.Loss):
    r"""Minus the sum of deaths in dimension 0, :math:`T_1 = -\sum_{d \in D} d`.

    Minimising it pushes the deaths up, and so the strongest correlations down.

    Parameters
    ----------
    reduction : {"sum", "mean"}
        ``"mean"`` divides by the number of deaths that count, which is one less than that of
        the neurons, so that values of networks of different sizes can be compared. The useful
        weight then grows with that number, while that of the sum hardly depends on it.

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
        if reduction not in ("sum", "mean"):
            raise topoloss.OptionError(f"reduction={reduction!r} is not 'sum' or 'mean'.")
        self.reduction = reduction

    def forward(self, diagrams: Sequence[topoloss.Diagram]) -> Tensor:
        d = diagrams[0]
        total = -(d.weights * d.deaths).sum()
        return total if self.reduction == "sum" else total / d.weights.sum().clamp(min=1)

    def extra_repr(self) -> str:
        return "" if self.reduction == "sum" else f"reduction={self.reduction!r}"


class T2(topoloss.Loss):
    r"""High and even deaths, :math:`T_2 = -\alpha\,\mathrm{mean}(D) + \beta\,\mathrm{std}(D)`.

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
        for name, value in (("alpha", alpha), ("beta", beta)):
            if not isinstance(value, (int, float)) or not isfinite(value):
                raise topoloss.OptionError(f"{name}={value!r} was given; expected a number.")
        self.alpha = alpha
        self.beta = beta

    def forward(self, diagrams: Sequence[topoloss.Diagram]) -> Tensor:
        d = diagrams[0]
        if d.deaths.shape[0] == 0:
            return d.deaths.sum()
        count = d.weights.sum().clamp(min=1)
        mean = (d.weights * d.deaths).sum() / count
        return -self.alpha * mean + self.beta * _population_std(d.deaths, d.weights, count)

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
    # Equal deaths are told apart from nearly equal ones before any rounding mean is taken.
    spread = highest > lowest
    centred = torch.where(spread, x - (weights * x).sum() / count, 0)
    variance = (weights * centred.square()).sum() / count
    # A positive spread can still square to 0; its standard deviation is then 0 as well.
    positive = variance.detach() > 0
    return torch.where(positive, torch.where(positive, variance, 1).sqrt(), 0)
