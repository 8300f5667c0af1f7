"""What values a component gives: their shape, that they are finite, and how exact they are."""

from __future__ import annotations

import torch

from topoloss.testing.checks import Subject, on, require

__all__ = ["finite", "precision", "shapes"]


def shapes(subject: Subject) -> None:
    """The value has shape (), whatever the size of the input."""
    component = subject.make()
    special = subject.kind.special(component)
    for example in (subject.kind.generic(component, subject.seed), *special):
        with on(example.name):
            (value,) = subject.kind.apply(component, *example.tensors)
            require(
                value.shape == (),
                expected="one number, of shape ()",
                received=f"shape {tuple(value.shape)}",
                mend="sum or average over neurons, pairs or points",
            )


def finite(subject: Subject) -> None:
    """Ties, duplicates, constants and the smallest sizes have finite values."""
    component = subject.make()
    for example in subject.kind.special(component):
        with on(example.name):
            for value in subject.kind.apply(component, *example.tensors):
                require(
                    torch.isfinite(value).all(),
                    expected="finite values",
                    received=value,
                    mend="guard the division or the root before it is taken, with torch.where "
                    "on its argument",
                )


def precision(subject: Subject) -> None:
    """Every floating dtype works, and gets at least half of its digits right.

    The comparison is with float64 on the same, rounded input. Half of the digits is what
    a root leaves where its argument cancels; a filtration or loss without roots does better.
    """
    component = subject.make()
    example = subject.kind.generic(component, subject.seed)
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        with on(f"{example.name} in {dtype}", mend="promote half precision to float32 first"):
            rounded = [x.to(dtype) for x in example.tensors]
            exact = subject.kind.apply(component.double(), *(x.double() for x in rounded))
            values = subject.kind.apply(component.to(dtype), *rounded)
            allowed = (dtype,) if dtype.itemsize > 2 else (dtype, torch.float32)
            for value, target in zip(values, exact, strict=True):
                require(
                    value.dtype in allowed,
                    expected=f"values of {' or '.join(map(str, allowed))}",
                    received=f"values of {value.dtype}",
                    mend="compute in the dtype of the input, half precision in float32",
                )
                scale = target.abs().amax() if target.numel() else 0
                bound = torch.finfo(dtype).eps ** 0.5 * scale
                error = (value.double() - target).abs()
                require(
                    (error <= bound).all(),
                    expected=f"{target} within {bound:.2g}",
                    received=value,
                    mend="compute in at least float32, and avoid the difference of nearly equal "
                    "numbers",
                )
