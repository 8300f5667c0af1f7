"""The rules for a sampler."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from topoloss.errors import OptionError
from topoloss.samplers import Sampler
from topoloss.testing import examples
from topoloss.testing.checks import Kind, NotApplicable, Subject, on, require
from topoloss.testing.common import devices, instances, purity
from topoloss.testing.examples import Example

__all__ = ["KIND"]

_SIZES = (1, 2, 3, 20)
_FRACTIONS = ("0.1", "0.29", "0.5", "1.0")


def indices(subject: Subject) -> None:
    """The chosen neurons are int64 indices, ascending and each once, in every dtype."""
    for neurons in _SIZES:
        example = examples.generic(24, neurons, subject.seed)
        for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
            with on(f"{example.name} in {dtype}"):
                chosen = subject.make().select(example.activations.to(dtype))
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


def determinism(subject: Subject) -> None:
    """Two samplers with the same options choose the same neurons, layer by layer."""
    example = _generic(None, subject.seed)
    with on(example.name):
        samplers = subject.make(), subject.make()
        first, second = ([s.select(*example.tensors) for _ in range(3)] for s in samplers)
        require(
            all(map(torch.equal, first, second)),
            expected=f"{first}, as chosen by the other",
            received=second,
            mend="draw from a torch.Generator with a seed that is an option",
        )


def fraction(subject: Subject) -> None:
    """With the option `fraction` it chooses floor(fraction * n) neurons, in exact decimals."""
    try:
        subject.make(fraction=1.0)
    except (OptionError, TypeError) as error:
        raise NotApplicable(f"it has no option fraction: {error}") from error
    for written in _FRACTIONS:
        sampler = subject.make(fraction=float(written))
        for neurons in (10, 100):
            example = examples.generic(neurons + 1, neurons, subject.seed)
            with on(f"fraction={written} of {example.name}"):
                count = Fraction(written) * neurons // 1
                chosen = sampler.select(example.activations)
                require(
                    len(chosen) == count,
                    expected=f"{count} neurons",
                    received=f"{len(chosen)}",
                    mend="multiply by fractions.Fraction(str(fraction)): 0.29 * 100 is below 29",
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
        purity.input_unchanged,
        determinism,
        purity.random_state,
        indices,
        fraction,
        instances.pickling,
        instances.deepcopy,
        devices.cuda,
    ),
)
