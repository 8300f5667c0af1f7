"""Check input, and handle NaN and infinity in it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from topoloss.errors import InputError, NonFiniteError, check_choice, check_flag, shown

__all__ = ["Guarded", "check_activations", "check_finite", "check_named", "describe"]

# Several threads may use one module. Not an attribute: a lock can be neither copied nor pickled.
_COUNTING = threading.Lock()
_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class Guarded(nn.Module):
    """A module that looks for NaN and infinity in what it is given.

    Parameters
    ----------
    on_nonfinite, check_finite
        As for :class:`topoloss.Regulariser`.
    """

    skipped: Tensor

    def __init__(self, on_nonfinite: Literal["raise", "skip"], check_finite: bool | None) -> None:
        super().__init__()
        check_choice("on_nonfinite", on_nonfinite, ("raise", "skip"))
        if check_finite is not None:
            check_flag("check_finite", check_finite)
        self.on_nonfinite = on_nonfinite
        self.check_finite = check_finite
        self.register_buffer("skipped", torch.zeros((), dtype=torch.int64), persistent=False)
        self._nonfinite_neurons: Tensor | _OnItsWay | None = None

    def guard(self, activations: object) -> tuple[Tensor, Tensor | None]:
        """Return checked activations, and a mask of the elements to value, or None for all."""
        x = check_activations(activations)
        # Inside vmap or grad we may neither branch on a value nor store a tensor.
        transformed = bool(torch._C._are_functorch_transforms_active())
        if self.on_nonfinite == "skip":
            finite = torch.isfinite(x.detach()).flatten(-2).all(-1)
            if not transformed:
                self._count((~finite).sum())
            # The input is masked, not the result: zero times NaN is NaN in the backward pass.
            return torch.where(finite[..., None, None], x, torch.zeros_like(x)), finite
        if not transformed:
            at_once = self.check_finite
            if at_once is None:
                at_once = x.device.type == "cpu" and not torch.compiler.is_compiling()
            if at_once:
                check_finite(x)
            else:
                self._raise_later(x)
        return x, None

    def _count(self, skipped: Tensor) -> None:
        if torch.compiler.is_compiling():  # a compiled graph cannot take a lock
            self.skipped = self.skipped.to(skipped.device) + skipped
            return
        with _COUNTING:
            self.skipped = self.skipped.to(skipped.device) + skipped

    def _raise_later(self, x: Tensor) -> None:
        # Inside a compiled or captured graph the count cannot be read; the next eager call does it.
        in_graph = torch.compiler.is_compiling() or (
            x.is_cuda and torch.cuda.is_current_stream_capturing()
        )
        if self._nonfinite_neurons is not None and not in_graph:
            earlier, self._nonfinite_neurons = int(self._nonfinite_neurons), None
            if earlier:
                raise NonFiniteError(
                    f"{earlier} neurons held NaN or infinity in the call before this one; "
                    "check_finite=True finds them at once, on_nonfinite='skip' skips such steps."
                )
        nonfinite = (~torch.isfinite(x.detach())).any(-2).sum()
        self._nonfinite_neurons = nonfinite if in_graph else _OnItsWay(nonfinite)


class _OnItsWay:
    """An integer whose copy to the host is queued after the device's work so far.

    Reading it waits for that work only, not for what was launched later.
    """

    def __init__(self, number: Tensor) -> None:
        self._number = number.to("cpu", non_blocking=True)
        self._arrival: torch.cuda.Event | None = None
        if number.is_cuda:
            self._arrival = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrival.record(torch.cuda.current_stream(number.device))

    def __int__(self) -> int:
        if self._arrival is not None:
            self._arrival.synchronize()
        return int(self._number)

    def __reduce__(self) -> tuple[type[_OnItsWay], tuple[Tensor]]:
        # An event can be neither copied nor pickled.
        return _OnItsWay, (torch.tensor(int(self)),)


def check_activations(x: object) -> Tensor:
    """Return `x` if it is a floating-point tensor (samples, neurons), or a batch of these."""
    expected = "expected a floating-point tensor (samples, neurons) or (batch, samples, neurons)"
    if isinstance(x, Mapping):
        raise InputError(f"{describe(x)} was given; {expected}. For layers by name use of_layers.")
    if not isinstance(x, Tensor):
        raise InputError(f"{describe(x)} was given; {expected}.")
    if x.is_nested:
        raise InputError(
            f"a nested tensor was given; {expected}: pass its parts as a list, x.unbind()."
        )
    if x.is_meta or type(x).__name__ == "FakeTensor":
        raise InputError(
            f"a tensor of shape {tuple(x.shape)} was given that holds no values (meta or fake); "
            f"{expected} with values."
        )
    if x.ndim not in (2, 3):
        hint = " Flatten each sample: x.flatten(1)." if x.ndim > 3 else ""
        raise InputError(f"a tensor of shape {tuple(x.shape)} was given; {expected}.{hint}")
    if x.layout != torch.strided:
        raise InputError(
            f"a {x.layout} tensor was given; {expected}: convert it with x.to_dense()."
        )
    if x.dtype not in _FLOATS:
        remedy = "take x.real or x.abs()" if x.is_complex() else "convert it with x.float()"
        raise InputError(f"a tensor of dtype {x.dtype} was given; {expected}: {remedy}.")
    if 0 in x.shape:
        axis = ("batch", "samples", "neurons")[-x.ndim :][list(x.shape).index(0)]
        raise InputError(
            f"a tensor of shape {tuple(x.shape)} was given, with no {axis}; expected at least one."
        )
    return x


_EXPECTED = {
    "activations": "a mapping from each layer's name to its activations (samples, neurons)",
    "weights": "a mapping from each layer's name to its weight (fan_out, fan_in, ...)",
    "parameters": "a mapping from names to parameters, such as dict(model.named_parameters())",
}


def check_named(
    given: object, source: Literal["activations", "weights", "parameters"], regulariser: str
) -> Mapping[str, Tensor]:
    """Return `given` if it is a mapping from names to tensors."""
    if isinstance(given, Mapping):
        wrong = next((n for n, x in given.items() if not isinstance(x, Tensor) or x.is_meta), None)
        if wrong is None:
            return given
        no_values = " that holds no values (meta)" if isinstance(given[wrong], Tensor) else ""
        was_given = f"{describe(given[wrong])}{no_values} for {wrong!r}"
    else:
        was_given = describe(given)
    raise InputError(
        f"{regulariser} takes {source} and was given {was_given}; pass {_EXPECTED[source]}, or "
        "let topoloss.attach(model, ...) take them out of the model."
    )


def check_finite(x: Tensor) -> None:
    """Raise a `NonFiniteError` that counts the neurons that hold NaN or infinity."""
    x = x.detach()
    # A finite sum proves that every entry is finite, without an array of flags.
    if torch.isfinite(x.sum(dtype=torch.promote_types(x.dtype, torch.float32))):
        return
    nan = torch.isnan(x).any(-2)
    bad = (~torch.isfinite(x)).any(-2)
    if bad.any():
        raise NonFiniteError(
            f"{int(bad.sum())} of {bad.numel()} neurons hold NaN or infinity "
            f"({int(nan.sum())} hold NaN) in activations of shape {tuple(x.shape)}; "
            "lower the learning rate or the penalty's weight, or pass on_nonfinite='skip'."
        )


def describe(given: object) -> str:
    """Say in a few words what was given, for an error message."""
    if isinstance(given, Tensor):
        return f"a tensor of shape {tuple(given.shape)}"
    if isinstance(given, nn.Module):
        return f"a module of type {type(given).__name__}"
    if isinstance(given, (list, tuple)) and given:
        return (
            f"a {type(given).__name__} of {len(given)}, the first of which is {describe(given[0])}"
        )
    if hasattr(given, "shape"):
        return f"something of type {type(given).__name__} and shape {given.shape}"
    return f"{shown(given)} of type {type(given).__name__}"
