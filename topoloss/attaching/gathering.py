"""Gather what is spread over processes: activations of a global batch, and sharded weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor, nn

from topoloss.errors import AttachmentError
from topoloss.processes import Processes

__all__ = ["Gathering", "check_whole", "whole"]

# The name, samples, neurons and dtype of a layer.
_Shape: TypeAlias = tuple[str, int, int, str]
# In the message each layer begins at a multiple of this many bytes: numbers of every dtype may be
# read from such an address.
_ALIGNED = 16


class Gathering:
    """The layers of the latest forward pass, with the samples of all processes.

    Parameters
    ----------
    processes : Processes

    Notes
    -----
    The activations of a pass are gathered once, however often they are asked for. So one process
    may ask again by itself.

    Processes tell each other the shapes of their layers, and then send the layers in one message.
    Once the shapes were the same twice in a row, the message is sent without them. It then says
    whether its process has these shapes again. If one does not, or has failed, all send shapes.
    """

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self._packing: _Packing | None = None
        self._settled = False
        self.forget()

    def forget(self) -> None:
        """Free what was gathered."""
        self._token: object = None
        self._gathered: dict[bool, dict[str, Tensor]] = {}

    def of_pass(self, token: object, own: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Gather layers along the samples, in the order of the ranks.

        Parameters
        ----------
        token : object
            A different object for each forward pass.
        own : callable
            Returns this process's layers, (samples, neurons) each. If it raises, the other
            processes are told.
        """
        if token is not self._token or token is None:
            self.forget()
            self._token = token
        gradients = torch.is_grad_enabled()
        for kind in (True, gradients):
            if kind in self._gathered:
                return self._gathered[kind]
        self._gathered[gradients] = self._exchanged(own)
        return self._gathered[gradients]

    def _exchanged(self, own: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        layers: dict[str, Tensor] = {}
        failure: Exception | None = None
        try:
            layers = own()
        except Exception as error:  # raised below, once the others know of it
            failure = error

        def shapes() -> list[_Shape]:
            if failure is not None:
                raise failure
            return _shapes(layers)

        packing = self._packing if self._settled else None
        found = None if packing is None else packing.exchange(layers, self.processes)
        if packing is None or found is None:
            known, self._packing, self._settled = self._packing, None, False
            every = self.processes.all_gather(shapes)
            _check_alike(every)
            self._packing = packing = _Packing(every, layers)
            self._settled = known is not None and known.every == every
            found = packing.exchange(layers, self.processes)
            assert found is not None
        start = [sum(counts[: self.processes.rank]) for counts in packing.counts]
        return {
            name: _Joined.apply(x, rows, first, self.processes.size)  # type: ignore[no-untyped-call]
            for (name, x), rows, first in zip(layers.items(), found, start, strict=True)
        }

    def __reduce__(self) -> tuple[type[Gathering], tuple[Processes]]:
        return Gathering, (self.processes,)


class _Packing:
    """Where in a message each layer lies, given the shapes of the layers in all processes.

    Parameters
    ----------
    every : sequence of list of _Shape
        For each rank the same layers, with its own numbers of samples.
    layers : dict of str to Tensor
        The layers of this process.
    """

    def __init__(self, every: Sequence[list[_Shape]], layers: dict[str, Tensor]) -> None:
        self.every = every
        self.counts = [[shape[1] for shape in of_layer] for of_layer in zip(*every, strict=True)]
        self._device = next(iter(layers.values())).device
        # In the first bytes a process says whether its layers have these shapes.
        self._slots, self._bytes = [], _ALIGNED
        for x, counts in zip(layers.values(), self.counts, strict=True):
            self._slots.append((self._bytes, max(counts), x.shape[1], x.dtype))
            size = max(counts) * x.shape[1] * x.element_size()
            self._bytes += -(-size // _ALIGNED) * _ALIGNED

    def exchange(self, layers: dict[str, Tensor], processes: Processes) -> list[Tensor] | None:
        """The rows of all processes, layer by layer; None if one of them has other shapes."""
        as_known = _shapes(layers) == self.every[processes.rank]
        # Bytes, filled up to one size: all processes must send tensors of one shape, and not every
        # group can send every dtype.
        message = torch.empty(self._bytes, dtype=torch.uint8, device=self._device)
        message[0] = as_known
        if as_known:
            for x, (start, *_) in zip(layers.values(), self._slots, strict=True):
                part = x.detach().contiguous().view(torch.uint8).flatten()
                message[start : start + len(part)] = part
        every = message.new_empty(processes.size, self._bytes)
        with processes.talking():
            dist.all_gather(list(every), message, processes.group)
        if not every[:, 0].all():
            return None
        found = []
        for x, counts, slot in zip(layers.values(), self.counts, self._slots, strict=True):
            start, most, n, dtype = slot
            rows = every[:, start : start + most * n * x.element_size()].view(dtype)
            parts = rows.reshape(len(rows), most, n)
            # Smaller batches do not fill their slots.
            joined = [part[:count] for part, count in zip(parts, counts, strict=True)]
            found.append(torch.cat(joined).to(x.device))
        return found


class _Joined(torch.autograd.Function):
    """Replaces the rows of this process by the rows of all processes.

    Every process computes the penalty on the same rows, and so knows the gradient of its own rows:
    nothing is sent in the backward pass. DDP and FSDP average the gradients of parameters over p
    processes, but these must be sums over all samples, hence the factor p.
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor, rows: Tensor, start: int, processes: int) -> Tensor:
        ctx.start, ctx.stop, ctx.processes = start, start + len(own), processes
        # A view, because an input returned as it is would be taken for one changed in place.
        return rows.view_as(rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return ctx.processes * gradient[ctx.start : ctx.stop], None, None, None


def _shapes(layers: dict[str, Tensor]) -> list[_Shape]:
    return [(name, *x.shape, str(x.dtype)) for name, x in layers.items()]


def _check_alike(every: Sequence[list[_Shape]]) -> None:
    """Raise unless all processes observe the same layers, of as many neurons and of one dtype."""
    expected = every[0]
    for rank, shapes in enumerate(every):
        names = [[name for name, *_ in those] for those in (shapes, expected)]
        if names[0] != names[1]:
            raise AttachmentError(
                f"rank {rank} observes the layers {names[0]}, and rank 0 {names[1]}; a group needs "
                "the same layers in every process. Run all of them through the same modules."
            )
        for (name, _, *here), (_, _, *there) in zip(shapes, expected, strict=True):
            if here != there:
                raise AttachmentError(
                    f"layer {name!r} has {here[0]} neurons in {here[1]} on rank {rank}, and "
                    f"{there[0]} in {there[1]} on rank 0; in a group only the number of samples "
                    "may differ among processes."
                )


def whole(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights or parameters, each gathered if it is sharded.

    Raises
    ------
    AttachmentError
        For one that holds no numbers (on the meta device), or is quantised.
    """
    return {name: _whole(name, tensor) for name, tensor in tensors.items()}


def _whole(name: str, tensor: Tensor) -> Tensor:
    kind = type(tensor).__name__
    if tensor.is_meta:
        raise AttachmentError(
            f"{name!r} is on the meta device and holds no numbers; load the model before you ask "
            "for the penalty."
        )
    quantised = tensor.is_quantized or "quant" in f"{type(tensor).__module__}.{kind}".lower()
    if quantised or not (tensor.is_floating_point() or tensor.is_complex()):
        raise AttachmentError(
            f"{name!r} is quantised ({kind} of {tensor.dtype}), and its numbers are not those that "
            "the layer multiplies by; choose other layers with layers=, or attach to a model that "
            "is not quantised."
        )
    if kind == "DTensor":
        gathered: Tensor = tensor.full_tensor()  # type: ignore[attr-defined]
        return gathered
    return tensor


def check_whole(model: nn.Module, chosen: Sequence[str] | None) -> None:
    """Raise if a module keeps its weights in flat parts (FSDP) or packed (quantised).

    Parameters
    ----------
    model : Module
    chosen : sequence of str, optional
        Names of modules; by default all.
    """
    for name, module in model.named_modules():
        if type(module).__name__ == "FullyShardedDataParallel":
            raise AttachmentError(
                f"module {name!r} is FullyShardedDataParallel, whose parameters are flat parts of "
                "weights; shard the model with torch.distributed.fsdp.fully_shard instead, whose "
                "weights are gathered."
            )
        # Look at the class: to read a parametrised weight from the module would compute it.
        by_call = inspect.isfunction(getattr(type(module), "weight", None))
        packed = by_call or hasattr(module, "qweight")
        if packed and (chosen is None or name in chosen):
            raise AttachmentError(
                f"module {name!r} of type {type(module).__name__} is quantised: its weight is "
                "packed, and would be left out. Choose other layers with layers=, or attach to a "
                "model that is not quantised."
            )
