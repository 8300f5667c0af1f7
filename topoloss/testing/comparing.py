"""A component's values and gradients on an example, and how two such results are compared."""

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
    "first_nonfinite",
    "gradients",
    "leaves",
    "same",
    "values_and_gradients",
    "values_and_gradients_of",
    "weighted_sum",
    "worst_entry",
]


def values_and_gradients(subject: Subject, component: Any, example: Example) -> list[Tensor]:
    """Return all results of a component on an example, and the gradients of their weighted sum."""
    return values_and_gradients_of(lambda *x: subject.kind.apply_all(component, *x), example)


def values_and_gradients_of(
    function: Callable[..., list[Tensor]], example: Example
) -> list[Tensor]:
    """Return the values of a function on an example, and the gradients of their weighted sum.

    Without an autograd graph the gradients are zeros.
    """
    inputs = leaves(example.tensors)
    values = function(*inputs)
    return [*(value.detach() for value in values), *_gradients(values, inputs)]


def gradients(subject: Subject, component: Any, example: Example) -> list[Tensor]:
    """Return the gradients of a weighted sum of the component's values on an example."""
    inputs = leaves(example.tensors)
    return _gradients(subject.kind.apply(component, *inputs), inputs)


def leaves(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copy tensors; the copies of floating-point tensors require gradients."""
    return [x.detach().clone().requires_grad_(x.is_floating_point()) for x in tensors]


def same(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    """Whether tensors are equal, bit for bit; NaN equals NaN."""
    return all(_same(a, b) for a, b in zip(first, second, strict=True))


def _same(a: Tensor, b: Tensor) -> bool:
    if torch.equal(a, b):
        return True
    alike = a.shape == b.shape and a.dtype == b.dtype
    return alike and bool(((a == b) | (a != a) & (b != b)).all())


def close(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    """Whether tensors are equal up to rounding, integers exactly; NaN equals NaN."""
    return all(_close(a, b) for a, b in zip(first, second, strict=True))


def _close(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype or not a.is_floating_point():
        return _same(a, b)
    relative = max(1e-9, 64 * torch.finfo(a.dtype).eps)
    return torch.allclose(a, b, rtol=relative, atol=relative / 1000, equal_nan=True)


def difference(first: Sequence[Tensor], second: Sequence[Tensor]) -> str:
    """Describe where tensors differ most."""
    if [x.shape for x in first] != [x.shape for x in second]:
        return f"shapes {[tuple(x.shape) for x in first]}, not {[tuple(x.shape) for x in second]}"
    # Booleans cannot be subtracted.
    first, second = ([x.int() if x.dtype == torch.bool else x for x in y] for y in (first, second))
    errors = [(a - b).abs().double() for a, b in zip(first, second, strict=True)]
    largest = [e.nan_to_num(torch.inf).amax().item() if e.numel() else 0.0 for e in errors]
    k = max(range(len(largest)), key=largest.__getitem__, default=0)
    if not largest or largest[k] == 0:
        return "the same numbers in another dtype"
    where, a, b = worst_entry(first[k], second[k])
    of_several = f" of tensor {k}" if len(first) > 1 else ""
    return f"{a:.9g}, not {b:.9g}, in entry {where}{of_several}, where they differ most"


def worst_entry(first: Tensor, second: Tensor) -> tuple[list[int], float, float]:
    """Return the place where two tensors differ most, and both their numbers there."""
    error = (first - second).detach().abs().nan_to_num(torch.inf)
    place = [int(k) for k in torch.unravel_index(error.argmax(), error.shape)]
    return place, first[tuple(place)].item(), second[tuple(place)].item()


def first_nonfinite(tensors: Sequence[Tensor]) -> str | None:
    """Describe the first entry that is NaN or infinite, or return None."""
    for k, x in enumerate(tensors):
        bad = (~torch.isfinite(x)).nonzero()
        if len(bad):
            place = bad[0].tolist()
            of_several = f" of tensor {k}" if len(tensors) > 1 else ""
            value = x[tuple(place)].item()
            return f"{value} in entry {place}{of_several}; non-finite entries: {len(bad)}"
    return None


def weighted_sum(values: Sequence[Tensor]) -> Tensor:
    """Add up the values that have an autograd graph; without any, return a zero that has none.

    The summands have unequal weights, so that errors of opposite sign do not cancel.
    """
    terms = [(value * _weights(value)).sum() for value in values if value.requires_grad]
    return torch.stack(terms).sum() if terms else torch.zeros(())


def _weights(value: Tensor) -> Tensor:
    weights = torch.linspace(1, 2, value.numel(), dtype=value.dtype, device=value.device)
    return weights.view_as(value)


def _gradients(values: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    total = weighted_sum(values)
    if not total.requires_grad:
        return [torch.zeros_like(x) for x in inputs]
    return list(torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True))
