"""The rule for gradients at ties, duplicates and other kinks."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from topoloss.testing.checks import Subject, builds_on, on, require
from topoloss.testing.common.derivatives import skip_where_surrogate
from topoloss.testing.comparing import weighted_sum
from topoloss.testing.examples import Example
from topoloss.threads import one_thread

__all__ = ["ties"]

_STEP = 1e-6
_NEIGHBOURS = 12
_MANY_NEIGHBOURS = 100
_STEPS = 400
_PARTS = 8
_MEND = (
    "use the gradient of one side of the tie, or a mixture with weights that add up to one: each "
    "of two tied deaths counts once, not once for each equal value"
)


@builds_on("graph", "gradient", "finite_gradients")
def ties(subject: Subject) -> None:
    """At a tie the gradient is one of the gradients right next to it, or a mixture of them.

    Any convex combination of the gradients around the tie is accepted; for ``abs`` at 0 that is
    anything from -1 to 1. On each side of the tie, the one-sided derivative of the value must lie
    between the slopes of the gradients on that side. At the tie itself, the slope must lie near
    the range of slopes around it. Only a sample of these is known, so the slope may be beyond the
    range by a quarter of its width, or by its whole width where the value bends up in some
    directions and down in others. Where the value jumps, or where its slope grows without bound,
    any finite gradient is accepted.
    """
    component = subject.make()
    skip_where_surrogate(component)
    for example in subject.kind.special(component):
        # Hundreds of tiny gradients would only wait for idle threads.
        with on(example.name), one_thread():
            _require_a_gradient_near_by(_Flat(subject, component, example))


class _Flat:
    """A component's weighted value around an example, as a function of one vector."""

    def __init__(self, subject: Subject, component: Any, example: Example) -> None:
        self._apply = lambda x: subject.kind.apply(component, *x)
        self._in_domain = subject.kind.in_domain
        self._shapes = [x.shape for x in example.tensors]
        self.origin = torch.cat([x.flatten() for x in example.tensors])
        columns = [torch.arange(x.numel()) % max(x.shape[-1], 1) for x in example.tensors]
        first = [0, *itertools.accumulate(x.shape[-1] for x in example.tensors)]
        self.column = torch.cat([c + k for c, k in zip(columns, first, strict=False)])

    def at(self, offset: Tensor) -> tuple[float, Tensor]:
        """Return the value and its gradient at an offset from the example."""
        x = (self.origin + offset).requires_grad_()
        parts: tuple[Tensor, ...] = torch.split(x, [shape.numel() for shape in self._shapes])
        inputs = [part.reshape(shape) for part, shape in zip(parts, self._shapes, strict=True)]
        total = weighted_sum(self._apply(self._in_domain(*inputs)))  # type: ignore[no-untyped-call]
        if not total.requires_grad:
            return total.item(), torch.zeros_like(x)
        (g,) = torch.autograd.grad(total, x, allow_unused=True, materialize_grads=True)
        return total.item(), g


def _require_a_gradient_near_by(function: _Flat) -> None:
    value, gradient = function.at(torch.zeros_like(function.origin))
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(_NEIGHBOURS, len(function.origin), dtype=torch.float64, generator=generator)
    near_by = _gradients_near_by(function, value, noise)
    if near_by is None:
        return
    size = near_by.norm(dim=1).amax().item()
    curvature = 10 * _STEP * (1 + abs(value))  # how far slopes may change within a step
    for direction in (gradient, noise[0], noise[1]):
        if not direction.any():
            continue
        u = direction / direction.norm()
        slopes = near_by @ u
        for sign in (1, -1):
            beside = [function.at(sign * _STEP / 8**k * u) for k in range(_PARTS)]
            one_sided = sign * (beside[0][0] - value) / _STEP
            of_parts = torch.stack([g @ u for _, g in beside])
            lowest, highest = _range(of_parts, 1e-3 * size + curvature)
            require(
                lowest <= one_sided <= highest,
                expected=f"a slope of {one_sided:.6g} next to the tie, by differences",
                received=f"gradients with slopes {of_parts.amin():.6g} to {of_parts.amax():.6g}",
                mend="compare the backward formula with the values right next to the tie",
            )
            slopes = torch.cat((slopes, of_parts))
        slope = (gradient @ u).item()
        margin = 1e-4 * size + curvature
        lowest, highest = _range(slopes, margin)
        for look in (_more_slopes, _steepest_slope):
            if lowest <= slope <= highest:
                break
            sign = 1 if slope > highest else -1
            slopes = torch.cat((slopes, sign * look(function, gradient, sign * u)))
            width = slopes.amax().item() - slopes.amin().item()
            beyond = 1 / 4 if _bends_one_way(function, value, u, curvature) else 1
            lowest, highest = _range(slopes, beyond * width + margin)
        require(
            lowest <= slope <= highest,
            expected=f"a slope from {lowest:.6g} to {highest:.6g}, as around the tie"
            f"{', in the direction of the gradient' if direction is gradient else ''}",
            received=f"{slope:.6g}",
            mend=_MEND,
        )


