"""Rules for the values of a component: their shape, finiteness and precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from topoloss.errors import TopolossError
from topoloss.testing.checks import Subject, builds_on, foundation, on, require
from topoloss.testing.comparing import (
    close,
    difference,
    first_nonfinite,
    gradients,
    values_and_gradients,
    values_and_gradients_of,
    worst_entry,
)
from topoloss.testing.examples import Example

__all__ = ["finite", "layout", "precision", "scale", "shapes", "tiny"]

# Exponents of the powers of two that scale huge input: about 1e30 and 1e150, whose squares
# overflow.
_HUGE = {torch.float32: 100, torch.float64: 498}
# Exponents of the scales at which growth is measured; some values stop growing at a limit.
_SMALLER = (0, 1, 2, 40, 41)


@foundation
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


@foundation
@builds_on("precision")
def layout(subject: Subject) -> None:
    """The input's layout in memory makes no difference: transposed, strided or at an offset."""
    example = subject.kind.generic(subject.make(), subject.seed)
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "transposed in memory": lambda x: x.mT.contiguous().mT if x.ndim > 1 else x,
        "every other entry of a larger tensor": _every_other,
        "at an offset in a larger tensor": lambda x: torch.cat((x + 1, x))[len(x) :],
    }
    # A component may draw random numbers at each call, so each call here is of a new component.
    expected = values_and_gradients(subject, subject.make(), example)
    for way, lay_out in ways.items():
        with on(f"{example.name}, {way}", mend="call x.contiguous() before you read raw memory"):

            def laid_out(
                *tensors: Tensor, lay_out: Callable[..., Tensor] = lay_out
            ) -> list[Tensor]:
                return subject.kind.apply_all(subject.make(), *map(lay_out, tensors))

            received = values_and_gradients_of(laid_out, example)
            require(
                close(received, expected),
                expected="the values and gradients of contiguous input",
                received=difference(received, expected),
                mend="call x.contiguous() before you read raw memory",
            )


@foundation
def finite(subject: Subject) -> None:
    """Values are finite, also for ties, duplicates, constants and the smallest sizes."""
    component = subject.make()
    special = subject.kind.special(component)
    for example in (subject.kind.generic(component, subject.seed), *special):
        with on(example.name):
            values = subject.kind.apply(component, *example.tensors)
            bad = first_nonfinite(values)
            require(
                bad is None,
                expected="finite values",
                received=bad,
                mend="guard the argument of the division, root or logarithm with torch.where",
            )


