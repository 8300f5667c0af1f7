"""The rules for a loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from topoloss.diagrams import Diagram
from topoloss.losses import Loss
from topoloss.testing import examples
from topoloss.testing.checks import Kind, NotApplicable, Subject, on, require
from topoloss.testing.common import derivatives, devices, instances, numbers, purity, transforms
from topoloss.testing.comparing import close
from topoloss.testing.examples import Example

__all__ = ["KIND"]


def empty(subject: Subject) -> None:
    """Diagrams without points have a value that still carries a graph."""
    loss = subject.make()
    with on("no points"):
        (value,) = _apply(loss, *(x.requires_grad_() for x in _points([]).tensors))
        require(
            torch.isfinite(value).all() and value.requires_grad,
            expected="a finite value with a gradient",
            received=value,
            mend="return for example deaths.sum(), not a new tensor, where there is no point",
        )


def weights(subject: Subject) -> None:
    """A point of weight 0 does not change the value."""
    loss = subject.make()
    example = examples.generic(seed=subject.seed)
    deaths = example.deaths
    for left_out in range(len(deaths)):
        kept = torch.arange(len(deaths)) != left_out
        with on(f"the deaths of {example.name}, number {left_out} of weight 0"):
            expected = loss(_diagrams(deaths[kept]))
            received = loss(_diagrams(deaths, weights=kept.double()))
            require(
                close([received], [expected]),
                expected=f"{expected:.9g}, the value without that point",
                received=f"{received:.9g}",
                mend="multiply by diagram.weights, and divide by their sum instead of a count",
            )


def definition(subject: Subject) -> None:
    """The value is that of the definition given as `expected`."""
    if subject.expected is None:
        raise NotApplicable("no definition was given with expected=")
    loss = subject.make()
    for example in (subject.kind.generic(loss, subject.seed), *_special(loss)):
        with on(example.name):
            expected = float(subject.expected(_diagrams(*example.tensors)))
            (received,) = _apply(loss, *example.tensors)
            require(
                abs(received - expected) <= 1e-9 * (1 + abs(expected)),
                expected=f"{expected:.9g} by definition",
                received=f"{received:.9g}",
                mend="compare the formula with the definition: a sum or a mean, and what a "
                "standard deviation divides by (correction=0 for the number of deaths)",
            )


def _generic(loss: Loss, seed: int) -> Example:
    example = examples.generic(seed=seed)
    births = example.deaths[:3]
    return Example(f"the deaths of {example.name}", (example.deaths, births, 2 * births + 0.1))


def _special(loss: Loss) -> list[Example]:
    known = [examples.two_clusters(), examples.duplicated(), examples.constant_column()]
    return [
        *(_points(example.deaths.tolist(), f"the deaths of {example.name}") for example in known),
        *(_points(deaths) for deaths in ([], [0.0], [0.5], [0.0] * 4, [0.5] * 4, [1.0] * 4)),
    ]


def _points(deaths: Sequence[float], name: str = "") -> Example:
    """Return an example with these deaths in dimension 0, and no point in dimension 1."""
    none = torch.zeros(0, dtype=torch.float64)
    values = torch.tensor(deaths, dtype=torch.float64)
    return Example(name or f"deaths {list(deaths)}", (values, none, none.clone()))


def _diagrams(
    deaths: Tensor,
    births_1: Tensor | None = None,
    deaths_1: Tensor | None = None,
    weights: Tensor | None = None,
) -> list[Diagram]:
    none = deaths.new_zeros(0)
    births_1, deaths_1 = (none if x is None else x for x in (births_1, deaths_1))
    weights = torch.ones_like(deaths) if weights is None else weights
    edges, edges_1 = (
        torch.arange(2 * len(x), device=x.device).reshape(-1, 2) for x in (deaths, deaths_1)
    )
    return [
        Diagram(0, torch.zeros_like(deaths), deaths, None, edges, weights, deaths.new_zeros(1)),
        Diagram(1, births_1, deaths_1, edges_1, edges_1, torch.ones_like(deaths_1), none),
    ]


def _apply(loss: Loss, *points: Tensor) -> list[Tensor]:
    # A pipeline has no half-precision diagrams either.
    half = (torch.float16, torch.bfloat16)
    return [loss(_diagrams(*(x.float() if x.dtype in half else x for x in points)))]


KIND = Kind(
    base=Loss,
    generic=_generic,
    special=_special,
    apply=_apply,
    rules=(
        instances.construction,
        numbers.shapes,
        purity.input_unchanged,
        purity.determinism,
        purity.random_state,
        purity.module_state,
        numbers.precision,
        numbers.finite,
        weights,
        definition,
        derivatives.graph,
        empty,
        derivatives.gradient,
        derivatives.second_gradient,
        derivatives.finite_gradients,
        transforms.vmap,
        transforms.compilation,
        instances.pickling,
        instances.deepcopy,
        instances.state_dict,
        devices.cuda,
    ),
)