def _range(slopes: Tensor, margin: float) -> tuple[float, float]:
    return slopes.amin().item() - margin, slopes.amax().item() + margin


def _bends_one_way(function: _Flat, value: float, u: Tensor, curvature: float) -> bool:
    """Whether the value bends up at the tie in all sampled directions, or down in all.

    It is then the maximum or the minimum of smooth functions, and no slope along a direction is
    beyond the slopes on its two sides.
    """
    generator = torch.Generator().manual_seed(3)
    ways = torch.randn(_MANY_NEIGHBOURS, len(u), dtype=torch.float64, generator=generator)
    bends = [
        (function.at(_STEP * way)[0] + function.at(-_STEP * way)[0] - 2 * value) / _STEP
        for way in (u, *(ways / ways.norm(dim=1, keepdim=True)))
    ]
    return min(bends) >= -curvature or max(bends) <= curvature


def _more_slopes(function: _Flat, gradient: Tensor, u: Tensor) -> Tensor:
    """Return the slopes along `u` at many neighbours, some of them far along `u`."""
    generator = torch.Generator().manual_seed(2)
    found = []
    for k in range(_MANY_NEIGHBOURS):
        noise = torch.randn(len(u), dtype=torch.float64, generator=generator)
        along = (k / _MANY_NEIGHBOURS - 0.5) * 8 * noise.norm()
        found.append(function.at(_STEP * (noise + along * u))[1] @ u)
    return torch.stack(found)


def _steepest_slope(function: _Flat, gradient: Tensor, u: Tensor) -> Tensor:
    """Climb from neighbour to neighbour, and return the largest slope along `u` that was found.

    Which of several tied pieces of a value applies often depends on how close two columns are.
    Few random neighbours bring these two together and keep all others apart, so the search moves
    single columns: at random, along the gradient, and outwards. A little noise in every column
    breaks all other ties, where the gradient may be just as wrong.
    """
    generator = torch.Generator().manual_seed(4)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    columns = int(function.column.amax()) + 1
    steepest, place, noise = -torch.inf, torch.zeros_like(u), draw(len(u)) / 1000
    for _ in range(_STEPS):
        ways = torch.stack((draw(len(u)), gradient, function.origin))
        ways = ways / ways.norm(dim=1, keepdim=True).clamp(min=1e-300) * len(u) ** 0.5
        chosen = torch.rand(3, columns, generator=generator) < 1 / columns
        step = ((chosen * draw(3, columns))[:, function.column] * ways).sum(0)
        # Small steps find the border of a piece, and large ones leave the piece.
        there = place + 10 ** (0.5 * draw(1) - 0.5) * step
        there = there / max(1, there.abs().amax().item() / 8)
        slope = (function.at(_STEP * (there + noise))[1] @ u).item()
        if slope >= steepest:
            steepest, place = slope, there
    return torch.tensor([steepest], dtype=torch.float64)


def _gradients_near_by(function: _Flat, value: float, noise: Tensor) -> Tensor | None:
    """Return gradients around the example, or None where no slope bounds the value's change."""
    neighbours = [function.at(_STEP * offset) for offset in noise]
    gradients = torch.stack([g for _, g in neighbours])
    closer, closest = (
        torch.stack([function.at(_STEP / k * offset)[1] for offset in noise[:3]]) for k in (16, 64)
    )
    if not (torch.isfinite(gradients).all() and torch.isfinite(closest).all()):
        return None
    size = gradients.norm(dim=1).amax().item()
    change = max(abs(there - value) for there, _ in neighbours)
    jumps = change > 4 * size * _STEP * noise.norm(dim=1).amax().item() + 1e-12 * (1 + abs(value))
    # Towards the tie a bounded slope changes less and less; even a logarithm's keeps growing.
    far, near = (
        b.norm(dim=1) - a.norm(dim=1) for a, b in ((gradients[:3], closer), (closer, closest))
    )
    grows = bool(((near > far / 4) & (near > 1e-3 * closer.norm(dim=1))).any())
    return None if jumps or grows else gradients
