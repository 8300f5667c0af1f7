"""Which modules read the outputs of which linear layers, and what lies between them.

A model is run once while each torch function that it calls is watched. The output of a linear layer
or convolution is followed through functions that treat each channel alone, up to the linear layers
that read it. If anything else reads it, the layer cannot lose channels, and the reason is noted.
Further runs find readers that no torch function shows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from topoloss.attaching.functions import tensors_in, tensors_within
from topoloss.pruning.data import Batch, run

__all__ = ["Reader", "Wire", "given_to", "weight_of", "wires"]

_LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

_ELEMENTWISE = frozenset(
    "relu relu_ relu6 leaky_relu leaky_relu_ elu elu_ celu celu_ selu selu_ gelu silu mish "
    "hardswish hardsigmoid hardtanh hardtanh_ hardshrink softshrink tanhshrink softsign softplus "
    "sigmoid sigmoid_ tanh tanh_ logsigmoid threshold threshold_ sin cos erf exp abs square sqrt "
    "neg clamp clamp_ clip add sub mul div true_divide pow rsub dropout dropout_ dropout1d "
    "dropout2d dropout3d alpha_dropout feature_alpha_dropout contiguous clone to float double half "
    "bfloat16 __add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __truediv__ __pow__ add_ mul_ "
    "sub_ div_ __iadd__ __imul__".split()
)
_POOLS = frozenset(
    f"{kind}_pool{axes}d"
    for kind in ("max", "avg", "lp", "adaptive_max", "adaptive_avg")
    for axes in (1, 2, 3)
)
_REDUCTIONS = frozenset(("mean", "sum", "amax", "amin"))
_SHAPES = frozenset(("flatten", "view", "reshape", "squeeze"))
_CONVOLUTIONS = frozenset(("conv1d", "conv2d", "conv3d"))
# Functions that depend on the metadata of a tensor, not on its values.
_METADATA = frozenset(
    "__get__ size dim ndimension numel nelement stride is_contiguous is_floating_point is_complex "
    "get_device __len__ element_size storage_offset __hash__ is_same_size".split()
)


@dataclass(frozen=True)
class Reader:
    """A linear module that reads the channels.

    Attributes
    ----------
    name : str
    columns : int
        How many columns of its weight belong to each channel: more than 1 after an image is
        flattened.
    pads : bool
        Whether it pads with zeros, so that even a constant channel is not constant at the border.
    """

    name: str
    columns: int
    pads: bool


@dataclass
class Wire:
    """The output of a linear module, and the modules that read it.

    Attributes
    ----------
    name : str
        The module.
    between : dict of str to int
        Modules on the way that have parameters for each channel, and how many entries of such a
        parameter belong to one channel.
    readers : list of Reader
    obstacle : str
        Why its channels cannot be cut, or an empty string.
    """

    name: str
    between: dict[str, int] = field(default_factory=dict)
    readers: list[Reader] = field(default_factory=list)
    obstacle: str = ""


def wires(model: nn.Module, batch: Batch) -> dict[str, Wire]:
    """Return a wire for each linear module of `model`, in the order of the pass.

    The model is expected in evaluation mode.
    """
    watch = _Watch(model)
    with torch.no_grad(), watch:
        outputs = run(model, batch)
    for tensor in tensors_within(outputs):
        watch.block(tensor, "is an output of the model")
    found = watch.wires
    for name, module in model.named_modules():
        if isinstance(module, _LINEAR) and not watch.calls[name]:
            found[name] = Wire(name, obstacle=watch.why_not_called(name, module))
    for wire in found.values():
        wire.obstacle = wire.obstacle or watch.obstacle(wire)
    free = [wire for wire in found.values() if not wire.obstacle]
    probe = _Probe(model, batch, {reader.name for wire in free for reader in wire.readers})
    for wire in free:
        if not probe.shows_all(wire):
            wire.obstacle = "is also read by something that cannot be seen"
    return found


@dataclass(frozen=True)
class _Flow:
    """Which wire's channels a tensor holds: along `axis`, `columns` entries for each channel."""

    wire: Wire
    axis: int
    columns: int


