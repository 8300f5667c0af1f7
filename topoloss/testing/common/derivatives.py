"""Rules for the derivatives of a component."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.functional import jacobian
from torch.autograd.gradcheck import GradcheckError

from topoloss.testing.checks import NotApplicable, Subject, Violation, builds_on, on, require
from topoloss.testing.comparing import (
    first_nonfinite,
    gradients,
    leaves,
    weighted_sum,
    worst_entry,
)

__all__ = [
    "finite_gradients",
    "gradient",
    "graph",
    "many",
    "second_gradient",
    "skip_where_surrogate",
]

_MEND = (
    "do not detach any part of the value; compare a hand-written backward with the forward "
    "formula, including its sign, and write it in torch operations. If the gradient is meant to "
    "differ (straight-through, stop-gradient), declare surrogate_gradient = True"
)
_STEP = 1e-6

_Function: TypeAlias = Callable[..., tuple[Tensor, ...]]


def skip_where_surrogate(component: nn.Module) -> None:
    """Skip a rule about exact gradients where the component declares a surrogate gradient."""
    for part in component.modules():
        if getattr(part, "surrogate_gradient", False):
            raise NotApplicable(f"{type(part).__name__} declares a surrogate gradient")


@builds_on("leftovers")
def graph(subject: Subject) -> None:
    """A value that depends on the input has an autograd graph that leads back to the input."""
    component = subject.make()
    here, there = (subject.kind.generic(component, subject.seed + k) for k in (0, 1))
    with on(here.name):
        values = subject.kind.apply(component, *leaves(here.tensors))
        others = subject.kind.apply(component, *there.tensors)
        for value, other in zip(values, others, strict=True):
            require(
                value.requires_grad or torch.equal(value, other),
                expected="a value with an autograd graph",
                received="a value that changes with the input, but has no autograd graph",
                mend="on the way to the value do not detach, leave torch, or use no_grad",
            )
        if any(getattr(part, "surrogate_gradient", False) for part in component.modules()):
            require(
                any(bool(g.any()) for g in gradients(subject, component, here)),
                expected="a surrogate gradient that is not 0 everywhere",
                received="a gradient of zeros",
                mend="let the gradient flow: for example soft + (hard - soft).detach()",
            )


@builds_on("graph", "precision", "symmetry", "locality")
def gradient(subject: Subject) -> None:
    """Gradients agree with finite differences, in float64 at a generic point."""
    _check_derivative(subject, gradcheck, lambda values: values, "value")


@builds_on("graph", "precision", "symmetry", "locality", "gradient")
def second_gradient(subject: Subject) -> None:
    """Second derivatives agree with finite differences, in float64 at a generic point."""
    _check_derivative(subject, gradgradcheck, _gradient_of, "gradient")


@builds_on("graph", "gradient", "finite")
def finite_gradients(subject: Subject) -> None:
    """Gradients are finite at ties, duplicates and constants, and for the smallest sizes."""
    component = subject.make()
    for example in subject.kind.special(component):
        with on(example.name):
            bad = first_nonfinite(gradients(subject, component, example))
            require(
                bad is None,
                expected="finite gradients",
                received=bad,
                mend="guard the argument of the division, root or logarithm with torch.where, "
                "not only its result: zero times infinity is NaN in the backward pass",
            )


@builds_on("graph", "gradient")
def many(subject: Subject) -> None:
    """With hundreds of neurons or points, gradients agree with finite differences.

    They are compared along three directions, and must agree along one. The value may have a kink
    within the step along a direction, but a wrong gradient is wrong along all three.
    """
    component = subject.make()
    skip_where_surrogate(component)
    large = subject.kind.large(component, subject.seed)
    if not large:
        raise NotApplicable("there is no large example for it")
    for example in large:
        with on(example.name, _MEND):
            slopes = [
                # The example's own seed might draw its own numbers, along which the slope may be 0.
                _slopes(subject, component, example.tensors, subject.seed + k)
                for k in (1, 2, 3)
            ]
            by_autograd, by_differences = min(slopes, key=lambda pair: abs(pair[0] - pair[1]))
            bound = 1e-4 * max(abs(by_autograd), abs(by_differences)) + 1e-9
            require(
                abs(by_autograd - by_differences) <= bound,
                expected=f"a slope of {by_differences:.9g} in a random direction, by finite "
                "differences",
                received=f"a slope of {by_autograd:.9g} by autograd",
                mend="look for code that depends on the number of neurons or points: blocks, "
                f"their last rows, a limit on the size. Otherwise {_MEND}",
            )


def _slopes(
    subject: Subject, component: Any, tensors: Sequence[Tensor], seed: int
) -> tuple[float, float]:
    """Return the slope in a random direction, by autograd and by finite differences."""
    generator = torch.Generator().manual_seed(seed)
    directions = [torch.randn(x.shape, dtype=x.dtype, generator=generator) for x in tensors]

    def total(*x: Tensor) -> Tensor:
        found = weighted_sum(subject.kind.apply(component, *x))
        if not found.requires_grad:
            raise NotApplicable("the value does not depend on the input")
        return found

    inputs = leaves(tensors)
    found = torch.autograd.grad(total(*inputs), inputs, allow_unused=True, materialize_grads=True)
    slope = sum((g * u).sum().item() for g, u in zip(found, directions, strict=True))
    ahead, behind = (
        total(*leaves([x + h * u for x, u in zip(tensors, directions, strict=True)])).item()
        for h in (_STEP, -_STEP)
    )
    return slope, (ahead - behind) / (2 * _STEP)


def _gradient_of(values: _Function) -> _Function:
    def gradient_of_values(*x: Tensor) -> tuple[Tensor, ...]:
        total = weighted_sum(values(*x))
        return torch.autograd.grad(
            total, x, create_graph=True, allow_unused=True, materialize_grads=True
        )

    return gradient_of_values


def _check_derivative(
    subject: Subject,
    check: Callable[..., bool],
    function_of: Callable[[_Function], _Function],
    of_what: str,
) -> None:
    component = subject.make()
    skip_where_surrogate(component)
    example = subject.kind.generic(component, subject.seed)
    with on(example.name, _MEND):
        inputs = leaves(example.tensors)
        values = subject.kind.apply(component, *inputs)
        if not any(value.requires_grad for value in values):
            raise NotApplicable("the value does not depend on the input")

        def differentiable(*x: Tensor) -> tuple[Tensor, ...]:
            return tuple(v for v in subject.kind.apply(component, *x) if v.requires_grad)

        atol = _absolute_tolerance(function_of(differentiable)(*inputs))
        try:
            check(differentiable, inputs, atol=atol)
        except GradcheckError as error:
            _raise_worst_entry(function_of(differentiable), inputs, of_what, atol)
            # The entries agree; torch found some other fault.
            raise Violation(f"torch's {check.__name__} to pass", error, _MEND) from error


def _absolute_tolerance(values: Sequence[Tensor]) -> float:
    """Return how far finite differences may be off: large values have large rounding errors."""
    largest = max((v.abs().max().item() for v in values if v.numel()), default=0.0)
    return max(1e-5, 16 * torch.finfo(torch.float64).eps * largest / _STEP)


def _raise_worst_entry(
    function: _Function, inputs: list[Tensor], of_what: str, atol: float
) -> None:
    """Raise a `Violation` that shows the worst entry of the Jacobian, if any is far off."""
    found = jacobian(function, tuple(inputs))  # type: ignore[no-untyped-call]
    pairs = [
        (m, by_autograd[m], by_differences)
        for m in range(len(inputs))
        for by_autograd, by_differences in zip(
            found, _differences(function, inputs, m), strict=True
        )
        if by_differences.numel()
    ]
    m, by_autograd, by_differences = max(pairs, key=lambda pair: (pair[1] - pair[2]).abs().max())
    place, got, wanted = worst_entry(by_autograd, by_differences)
    split = by_differences.ndim - inputs[m].ndim
    require(
        abs(got - wanted) <= atol + 1e-3 * abs(wanted),
        expected=f"{wanted:.6g} by finite differences, for the derivative of {of_what} "
        f"{place[:split]} with respect to entry {place[split:]} of tensor {m}",
        received=f"{got:.6g} by autograd; no other entry is further off",
        mend=_MEND,
    )


def _differences(function: _Function, inputs: list[Tensor], m: int) -> list[Tensor]:
    """Return each output's Jacobian with respect to input `m`, from central differences."""
    x = inputs[m]
    columns = []
    for number in range(x.numel()):
        step = torch.zeros(x.numel(), dtype=x.dtype)
        step[number] = _STEP
        moved = (leaves([*inputs[:m], x + s * step.view_as(x), *inputs[m + 1 :]]) for s in (1, -1))
        ahead, behind = (function(*tensors) for tensors in moved)
        columns.append([(a - b) / (2 * _STEP) for a, b in zip(ahead, behind, strict=True)])
    return [
        torch.stack([c.detach() for c in column], -1).reshape(*column[0].shape, *x.shape)
        for column in zip(*columns, strict=True)
    ]
