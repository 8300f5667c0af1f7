"""The rules for a loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from topoloss.diagrams import Diagram
from topoloss.errors import TopolossError
from topoloss.losses import Loss
from topoloss.testing import examples
from topoloss.testing.checks import (
    Kind,
    NotApplicable,
    Subject,
    builds_on,
    foundation,
    on,
    on_definition,
    require,
)
from topoloss.testing.common import (
    derivatives,
    devices,
    instances,
    numbers,
    purity,
    ties,
    transforms,
)
from topoloss.testing.comparing import close, difference, values_and_gradients_of
from topoloss.testing.examples import Example

__all__ = ["KIND"]


@builds_on("graph", "finite")
def empty(subject: Subject) -> None:
    """Diagrams without points have a finite value with an autograd graph."""
    loss = subject.make()
    with on("no points"):
        (value,) = _apply(loss, *(x.requires_grad_() for x in _points([]).tensors))
        require(
            torch.isfinite(value).all() and value.requires_grad,
            expected="a finite value with an autograd graph",
            received=value,
            mend="without points, return for example deaths.sum() instead of a new tensor",
        )


@foundation
def dimensions(subject: Subject) -> None:
    """Diagrams of dimension 0 alone, of 0 and 1, and of 0, 1 and 2 have a value.

    A loss that needs a higher dimension may raise a `TopolossError` that says so.
    """
    loss = subject.make()
    d0, d1 = _diagrams(*_generic(loss, subject.seed).tensors)
    for diagrams in ([d0], [d0, d1], [d0, d1, replace(d1, dimension=2)]):
        highest = diagrams[-1].dimension
        with on(f"diagrams of dimensions 0 to {highest}", mend=_DIMENSIONS_MEND):
            try:
                value = loss(diagrams)
            except TopolossError:
                continue
            require(
                isinstance(value, Tensor) and bool(torch.isfinite(value).all()),
                expected="a finite tensor",
                received=value,
                mend=_DIMENSIONS_MEND,
            )


_DIMENSIONS_MEND = (
    "loop over the diagrams, or check how many there are; where a dimension that the loss needs "
    "is missing, return 0 * diagrams[0].deaths.sum() or raise a topoloss.InputError"
)


@builds_on("shapes", "empty", "gradient", "finite_gradients", "many")
def weights(subject: Subject) -> None:
    """Points of weight 0 change neither the value nor its gradient, in any dimension.

    One point is left out at a time, then every other one, then all of them.
    """
    loss = subject.make()
    for example in (_generic(loss, subject.seed), *_large(loss, subject.seed)):
        deaths, _, deaths_1 = example.tensors
        for dimension, count in ((0, len(deaths)), (1, len(deaths_1))):
            for what, left_out in _few_of(count):
                with on(f"{example.name}, with weight 0 at {what} of dimension {dimension}"):
                    _require_without(loss, example, dimension, left_out)


def _few_of(count: int) -> list[tuple[str, Tensor]]:
    """Leave out single points (in a long list only the ends and the middle), half, and all."""
    single = range(count) if count < 20 else (0, count // 2, count - 1)
    place = torch.arange(count)
    return [
        *((f"point {k}", place == k) for k in single),
        ("every other point", place % 2 == 0),
        ("all points", place >= 0),
    ]


def _require_without(loss: Loss, example: Example, dimension: int, left_out: Tensor) -> None:
    """Require the value, and the gradients by all points, of the points that are not left out."""
    kept = ~left_out

    def without(*points: Tensor) -> list[Tensor]:
        return [loss(_diagrams(*_Points(*points).without(dimension, kept)))]

    def weighed(*points: Tensor) -> list[Tensor]:
        return [loss(_diagrams(*points, **{f"weights_{dimension}": kept.double()}))]

    expected, received = (values_and_gradients_of(f, example) for f in (without, weighed))
    require(
        close(received, expected),
        expected=f"the value {expected[0]:.9g}, as without these points, and gradient 0 there",
        received=difference(received, expected),
        mend="multiply by diagram.weights, in every dimension, and divide by their sum instead of "
        "a count, with a guard against a sum of 0",
    )


def definition(subject: Subject) -> None:
    """The value is that of the definition given as `expected`."""
    if subject.expected is None:
        raise NotApplicable("no definition was given with expected=")
    loss = subject.make()
    generic = _generic(loss, subject.seed)
    for example in (generic, *_special(loss), *_large(loss, subject.seed), _below_zero(generic)):
        with on(example.name):
            with on_definition(example.name):
                expected = _by_definition(subject.expected, example)
            if expected is None:
                require(
                    example is not generic,
                    expected="a finite number by the definition given as expected=",
                    received="nan or infinity, so there is nothing to compare with",
                    mend="fix the definition given as expected=",
                )
                continue
            (received,) = _apply(loss, *example.tensors)
            require(
                abs(received - expected) <= 1e-9 * (1 + abs(expected)),
                expected=f"{expected:.9g} by definition",
                received=f"{received:.9g}",
                mend="compare the formula with the definition: a sum or a mean, the divisor of a "
                "standard deviation (correction=0 for the number of deaths), and signs where "
                "values are negative",
            )


def _by_definition(expected: Callable[..., Any], example: Example) -> float | None:
    """Return the defined value; None if it is not finite, or undefined for births below 0."""
    points = _Points(*example.tensors)
    try:
        value = float(expected(_diagrams(*points)))
    except (ValueError, ArithmeticError):
        if not (points.births_1 < 0).any():
            raise
        return None
    return value if math.isfinite(value) else None


class _Points(NamedTuple):
    """The points of two diagrams; the points of dimension 0 are born at 0."""

    deaths: Tensor
    births_1: Tensor
    deaths_1: Tensor

    def without(self, dimension: int, kept: Tensor) -> _Points:
        if dimension == 0:
            return self._replace(deaths=self.deaths[kept])
        return self._replace(births_1=self.births_1[kept], deaths_1=self.deaths_1[kept])


def _generic(loss: Loss, seed: int) -> Example:
    example = examples.generic(seed=seed)
    births = example.deaths[:3]
    return Example(f"the deaths of {example.name}", (example.deaths, births, 2 * births + 0.1))


def _large(loss: Loss, seed: int) -> list[Example]:
    """Return more points than a small block holds, in odd and even numbers."""
    found = []
    for count in (41, 320, 321):
        generator = torch.Generator().manual_seed(seed)
        deaths, births, lives = (
            0.1 + torch.rand(n, dtype=torch.float64, generator=generator)
            for n in (count, count // 2, count // 2)
        )
        name = f"{count} points in dimension 0 and {count // 2} in 1, seed={seed}"
        found.append(Example(name, _sorted(deaths, births, births + lives)))
    return found


def _below_zero(example: Example) -> Example:
    """Return an example with births below 0, as of a filtration with negative edge values."""
    deaths, births_1, deaths_1 = example.tensors
    lowered = births_1 - 2 * births_1.amax()
    return Example(f"{example.name}, births in dimension 1 below 0", (deaths, lowered, deaths_1))


def _sorted(deaths: Tensor, births_1: Tensor, deaths_1: Tensor) -> tuple[Tensor, ...]:
    """Sort the points by death, as those of every diagram are."""
    deaths_1, rank = deaths_1.sort(stable=True)
    return deaths.sort(stable=True).values, births_1[rank], deaths_1


def _special(loss: Loss) -> list[Example]:
    known = [examples.two_clusters(), examples.duplicated(), examples.constant_column()]
    return [
        *(_points(example.deaths.tolist(), f"the deaths of {example.name}") for example in known),
        *(_points(deaths) for deaths in ([], [0.0], [0.5], [0.0] * 4, [0.5] * 4, [1.0] * 4)),
        Example(
            "two equal points in dimension 1 and one of lifetime 0",
            tuple(
                torch.tensor(values, dtype=torch.float64)
                for values in ([0.5, 0.7], [0.3, 0.3, 0.9], [0.6, 0.6, 0.9])
            ),
        ),
    ]


def _points(deaths: Sequence[float], name: str = "") -> Example:
    """Return an example with these deaths in dimension 0, and no point in dimension 1."""
    none = torch.zeros(0, dtype=torch.float64)
    values = torch.tensor(deaths, dtype=torch.float64)
    return Example(name or f"deaths {list(deaths)}", (values, none, none.clone()))


def _diagrams(
    deaths: Tensor,
    births_1: Tensor,
    deaths_1: Tensor,
    *,
    weights_0: Tensor | None = None,
    weights_1: Tensor | None = None,
) -> list[Diagram]:
    none = deaths.new_zeros(0)
    edges, edges_1 = (
        torch.arange(2 * len(x), device=x.device).reshape(-1, 2) for x in (deaths, deaths_1)
    )
    ones, ones_1 = (
        torch.ones_like(x) if given is None else given
        for x, given in ((deaths, weights_0), (deaths_1, weights_1))
    )
    return [
        Diagram(0, torch.zeros_like(deaths), deaths, None, edges, ones, deaths.new_zeros(1)),
        Diagram(1, births_1, deaths_1, edges_1, edges_1, ones_1, none),
    ]


def _apply(loss: Loss, *points: Tensor) -> list[Tensor]:
    # A pipeline makes no half-precision diagrams either.
    half = (torch.float16, torch.bfloat16)
    return [loss(_diagrams(*(x.float() if x.dtype in half else x for x in points)))]


KIND = Kind(
    base=Loss,
    generic=_generic,
    special=_special,
    apply=_apply,
    rules=(
        instances.construction,
        dimensions,
        numbers.shapes,
        numbers.finite,
        purity.input_unchanged,
        purity.determinism,
        purity.memory,
        purity.random_state,
        purity.module_state,
        purity.leftovers,
        numbers.precision,
        numbers.layout,
        numbers.scale,
        numbers.tiny,
        definition,
        derivatives.graph,
        empty,
        derivatives.gradient,
        derivatives.second_gradient,
        derivatives.finite_gradients,
        ties.ties,
        derivatives.many,
        weights,
        transforms.vmap,
        transforms.compilation,
        instances.pickling,
        instances.deepcopy,
        instances.state_dict,
        devices.device,
        devices.cuda,
    ),
    large=_large,
    in_domain=_sorted,
)
