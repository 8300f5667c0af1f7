"""The rule for how many samples a component of activations is given."""

from __future__ import annotations

import torch
from torch import Tensor

from topoloss.errors import TopolossError
from topoloss.testing import examples
from topoloss.testing.checks import NotApplicable, Subject, builds_on, on, require
from topoloss.testing.comparing import first_nonfinite, same

__all__ = ["SCALES", "samples"]

_MANY = 130
# Some of these make a number an extreme, or none.
SCALES = (1, 2**10, 2**-10)


@builds_on("finite")
def samples(subject: Subject) -> None:
    """Of many samples both halves count, and one sample alone gives finite values.

    A component that needs several samples may raise a `TopolossError` that says so.
    """
    component = subject.make()
    if component.source != "activations":
        raise NotApplicable(f"it takes {component.source}, and no samples")
    layers = subject.kind.generic(component, subject.seed).tensors
    drawn, others = (
        [
            examples.many(x.shape[1], _MANY, subject.seed + 2 * k + second).tensors[0]
            for k, x in enumerate(layers)
        ]
        for second in (0, 1)
    )

    def values_of(tensors: list[Tensor]) -> list[Tensor]:
        return subject.kind.apply(component, *tensors)

    with on(f"{_MANY} samples of torch.randn, seed={subject.seed}"):
        values = values_of(drawn)
        depends = not same(values_of(others), values)
        late = torch.arange(_MANY)[:, None] >= _MANY // 2
        for what, replaced in (("first", ~late), ("second", late)):
            # Other numbers of that size change no extreme that the other half has.
            mixed = (
                [torch.where(replaced, y * scale, x) for x, y in zip(drawn, others, strict=True)]
                for scale in SCALES
            )
            require(
                not depends or any(not same(values_of(tensors), values) for tensors in mixed),
                expected=f"another value for some other numbers in the {what} half of the samples",
                received="the same value",
                mend="use every sample: look for a cut at a fixed number of them",
            )
    with on("one sample"):
        try:
            values = values_of([x[:1] for x in drawn])
        except TopolossError:
            return
        bad = first_nonfinite(values)
        require(
            bad is None,
            expected="finite values, or a topoloss.InputError",
            received=bad,
            mend="divide by the number of samples, and not by one less; or raise a "
            "topoloss.InputError that says how many samples are needed",
        )
