"""The rule that a component uses all of its input, and accepts one sample."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from topoloss.errors import TopolossError
from topoloss.testing import examples
from topoloss.testing.checks import Subject, builds_on, on, require
from topoloss.testing.comparing import first_nonfinite, same
from topoloss.testing.examples import Example

__all__ = ["SCALES", "samples"]

_MANY = 130
# Replaced numbers are scaled by these, as a value may depend on the largest or smallest alone.
SCALES = (1, 2**10, 2**-10)


@builds_on("finite")
def samples(subject: Subject) -> None:
    """Both halves of many samples affect the value, and a single sample gives finite values.

    A component that needs several samples may raise a `TopolossError` that says so. For weights
    and parameters both halves of each row must affect the value.
    """
    component = subject.make()
    of_samples = component.source == "activations"
    drawn, others = (_many(subject, component, second) for second in (0, 1))

    def values_of(tensors: Iterable[Tensor]) -> list[Tensor]:
        return subject.kind.apply(component, *tensors)

    what = "of the samples" if of_samples else "of each row"
    with on(f"{_MANY} samples of torch.randn, seed={subject.seed}" if of_samples else drawn.name):
        values = values_of(drawn.tensors)
        depends = not same(values_of(others.tensors), values)
        for second in (False, True):
            # Other numbers of the same size may not change an extreme, if it is in the other half.
            mixed = (
                [
                    torch.where(_half(x, of_samples) == second, y * scale, x)
                    for x, y in zip(drawn.tensors, others.tensors, strict=True)
                ]
                for scale in SCALES
            )
            require(
                not depends or any(not same(values_of(tensors), values) for tensors in mixed),
                expected="a value that changes with the numbers in the "
                f"{'second' if second else 'first'} half {what}",
                received="a value that does not change",
                mend="use the whole input: look for a limit on its length",
            )
    if not of_samples:
        return
    with on("one sample"):
        try:
            values = values_of(x[:1] for x in drawn.tensors)
        except TopolossError:
            return
        bad = first_nonfinite(values)
        require(
            bad is None,
            expected="finite values, or a topoloss.InputError",
            received=bad,
            mend="divide by the number of samples, not by one less; or raise a "
            "topoloss.InputError that says how many samples are needed",
        )


def _many(subject: Subject, component: Any, second: int) -> Example:
    """Return many samples of each layer, or large weights or parameters."""
    if component.source != "activations":
        return subject.kind.large(component, subject.seed + second)[0]
    layers = subject.kind.generic(component, subject.seed).tensors
    drawn = [
        examples.many(x.shape[1], _MANY, subject.seed + 2 * k + second).tensors[0]
        for k, x in enumerate(layers)
    ]
    return Example("", tuple(drawn))


def _half(x: Tensor, of_samples: bool) -> Tensor:
    """Return a mask of the second half of the samples, or of the entries of each row."""
    size = len(x) if of_samples else x.shape[-1]
    late = torch.arange(size) >= size // 2
    return late[:, None] if of_samples else late