@dataclass(frozen=True)
class _Product:
    """A call of a linear function or of a convolution, whose channels lie along `axis`."""

    x: Tensor
    weight: Tensor
    axis: int
    groups: int
    batched: bool
    pads: bool

    @classmethod
    def of(
        cls, function: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor
    ) -> _Product:
        names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
        given = dict(zip(names, args, strict=False)) | kwargs
        x, weight = given["input"], given["weight"]
        if function == "linear":
            return cls(x, weight, result.ndim - 1, 1, x.ndim > 1, False)
        padding = given.get("padding", 0)
        return cls(x, weight, 1, given.get("groups", 1), x.ndim == weight.ndim, _pads(padding))

    @property
    def alone(self) -> bool:
        """Whether each channel is turned into one channel, by itself (a depthwise convolution)."""
        return 1 < self.groups == self.x.shape[1] == self.weight.shape[0] and self.batched


class _Watch(TorchFunctionMode):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.wires: dict[str, Wire] = {}
        self._flows: dict[int, _Flow] = {}
        # Keeps tensors alive: the id of a freed one may be used again.
        self._kept: list[Tensor] = []
        owners: dict[int, list[tuple[str, nn.Module]]] = {}
        for name, module in model.named_modules(remove_duplicate=False):
            for tensor in (*module._parameters.values(), *module._buffers.values()):
                if tensor is not None:
                    owners.setdefault(id(tensor), []).append((name, module))
        self._owners = owners
        self.calls: Counter[str] = Counter()
        # Modules whose parameters another function reads, and that function.
        self._other_uses: dict[str, str] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", str(func))
        reads = [t for t in tensors_in((args, kwargs)) if id(t) in self._flows]
        before = [tuple(t.shape) for t in reads]
        result = func(*args, **kwargs)
        if name == "linear" or name in _CONVOLUTIONS:
            self._multiplied(name, args, kwargs, result)
            return result
        tells = name in _METADATA and not any(True for _ in tensors_in((result,)))
        if not tells:
            self._note_owners(name, args, kwargs)
        if reads and not tells:
            after = self._flow_after(name, args, kwargs, reads, before[0], result)
            for tensor in reads:
                if after is None:
                    self.block(tensor, f"is read by {name}")
            # The result of an obstacle need not be followed.
            if after is not None:
                self._keep(result, after)
        return result

    def block(self, tensor: Tensor, reason: str) -> None:
        """Note that a tensor is read in a way that keeps its channels from being cut."""
        flow = self._flows.get(id(tensor))
        if flow is not None and not flow.wire.obstacle:
            flow.wire.obstacle = reason

    def obstacle(self, wire: Wire) -> str:
        """Why a wire cannot be cut, as is known only after the pass, or an empty string."""
        if not wire.readers:
            return "has no reader that was seen"
        for module in (wire.name, *wire.between, *(reader.name for reader in wire.readers)):
            its = "" if module == wire.name else f"is followed by {module!r}, which "
            if self.calls[module] > 1:
                return f"{its}is called more than once"
            if module in self._other_uses:
                return f"{its}has parameters that {self._other_uses[module]} reads, too"
        return ""

    def why_not_called(self, name: str, module: nn.Module) -> str:
        """Why no function was seen that multiplies by the weight of this module."""
        weight = module._parameters.get("weight")
        if weight is None:
            return "computes its weight from other parameters"
        others = [owner for owner, _ in self._owners[id(weight)] if owner != name]
        return f"shares its weight with {others[0]!r}" if others else "was not called"

    def _keep(self, tensor: Tensor, flow: _Flow) -> None:
        self._flows[id(tensor)] = flow
        self._kept.append(tensor)

    # Linear layers

    def _multiplied(
        self, function: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor
    ) -> None:
        product = _Product.of(function, args, kwargs, result)
        module = self._owner(product.weight, _LINEAR)
        for tensor in tensors_in((args, kwargs)):
            if tensor is not product.x:
                self.block(tensor, f"is an operand of {function}")
        if module is None:
            self.block(product.x, f"is read by {function} with the weight of no single layer")
            self._note_owners(function, args, kwargs)
            return
        self.calls[module] += 1
        flow = self._flows.get(id(product.x))
        if flow is not None and product.alone and (flow.axis, flow.columns) == (1, 1):
            # Each channel is convolved alone.
            flow.wire.between[module] = 1
            self._keep(result, flow)
            return
        if flow is not None:
            self._read(flow, product, module)
        wire = self.wires.setdefault(module, Wire(module))
        if product.groups != 1:
            wire.obstacle = "convolves in groups"
        elif not product.batched:
            wire.obstacle = "was given an input without an axis of samples"
        self._keep(result, _Flow(wire, product.axis, 1))

    def _read(self, flow: _Flow, product: _Product, module: str) -> None:
        if product.groups != 1:
            self.block(product.x, f"is read by {module!r}, which convolves in groups")
        elif not product.batched or flow.axis != product.axis:
            self.block(product.x, f"is read by {module!r} along another axis")
        else:
            flow.wire.readers.append(Reader(module, flow.columns, product.pads))

    def _owner(self, tensor: Any, kinds: tuple[type[nn.Module], ...]) -> str | None:
        """The module that holds a parameter or buffer, if just one does and is of these kinds."""
        found = self._owners.get(id(tensor), [])
        return found[0][0] if len(found) == 1 and isinstance(found[0][1], kinds) else None

    # Functions between linear layers

    def _note_owners(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Count calls of normalisations and PReLUs; note other functions that read parameters."""
        kinds = {"batch_norm": _NORMS, "prelu": (nn.PReLU,)}.get(name, ())
        owners = [self._owners.get(id(t), ()) for t in tensors_in((args, kwargs))]
        found = {owner: module for owned in owners for owner, module in owned}
        for owner, module in found.items():
            if isinstance(module, kinds):
                self.calls[owner] += 1
            else:
                self._other_uses[owner] = name

    def _flow_after(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        reads: list[Tensor],
        shape: tuple[int, ...],
        result: Any,
    ) -> _Flow | None:
        """The flow of the result, if each of its channels depends on one channel alone."""
        if not isinstance(result, Tensor):
            return None
        flow = self._flows[id(reads[0])]
        tensors = list(tensors_in((args, kwargs)))
        if name in _ELEMENTWISE:
            # x * sigmoid(x) treats each channel alone, x + y of two layers does not.
            flows = [(self._flows.get(id(t)), t.numel()) for t in tensors]
            alike = all(f == flow or (f is None and size == 1) for f, size in flows)
            return flow if alike and result.shape == shape else None
        if not args or args[0] is not reads[0]:
            return None
        if name == "prelu":
            return self._with_parameters(flow, tensors[1:], (nn.PReLU,))
        if name == "batch_norm":
            return self._with_parameters(flow, tensors[1:], _NORMS) if flow.axis == 1 else None
        if len(tensors) != 1:
            return None
        if name in _POOLS and flow.axis == 1 and result.ndim == len(shape) > 2:
            return flow
        if name == "pad" and flow.axis == 1:
            mode = kwargs.get("mode", args[2] if len(args) > 2 else "constant")
            spatial = len(args[1] if len(args) > 1 else kwargs["pad"]) // 2 <= len(shape) - 2
            return flow if mode != "constant" and spatial else None
        if name in _REDUCTIONS:
            return _reduced(flow, args, kwargs, shape, result)
        if name in _SHAPES:
            return _reshaped(flow, shape, tuple(result.shape))
        return None

    def _with_parameters(
        self, flow: _Flow, parameters: list[Tensor], kinds: tuple[type[nn.Module], ...]
    ) -> _Flow | None:
        """The flow after a module with parameters for each channel, which is noted on the wire."""
        owners = {self._owner(p, kinds) for p in parameters}
        if owners == {None} and all(p.numel() == 1 for p in parameters):
            return flow
        if len(owners) != 1 or None in owners:
            return None
        (module,) = owners
        assert module is not None
        if any(p.numel() > 1 for p in parameters):
            flow.wire.between[module] = flow.columns
        return flow


def _reduced(
    flow: _Flow,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    shape: tuple[int, ...],
    result: Tensor,
) -> _Flow | None:
    """The flow after a mean or the like over axes other than those of samples and channels."""
    given = kwargs.get("dim", args[1] if len(args) > 1 else None)
    if given is None or flow.axis != 1:
        return None
    axes = {axis % len(shape) for axis in ([given] if isinstance(given, int) else given)}
    kept = result.ndim in (len(shape), len(shape) - len(axes))
    return flow if kept and axes and min(axes) > 1 else None


def _reshaped(flow: _Flow, shape: tuple[int, ...], after: tuple[int, ...]) -> _Flow | None:
    """The flow after a change of shape that keeps the order of the channels."""
    if after == shape:
        return flow
    if flow.axis == len(shape) - 1:
        # More or fewer axes before the last one.
        return _Flow(flow.wire, len(after) - 1, flow.columns) if after[-1:] == shape[-1:] else None
    if flow.axis == 1 and after[:2] == shape[:2]:
        return flow
    if flow.axis == 1 and after == (shape[0], prod(shape[1:])):
        return _Flow(flow.wire, 1, flow.columns * prod(shape[2:]))
    return None


def _pads(padding: Any) -> bool:
    if isinstance(padding, str):
        return padding != "valid"
    return any(padding) if isinstance(padding, (tuple, list)) else bool(padding)


def weight_of(module: nn.Module) -> Tensor:
    """The weight of a linear module."""
    assert isinstance(module.weight, Tensor)
    return module.weight


def given_to(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The first argument of a linear module, given by position or by name."""
    x: Tensor = next(iter((*args, *kwargs.values())))
    return x


class _Probe:
    """Tests whether a model depends on a wire through its readers alone.

    The output of the wire's module is negated while its readers get the inputs that they had
    before: the model's outputs must stay the same. This finds readers that no torch function
    shows, such as a compiled part of the model.
    """

    def __init__(self, model: nn.Module, batch: Batch, readers: set[str]) -> None:
        self._model = model
        self._batch = batch
        self._read: dict[str, Tensor] = {}

        def note(name: str, x: Tensor) -> None:
            self._read[name] = x.clone()

        self._outputs = self._run({name: partial(note, name) for name in readers})

    def shows_all(self, wire: Wire) -> bool:
        changed = []

        def negated(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            changed.append(module)
            return -output

        def as_before(name: str, x: Tensor) -> Tensor | None:
            return self._read.get(name)

        handle = self._model.get_submodule(wire.name).register_forward_hook(negated)
        try:
            outputs = self._run({r.name: partial(as_before, r.name) for r in wire.readers})
        finally:
            handle.remove()
        return len(changed) == 1 and all(map(_equal, self._outputs, outputs))

    def _run(self, inputs: Mapping[str, Callable[[Tensor], Tensor | None]]) -> list[Tensor]:
        """The model's outputs, with a function called on the inputs of some modules."""
        with torch.no_grad(), ExitStack() as hooks:
            for name, call in inputs.items():

                def hook(
                    module: nn.Module, args: tuple[Any, ...], kwargs: Any, call: Any = call
                ) -> tuple[Any, Any] | None:
                    x = call(given_to(args, kwargs))
                    if x is None:
                        return None
                    if args:
                        return (x, *args[1:]), kwargs
                    return (), kwargs | {next(iter(kwargs)): x}

                module = self._model.get_submodule(name)
                handle = module.register_forward_pre_hook(hook, with_kwargs=True)
                hooks.callback(handle.remove)
            return list(tensors_within(run(self._model, self._batch)))


def _equal(first: Tensor, second: Tensor) -> bool:
    """Whether two outputs are equal up to rounding: the same product may be rounded differently."""
    if first.shape != second.shape or not first.is_floating_point():
        return torch.equal(first, second)
    finite = first[first.isfinite()].abs()
    tolerance = 1024 * torch.finfo(first.dtype).eps * float(finite.max()) if len(finite) else 0
    return torch.allclose(first, second, rtol=0, atol=tolerance, equal_nan=True)
