"""What derivatives a component has."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from topoloss.testing.checks import NotApplicable, Subject, on, require
from topoloss.testing.comparing import gradients, leaves

__all__ = ["finite_gradients", "gradient", "graph", "second_gradient"]


def graph(subject: Subject) -> None:
    """A value that depends on the input carries a graph to it."""
    component = subject.make()
    here, there = (subject.kind.generic(component, subject.seed + k) for k in (0, 1))
    with on(here.name):
        values = subject.kind.apply(component, *leaves(here.tensors))
        others = subject.kind.apply(component, *there.tensors)
        for value, other in zip(values, others, strict=True):
            require(
                value.requires_grad or torch.equal(value, other),
                expected="a value with a gradient",
                received="a value that changes with the input, without a graph",
                mend="do not detach, leave torch, or work under no_grad on the way to the value",
            )


def gradient(subject: Subject) -> None:
    """Gradients are those of finite differences, in float64 at a generic point."""
    _check_derivative(subject, gradcheck)


def second_gradient(subject: Subject) -> None:
    """Second derivatives are those of finite differences, in float64 at a generic point."""
    _check_derivative(subject, gradgradcheck)


def finite_gradients(subject: Subject) -> None:
    """Ties, duplicates, constants and the smallest sizes have finite gradients."""
    component = subject.make()
    for example in subject.kind.special(component):
        with on(example.name):
            for g in gradients(subject, component, example):
                require(
                    torch.isfinite(g).all(),
                    expected="finite gradients",
                    received=g,
                    mend="guard the argument of the division or root with torch.where, and not "
                    "only its result: zero times infinity is NaN in the backward pass",
                )


def _check_derivative(subject: Subject, check: Callable[..., bool]) -> None:
    component = subject.make()
    example = subject.kind.generic(component, subject.seed)
    mend = (
        "detach no part of the value; where a backward is written by hand, compare it with the "
        "forward formula, sign included, and write it in torch operations"
    )
    with on(example.name, mend):
        inputs = leaves(example.tensors)
        values = subject.kind.apply(component, *inputs)
        if not any(value.requires_grad for value in values):
            raise NotApplicable("the value does not depend on the input")

        def differentiable(*x: Tensor) -> tuple[Tensor, ...]:
            return tuple(v for v in subject.kind.apply(component, *x) if v.requires_grad)

        check(differentiable, inputs)
