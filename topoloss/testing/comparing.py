"""What a component makes of an example, and how two such results are compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from topoloss.testing.checks import Subject
from topoloss.testing.examples import Example

__all__ = [
    "close",
    "difference",
    "gradients",
    "leaves",
    "same",
    "values_and_gradients",
    "values_and_gradients_of",
]


def values_and_gradients(subject: Subject, component: Any, example: Example) -> list[Tensor]:
    """Return the component's values on an example, and the gradients of their weighted sum."""
    return values_and_gradients_of(lambda *x: subject.kind.apply(component, *x), example)


def values_and_gradients_of(
    function: Callable[..., list[Tensor]], example: Example
) -> list[Tensor]:
    """Return the values of a function on an example, and the gradients of their weighted sum."""
    inputs = leaves(example.tensors)
    values = function(*inputs)
    return [*(value.detach() for value in values), *_gradients(values, inputs)]


def gradients(subject: Subject, component: Any, example: Example) -> list[Tensor]:
    """Return the gradients of a weighted sum of the component's values on an example."""
    inputs = leaves(example.tensors)
    return _gradients(subject.kind.apply(component, *inputs), inputs)


def leaves(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copy tensors; the copies of floating-point ones ask for a gradient."""
    return [x.detach().clone().requires_grad_(x.is_floating_point()) for x in tensors]


def same(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    """Whether tensors are equal, bit for bit."""
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def close(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    """Whether float64 tensors are equal up to the order of sums, and integers exactly."""
    return all(
        a.shape == b.shape and torch.allclose(a, b, rtol=1e-9, atol=1e-12)
        for a, b in zip(first, second, strict=True)
    )


def difference(first: Sequence[Tensor], second: Sequence[Tensor]) -> str:
    """Describe where tensors differ most."""
    if [x.shape for x in first] != [x.shape for x in second]:
        return f"shapes {[tuple(x.shape) for x in first]}, not {[tuple(x.shape) for x in second]}"
    largest = max(
        ((a - b).abs().max().item() for a, b in zip(first, second, strict=True) if a.numel()),
        default=0.0,
    )
    return f"values that differ by up to {largest:.3g}: {list(first)}, not {list(second)}"


def _gradients(values: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    # Unequal weights, so that errors of opposite sign do not cancel.
    terms = [
        (value * torch.linspace(1, 2, value.numel(), dtype=value.dtype).view_as(value)).sum()
        for value in values
        if value.requires_grad
    ]
    if not terms:
        return []
    return list(torch.autograd.grad(torch.stack(terms).sum(), inputs, materialize_grads=True))
