"""The rules for a sampler."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor

from topoloss.samplers import Sampler
from topoloss.testing import examples
from topoloss.testing.checks import Kind, NotApplicable, Subject, foundation, on, require
from topoloss.testing.common import devices, instances, numbers, purity
from topoloss.testing.examples import Example
from topoloss.testing.factories import why_without

__all__ = ["KIND"]

_SIZES = (1, 2, 3, 20, 41, 321)
_FRACTIONS = ("0.1", "0.29", "0.5", "1.0")


@foundation
def indices(subject: Subject) -> None:
    """The chosen neurons are int64 indices, ascending without repeats, for input of every dtype."""
    for neurons in _SIZES:
        example = examples.many(neurons, seed=subject.seed)
        for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
            with on(f"{example.name} in {dtype}"):
                chosen = subject.make().select(example.tensors[0].to(dtype))
                require(
                    chosen.dtype == torch.int64 and chosen.ndim == 1,
                    expected="int64 of shape (k,)",
                    received=f"{chosen.dtype} of shape {tuple(chosen.shape)}",
                    mend="return indices, and not a mask",
                )
                listed = chosen.tolist()
                require(
                    listed == sorted(set(listed)) and set(listed) <= set(range(neurons)),
                    expected=f"ascending indices from 0 to {neurons - 1}, each at most once",
                    received=listed,
                    mend="draw without replacement and sort: indices.sort().values",
                )


@foundation
def determinism(subject: Subject) -> None:
    """Two samplers with the same options choose the same neurons, layer by layer."""
    example = _generic(None, subject.seed)
    with on(example.name):
        samplers = subject.make(), subject.make()
        first, second = ([s.select(*example.tensors) for _ in range(3)] for s in samplers)
        require(
            all(map(torch.equal, first, second)),
            expected=f"{first}, as the other sampler chose",
            received=second,
            mend="draw from a torch.Generator with a seed that is an option",
        )


def fraction(subject: Subject) -> None:
    """With the option `fraction` it chooses fraction * n neurons, rounded up or down.

    The fraction counts as the decimal number that was written: 0.29 of 100 is 29.
    """
    reason = why_without(subject.factory, "fraction", 1.0)
    if reason:
        raise NotApplicable(reason)
    for written in _FRACTIONS:
        with on(f"the factory, with fraction={written}"):
            sampler = subject.make(fraction=float(written))
        for neurons in (10, 100, 1000):
            example = examples.many(neurons, seed=subject.seed)
            with on(f"fraction={written} of {example.name}"):
                exact = Fraction(written) * neurons
                chosen = sampler.select(example.tensors[0])
                require(
                    len(chosen) in (math.floor(exact), math.ceil(exact)),
                    expected=f"{float(exact):g} neurons, rounded up or down",
                    received=f"{len(chosen)}",
                    mend="multiply by fractions.Fraction(str(fraction)): as floats, 0.29 * 100 is "
                    "below 29",
                )


def _generic(sampler: Sampler | None, seed: int) -> Example:
    return examples.generic(40, 30, seed)


def _apply(sampler: Sampler, x: Tensor) -> list[Tensor]:
    return [sampler.select(x.detach())]


KIND = Kind(
    base=Sampler,
    generic=_generic,
    special=lambda sampler: [],
    apply=_apply,
    rules=(
        instances.construction,
        indices,
        purity.input_unchanged,
        determinism,
        numbers.layout,
        purity.random_state,
        fraction,
        instances.pickling,
        instances.deepcopy,
        devices.device,
        devices.cuda,
    ),
)
