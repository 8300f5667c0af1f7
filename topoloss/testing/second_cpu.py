"""A stand-in for a GPU: tensors that claim to be on a second CPU, and refuse others.

Without a GPU nobody notices a component that makes a tensor on the CPU instead of on the device of
its input. Here the input claims to be on `SECOND_CPU`, while its numbers stay on the CPU. Every
operation works, but an operation refuses tensors on two devices where a GPU would refuse them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["SECOND_CPU", "move_module", "moved", "moved_back", "second_cpu", "was_moved"]

SECOND_CPU = torch.device("cpu", 1)

_aten = torch.ops.aten
# On a GPU these take CPU indices, or copy between devices.
_INDEXING = (_aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_)
_COPYING = (_aten.copy_, _aten._to_copy)
# Like pointwise operations, these take a tensor of shape () on the CPU as a number.
_TAKING_NUMBERS = (
    *(_aten.fill, _aten.fill_, _aten.masked_fill, _aten.masked_fill_, _aten.index_fill),
    *(_aten.index_fill_, _aten.index_put, _aten.index_put_, _aten._index_put_impl_, _aten.rsub),
)
_FROM_NUMBERS = (torch.tensor, torch.as_tensor, torch.asarray)


@contextmanager
def second_cpu() -> Iterator[None]:
    """Let `SECOND_CPU` be a device that tensors can be made on and moved to."""
    with _MakesTensors(), _Operations():  # type: ignore[no-untyped-call]
        yield


def moved(x: Tensor) -> Tensor:
    """Copy a tensor to `SECOND_CPU`, as a leaf."""
    away: Tensor = _Moved(x.detach().clone())
    return away.requires_grad_(x.requires_grad)


def was_moved(x: Tensor) -> bool:
    return isinstance(x, _Moved)


def moved_back(x: Tensor) -> Tensor:
    """Return the numbers of a tensor on `SECOND_CPU`."""
    return x.numbers if isinstance(x, _Moved) else x


def move_module(module: nn.Module) -> None:
    """Move parameters and buffers to `SECOND_CPU`; other tensors stay, as in `Module.to`."""
    for part in module.modules():
        for name, p in list(part.named_parameters(recurse=False)):
            delattr(part, name)
            part.register_parameter(name, nn.Parameter(moved(p), requires_grad=p.requires_grad))
        for name, buffer in list(part.named_buffers(recurse=False)):
            setattr(part, name, moved(buffer))


class _Moved(Tensor):
    """A tensor that claims to be on `SECOND_CPU`; `numbers` is the tensor on the CPU behind it."""

    numbers: Tensor

    @staticmethod
    def __new__(cls, numbers: Tensor) -> Any:
        return Tensor._make_wrapper_subclass(
            cls,
            numbers.size(),
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            device=SECOND_CPU,
        )

    def __init__(self, numbers: Tensor) -> None:
        self.numbers = numbers

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, operation: Any, types: object, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(operation, args, kwargs or {})

    # These methods read the numbers without going through torch's dispatcher.

    def tolist(self) -> Any:
        return self.numbers.tolist()

    def __repr__(self, **options: Any) -> str:  # type: ignore[override]
        return f"{self.numbers!r} on {SECOND_CPU}"

    def __format__(self, spec: str) -> str:
        return format(self.numbers.detach(), spec)


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Run operations without tensor arguments, such as torch.zeros, on the requested device."""

    def __torch_dispatch__(
        self, operation: Any, types: object, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(operation, args, kwargs or {})


class _MakesTensors(TorchFunctionMode):
    """Let torch.tensor([...], device=...) and x.new_tensor([...]) make tensors on `SECOND_CPU`."""

    def __torch_function__(
        self, function: Any, types: object, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        of_given = function is Tensor.new_tensor
        device = kwargs.get("device", args[0].device if of_given else None)
        if (of_given or function in _FROM_NUMBERS) and _is_second(device):
            kwargs.pop("device", None)
            args, kwargs = tree_map(moved_back, (args, kwargs))
            return function(*args, **kwargs).to(SECOND_CPU)
        return function(*args, **kwargs)


def _refused_at_home(operation: Any, args: Sequence[Any], tensors: list[Tensor]) -> list[Tensor]:
    """Return the CPU tensors that an operation on GPU tensors would refuse."""
    at_home = [x for x in tensors if not isinstance(x, _Moved)]
    name = operation.overloadpacket
    if name in _COPYING:
        return []
    if name in _INDEXING and isinstance(args[0], _Moved):
        indices = {id(i) for i in args[1]}
        at_home = [x for x in at_home if id(x) not in indices]
    if name in _TAKING_NUMBERS or torch.Tag.pointwise in operation.tags:
        return [x for x in at_home if x.ndim > 0]
    return at_home


def _is_second(device: Any) -> bool:
    return device is not None and torch.device(device) == SECOND_CPU


def _run(operation: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Run an operation on the numbers, and return tensors on the device where it should run."""
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    away = [x for x in tensors if isinstance(x, _Moved)]
    at_home = _refused_at_home(operation, args, tensors)
    if away and at_home:
        raise RuntimeError(
            f"{operation} was given a tensor of shape {tuple(at_home[0].shape)} on cpu, and "
            f"one of shape {tuple(away[0].shape)} on {SECOND_CPU}, the device of the input"
        )
    to_second = bool(away)
    if kwargs.get("device") is not None:
        to_second = _is_second(kwargs["device"])
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if operation is _aten._efficientzerotensor.default:
        operation = _aten.zeros.default  # a tensor without storage would be read as if it had one
    made = operation(*tree_map(moved_back, args), **tree_map(moved_back, kwargs))
    if not to_second:
        return made
    # An in-place operation returns the same tensor that it was given.
    given = {id(moved_back(x)): x for x in tensors}

    def to_device(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        return given[id(x)] if id(x) in given else _Moved(x)

    return tree_map(to_device, made)
