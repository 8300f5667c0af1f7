"""Values and gradients along a line of activations on which the tree changes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from topoloss.testing.checks import NotApplicable, require

__all__ = ["require_smoothness_across_a_change"]

_STEPS = 16
_WIDTH = 1e-5
_RELATIVE_ERROR = 1e-5


def require_smoothness_across_a_change(
    value: Callable[[Tensor], Tensor], tree: Callable[[Tensor], Tensor], ends: tuple[Tensor, Tensor]
) -> None:
    """Require a continuous value where the tree changes, with the right gradient on each side.

    On either side the gradient is compared with a central difference. With steps of
    1e-5 its own error is about 1e-10 from the third derivative, and 1e-11 from rounding.
    """
    start, stop = ends

    def point(t: float) -> Tensor:
        return start + t * (stop - start)

    def at(t: float) -> float:
        return value(point(t)).item()

    def tree_at(t: float) -> list[list[int]]:
        return sorted(tree(point(t)).tolist())

    def slope(t: float) -> float:
        x = point(t).requires_grad_()
        (g,) = torch.autograd.grad(value(x), x)
        return ((stop - start) * g).sum().item()

    change = _only_change(tree_at)
    h = _WIDTH
    slopes = []
    for side, middle in (("before", change - 2 * h), ("after", change + 2 * h)):
        slopes.append(slope(middle))
        difference = (at(middle + h) - at(middle - h)) / (2 * h)
        bound = _RELATIVE_ERROR * (1 + abs(difference))
        require(
            abs(slopes[-1] - difference) <= bound,
            expected=f"a slope of {difference:.9g} by finite differences, {side} the tree changes "
            f"at t={change:.9g}",
            received=f"a slope of {slopes[-1]:.9g} by autograd",
            mend="compute the values of the chosen edges under autograd, and detach nothing",
        )
    jump = at(change + h) - at(change - h)
    bound = h * (abs(slopes[0]) + abs(slopes[1]) + _RELATIVE_ERROR)
    require(
        abs(jump) <= 2 * bound,
        expected=f"a continuous value where the tree changes, at t={change:.9g}",
        received=f"a jump of {jump:.3g}",
        mend="let the value depend on the values of the tree's edges, not on which edges they are",
    )


def _only_change(tree_at: Callable[[float], list[list[int]]]) -> float:
    """Bisect for a point with one tree at 3 steps before it, and another at 3 steps after it."""
    for k in range(_STEPS):
        low, high = k / _STEPS, (k + 1) / _STEPS
        first = tree_at(low)
        if first == tree_at(high):
            continue
        while high - low > _WIDTH / 100:
            middle = (low + high) / 2
            low, high = (middle, high) if tree_at(middle) == first else (low, middle)
        before, after = ([tree_at(low + sign * h * _WIDTH) for h in (1, 2, 3)] for sign in (-1, 1))
        if all(t == before[0] for t in before) and all(t == after[0] for t in after):
            return low
    raise NotApplicable("no place where the tree changes was found")