def precision(subject: Subject) -> None:
    """Every floating dtype works, and gets at least half of its digits right.

    Values are compared with those of float64 for the same, rounded input. A root keeps only half
    of the digits where its argument cancels; a filtration or loss without roots does better.
    In float64 the value must follow changes of the input that are too small for float32.
    Gradients in float32 must have half of their digits right too.
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
                _require_half_of_the_digits(
                    "a value",
                    value,
                    target,
                    dtype,
                    "compute in at least float32, and avoid the difference of nearly equal numbers",
                )
    _require_single_gradients(subject, component, example)
    with on(f"{example.name} in torch.float64"):
        _require_digits(lambda *x: subject.kind.apply(component.double(), *x), example)


def _require_single_gradients(subject: Subject, component: Any, example: Example) -> None:
    """Require float32 gradients to agree with those of float64 at the same rounded input."""
    single = replace(example, tensors=tuple(x.float() for x in example.tensors))
    double = replace(example, tensors=tuple(x.double() for x in single.tensors))
    with on(f"{example.name} in torch.float32"):
        exact = gradients(subject, component.double(), double)
        received = gradients(subject, component.float(), single)
        for gradient, target in zip(received, exact, strict=True):
            _require_half_of_the_digits(
                "a gradient",
                gradient,
                target,
                torch.float32,
                "do not detach part of the value in some dtypes only; a hand-written backward must "
                "be right in every dtype",
            )


def _require_half_of_the_digits(
    what: str, received: Tensor, exact: Tensor, dtype: torch.dtype, mend: str
) -> None:
    """Require half of the digits of a dtype, relative to the largest entry."""
    if not exact.numel():
        return
    bound = torch.finfo(dtype).eps ** 0.5 * exact.abs().amax()
    where, got, wanted = worst_entry(received.double(), exact)
    require(
        abs(got - wanted) <= bound,
        expected=f"{what} of {wanted:.9g} within {bound:.2g}, in entry {where}",
        received=f"{got:.9g}",
        mend=mend,
    )


@builds_on("finite", "precision")
def scale(subject: Subject) -> None:
    """Huge input, about 1e30 in float32 and 1e150 in float64, overflows in no intermediate result.

    A value that does not depend on the scale, or grows as a power of it (0.5, 1, 1.5, ...), for
    scales up to 2**41 must do the same here, as long as the dtype can hold it. A value that the
    dtype cannot hold may be refused with a `TopolossError`. Other values, and gradients where the
    value is finite, must not be NaN.
    """
    for dtype, exponent in _HUGE.items():
        component = subject.make().to(dtype)
        example = subject.kind.generic(component, subject.seed)

        def scaled(power: int, example: Example = example, dtype: torch.dtype = dtype) -> Example:
            tensors = tuple(x.to(dtype) * 2.0**power for x in example.tensors)
            return Example(f"{example.name} times 2**{power} in {dtype}", tensors)

        huge = scaled(exponent)
        with on(huge.name):
            smaller = [subject.kind.apply(component, *scaled(power).tensors) for power in _SMALLER]
            targets = [_extrapolated(each, exponent) for each in zip(*smaller, strict=True)]
            try:
                received = subject.kind.apply(component, *huge.tensors)
            except TopolossError:
                # A stage may refuse what its dtype cannot hold.
                if any(bool(torch.isinf(target).any()) for target in targets):
                    continue
                raise
            for value, target in zip(received, targets, strict=True):
                _require_scaled(value, target)
            if all(bool(torch.isfinite(value).all()) for value in received):
                of_input = gradients(subject, component, huge)
                require(
                    not any(bool(torch.isnan(g).any()) for g in of_input),
                    expected="a gradient without NaN",
                    received=first_nonfinite(of_input),
                    mend=_SCALE_MEND,
                )


@builds_on("finite", "precision", "scale")
def tiny(subject: Subject) -> None:
    """Tiny input, about 1e-30 in float32 and 1e-150 in float64, gives no NaN.

    Where the value is finite, the gradient must not hold NaN either.
    """
    for dtype, exponent in _HUGE.items():
        component = subject.make().to(dtype)
        generic = subject.kind.generic(component, subject.seed)
        tensors = tuple(x.to(dtype) * 2.0**-exponent for x in generic.tensors)
        example = Example(f"{generic.name} times 2**-{exponent} in {dtype}", tensors)
        with on(example.name):
            values = subject.kind.apply(component, *example.tensors)
            of_input = gradients(subject, component, example)
            finite = all(bool(torch.isfinite(value).all()) for value in values)
            for what, found in (("values", values), ("a gradient", of_input if finite else [])):
                require(
                    not any(bool(torch.isnan(x).any()) for x in found),
                    expected=f"{what} without NaN",
                    received=first_nonfinite(found),
                    mend="before you take squares, divide by the largest magnitude, "
                    "x.detach().abs().amax(), however small; guard only against exactly 0",
                )


_SCALE_MEND = (
    "before you take squares, divide by the largest magnitude, x.detach().abs().amax(), and "
    "multiply the result by it at the end"
)


def _extrapolated(at_smaller: Sequence[Tensor], exponent: int) -> Tensor:
    """Extrapolate values at smaller scales to 2**exponent; infinity where the dtype has no room.

    NaN marks values that grow as no power of the scale that is a multiple of 1/2.
    """
    one, two, four, large, larger = at_smaller
    pairs = (one, two), (two, four), (large, larger)
    halves = [2 * (after / before).double().log2() for before, after in pairs]
    power, digits = halves[0].round(), torch.finfo(one.dtype).eps ** 0.5
    # A value that already overflows at these scales is still required to grow by this power.
    halves[2] = torch.where(torch.isfinite(halves[2]), halves[2], power)
    is_power = torch.stack([(p - power).abs() < digits for p in halves]).all(0)
    target = one.double() * 2.0 ** (power / 2 * exponent)
    # Intermediate sums may be larger than the value.
    too_large = target.abs() > torch.finfo(one.dtype).max / 2**8
    return torch.where(is_power, torch.where(too_large, torch.inf, target), torch.nan)


def _require_scaled(value: Tensor, target: Tensor) -> None:
    known = torch.isfinite(target)
    limits = torch.finfo(value.dtype)
    bound = limits.eps**0.25 * torch.where(known, target, 0).abs() + limits.tiny
    right = torch.where(known, (value - target).abs() <= bound, ~torch.isnan(value))
    right |= torch.isinf(target)
    wrong = [tuple(place) for place in (~right).nonzero().tolist()]
    if wrong:
        place = wrong[0]
        extrapolated = f"{target[place]:.9g}, extrapolated from smaller scales"
        require(
            False,
            expected=extrapolated if known[place] else "no NaN",
            received=f"{value[place]:.9g} in entry {list(place)}",
            mend=_SCALE_MEND,
        )


def _every_other(x: Tensor) -> Tensor:
    return torch.stack((x, x + 1), -1).flatten(-2)[..., ::2]


def _require_digits(function: Callable[..., list[Tensor]], example: Example) -> None:
    """Require that values follow a relative change of the input by about 1e-9.

    The expected change is scaled down from a larger one, and a tenth of it may be wrong.
    Rounding to float32 would turn it into steps of 6e-8, or into none.
    """
    generator = torch.Generator().manual_seed(1)
    directions = [
        x * torch.randn(x.shape, dtype=x.dtype, generator=generator) for x in example.tensors
    ]

    def at(step: float) -> list[Tensor]:
        moved = (x + step * u for x, u in zip(example.tensors, directions, strict=True))
        return [value.detach() for value in function(*moved)]

    small, large = 1e-9, 1e-5
    for here, near, ahead, behind in zip(at(0), at(small), at(large), at(-large), strict=True):
        if not here.numel():
            continue
        expected = (ahead - behind) * (small / (2 * large))
        rounding = 1024 * torch.finfo(here.dtype).eps * here.abs().amax()
        where, got, wanted = worst_entry(near - here, expected)
        require(
            abs(got - wanted) <= 0.1 * expected.abs().amax() + rounding,
            expected=f"a change of the value by {wanted:.3g} in entry {where}, when the input "
            f"changes by about {small} of its size",
            received=f"a change by {got:.3g}, as if digits had been rounded away",
            mend="keep float64 throughout: no .float(), and no other dtype in between",
        )
