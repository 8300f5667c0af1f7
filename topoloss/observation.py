"""What a model's layers put out in a forward pass: which tensors, recorded by forward hooks.

The first forward pass is watched closely, to learn which layers are called, which
elementwise activation directly follows each (as a module or as a function), and which
outputs are changed in place afterwards. Later passes follow that plan with plain hooks.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from topoloss.errors import AttachmentError, OptionError, nearest

__all__ = ["Layers", "Observed", "Observer"]

Layers: TypeAlias = str | type[nn.Module] | Sequence[str | type[nn.Module]]

# Elementwise functions, by name without underscores, that count as a layer's activation.
_ACTIVATIONS = frozenset(
    """abs atan celu clamp clamp_min clip cos elu erf exp expit gelu hardshrink hardsigmoid
    hardswish hardtanh leaky_relu log_sigmoid logsigmoid maximum mish pow prelu relu relu6
    rrelu selu sigmoid silu sin softplus softshrink softsign sqrt square tanh tanhshrink
    threshold""".split()
)
# Used next to an activation these leave open which tensor the neurons are (x * sigmoid(x)).
_ARITHMETIC = frozenset(
    """add div iadd idiv imul isub itruediv mul multiply neg radd rdiv rmul rsub rtruediv
    sub subtract true_divide truediv where""".split()
)
_RANDOM = frozenset({"rrelu"})
_CHANNELS_SECOND = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
)


class Observed(NamedTuple):
    """One layer's output in the latest forward pass.

    Attributes
    ----------
    name : str
        The module's name; ``name:2`` for the second call in one forward pass.
    tensor : Tensor
    channel_axis : int
    """

    name: str
    tensor: Tensor
    channel_axis: int


class _Call(NamedTuple):
    """A call of a torch function on a layer's output."""

    function: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    result: Any
    in_place: bool

    @property
    def name(self) -> str:
        return str(getattr(self.function, "__name__", self.function)).strip("_")


class _Key(NamedTuple):
    layer: str
    call: int

    def __str__(self) -> str:
        name = self.layer or "(model)"
        return name if self.call == 0 else f"{name}:{self.call + 1}"


@dataclass(frozen=True)
class _Step:
    """How to come from a layer's output to what is observed."""

    activation: _Call | None = None
    clone: bool = False

    def apply(self, output: Tensor) -> Tensor:
        if self.clone:
            output = output.clone()
        if self.activation is None:
            return output
        function, args, kwargs, _, _ = self.activation
        if args:
            return _tensor(function(output, *args[1:], **kwargs))
        return _tensor(function(**{**kwargs, "input": output}))


@dataclass
class _Seen:
    """One call of a module in the first forward pass."""

    key: _Key
    output: Tensor
    copy: Tensor | None
    version: int | None
    with_grad: bool
    consumers: list[_Call] = field(default_factory=list)


@dataclass(frozen=True)
class _Record:
    key: _Key
    tensor: Tensor
    version: int | None
    with_grad: bool


class _Watch(TorchFunctionMode):
    """Notes which torch functions are called on the outputs that are watched."""

    def __init__(self) -> None:
        super().__init__()
        self._watched: dict[int, _Seen] = {}

    def watch(self, seen: _Seen) -> None:
        self._watched.setdefault(id(seen.output), seen)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        inputs = [self._watched.get(id(a)) for a in (*args, *kwargs.values())]
        # What comes after a change in place no longer follows directly.
        direct = [s for s in inputs if s and _version(s.output) == s.version]
        result = func(*args, **kwargs)
        for seen in direct:
            in_place = _version(seen.output) != seen.version
            seen.consumers.append(_Call(func, args, kwargs, result, in_place))
        return result


class Observer:
    """Records the layer outputs of each forward pass of a model.

    Parameters
    ----------
    model : Module
    layers : str, type, sequence of these, or None
        Names, globs on names, or module types; None for every module with trainable
        parameters of its own.
    after_activation : bool
        Take a layer's output after the elementwise activation that directly follows.
    """

    def __init__(self, model: nn.Module, layers: Layers | None, after_activation: bool) -> None:
        _refuse_compiled(model)
        self.model = model
        self.after_activation = after_activation
        self.recording = True
        self.passes = 0
        self._explicit = layers is not None
        self._layers = _select(model, layers)
        self._plan: dict[_Key, _Step | None] | None = None
        self._observed_names: set[str] = set()
        self._active = False
        self._reset()
        self._handles: list[RemovableHandle] = [
            model.register_forward_pre_hook(self._begin),
            model.register_forward_hook(self._end),
        ]
        self._layer_handles: list[RemovableHandle] = []
        self._watching: list[RemovableHandle] = []

    def _reset(self) -> None:
        self._records: list[_Record] = []
        self._calls: dict[str, int] = {}
        self._complete = False
        self._seen: list[_Seen] = []
        self._watch: _Watch | None = None

    def __getstate__(self) -> dict[str, Any]:
        # What was recorded belongs to this process and this model: a copy learns afresh.
        fresh = Observer.__new__(Observer)
        fresh._reset()
        return self.__dict__ | fresh.__dict__ | {"_plan": None, "_active": False, "_watching": []}

    def remove(self) -> None:
        """Take every hook off the model again, and forget what was recorded."""
        for handle in (*self._handles, *self._layer_handles, *self._watching):
            handle.remove()
        self._reset()

    def latest(self) -> list[Observed]:
        """Return the outputs of the latest forward pass, in the order of the calls.

        Raises
        ------
        AttachmentError
            If there was none, if it ran without gradients and they are on now, or if an
            output was changed in place since.
        """
        if not self._complete:
            raise AttachmentError(
                "the attached model has not been run since it was attached, or its last forward "
                "pass failed; call model(inputs) before penalty()."
            )
        if torch.is_grad_enabled():
            without = [str(r.key) for r in self._records if not r.with_grad]
            if without:
                raise AttachmentError(
                    f"the layers {without} ran without gradients in the latest forward pass, but "
                    "gradients are on now, so the penalty would have none. Run the model with "
                    "gradients (with checkpointing: use_reentrant=False), call penalty() under "
                    "torch.no_grad() too, or choose other layers with layers=."
                )
        for record in self._records:
            if record.version is not None and record.version != _version(record.tensor):
                raise _changed_in_place(record.key)
        modules = dict(self.model.named_modules())
        return [
            Observed(str(r.key), r.tensor, _channel_axis(modules[r.key.layer]))
            for r in self._records
        ]

    def _begin(self, module: nn.Module, args: Any) -> None:
        _refuse_replica(module)
        if not self.recording:
            return
        self._reset()
        self._active = True
        if self._plan is None:
            self._start_watching()

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        if not self._active:
            return
        if self._plan is None:
            self._on_watched("", module, args, output)
            self._stop_watching()
            self._finish_plan()
        elif "" in self._observed_names:
            self._on_layer("", module, args, output)
        self._active = False
        self._complete = True
        self.passes += 1

    def _on_layer(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        _refuse_replica(module)
        if not self._active:
            return
        key = self._next_key(name)
        assert self._plan is not None
        if key in self._plan:
            step = self._plan[key]
        elif self.after_activation:
            raise AttachmentError(
                f"layer {str(key)!r} was not called in the first forward pass, so which "
                "activation follows it is not known. For a model whose path changes from call "
                "to call name the modules to observe: "
                "attach(..., layers=[...], after_activation=False)."
            )
        else:
            step = _Step()
        if step is not None:
            tensor = step.apply(_output_tensor(key, output))
            with_grad = torch.is_grad_enabled()
            self._records.append(_Record(key, tensor, _version(tensor), with_grad))

    def _next_key(self, name: str) -> _Key:
        call = self._calls.get(name, 0)
        self._calls[name] = call + 1
        return _Key(name, call)

    def _start_watching(self) -> None:
        if torch.compiler.is_compiling():
            raise AttachmentError(
                "the first forward pass after attach must not be compiled, because it shows which "
                "activation follows which layer; run the model once before torch.compile."
            )
        _remove_all(self._layer_handles)
        for name, module in _own_modules(self.model):
            if name:
                hook = functools.partial(self._on_watched, name)
                self._watching.append(module.register_forward_hook(hook))
        stop = self.model.register_forward_hook(self._on_failure, always_call=True)
        self._watching.append(stop)
        self._watch = _Watch()
        if self.after_activation:
            self._watch.__enter__()  # type: ignore[no-untyped-call]

    def _stop_watching(self) -> None:
        if self.after_activation and self._watch is not None:
            self._watch.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        self._watch = None
        _remove_all(self._watching)

    def _on_failure(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._active and output is None:
            self._active = False
            self._stop_watching()

    def _on_watched(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        _refuse_replica(module)
        key = self._next_key(name)
        tensor = _first_tensor(output)
        if tensor is None:
            return
        # An output changed in place later is needed as it is now.
        copy = tensor.clone() if name in self._layers else None
        seen = _Seen(key, tensor, copy, _version(tensor), torch.is_grad_enabled())
        self._seen.append(seen)
        if self._watch is not None and name in self._layers:
            self._watch.watch(seen)

    def _finish_plan(self) -> None:
        self._observed_names = self._with_covers()
        plan: dict[_Key, _Step | None] = {}
        taken: set[int] = set()
        for seen in self._seen:
            if seen.key.layer not in self._observed_names:
                continue
            step = self._step(seen)
            observed = step.activation.result if step.activation else seen.output
            # A module that only hands on the output of another adds no neurons.
            plan[seen.key] = None if id(observed) in taken else step
            taken.add(id(observed))
            if plan[seen.key] is not None:
                self._records.append(self._first_record(seen, step))
        self._plan = plan
        self._seen = []
        modules = dict(self.model.named_modules())
        for name in self._observed_names - {""}:
            hook = functools.partial(self._on_layer, name)
            self._layer_handles.append(modules[name].register_forward_hook(hook))

    def _first_record(self, seen: _Seen, step: _Step) -> _Record:
        """What the plan would have recorded, had it been known during the pass."""
        output = _output_tensor(seen.key, seen.output)
        if step.clone:
            if seen.copy is None:
                raise _changed_in_place(seen.key)
            output = seen.copy
        tensor = step.apply(output)
        return _Record(seen.key, tensor, _version(tensor), seen.with_grad)

    def _with_covers(self) -> set[str]:
        """The layers, and for each that was never called the nearest module around it that was."""
        called = {seen.key.layer for seen in self._seen}
        missing = [name for name in self._layers if name not in called]
        if missing and self._explicit:
            raise AttachmentError(
                f"the layers {missing} were not called in the forward pass; choose others with "
                "layers=, for example the module around them."
            )
        covers = {next(a for a in _ancestors(name) if a in called or not a) for name in missing}
        return set(self._layers) | covers

    def _step(self, seen: _Seen) -> _Step:
        changed = _version(seen.output) != seen.version
        call = _activation(seen) if self.after_activation else None
        return _Step(call, clone=changed if call is None else call.in_place)


def _activation(seen: _Seen) -> _Call | None:
    """Return the elementwise activation that directly follows, if any."""
    activations = [
        c
        for c in seen.consumers
        if c.name in _ACTIVATIONS and (c.args[0] if c.args else c.kwargs["input"]) is seen.output
    ]
    if not activations:
        return None
    rivals = [c for c in seen.consumers if c.name in _ACTIVATIONS | _ARITHMETIC]
    call = activations[0]
    # Parameters are found again in a later pass; another tensor would be that of the first one.
    others = [a for a in (*call.args[1:], *call.kwargs.values()) if isinstance(a, Tensor)]
    variable = any(a is not seen.output and not isinstance(a, nn.Parameter) for a in others)
    if len(rivals) > 1 or variable or call.name in _RANDOM:
        used = ", ".join(dict.fromkeys(c.name for c in rivals))
        raise AttachmentError(
            f"the output of layer {str(seen.key)!r} goes into {used}: which tensor holds its "
            "neurons is not clear. Make the activation a module and name what to observe: "
            "attach(..., layers=[...], after_activation=False) takes modules' outputs as they are."
        )
    return call


def _select(model: nn.Module, layers: Layers | None) -> list[str]:
    modules = dict(_own_modules(model))
    if layers is None:
        names = [name for name, module in modules.items() if _trainable(module)]
        if not names:
            raise AttachmentError(
                f"{type(model).__name__} has no trainable parameters; name the modules to observe "
                f"with layers=, among {list(modules)[1:]}."
            )
        return names
    patterns = [layers] if isinstance(layers, (str, type)) else list(layers)
    chosen: set[str] = set()
    for pattern in patterns:
        found = _matches(pattern, modules)
        if not found:
            hint = nearest(pattern, modules) if isinstance(pattern, str) else ""
            raise AttachmentError(
                f"layers={pattern!r} matches no module of {type(model).__name__}; "
                f"there are {list(modules)[1:]}.{hint}"
            )
        chosen.update(found)
    if not chosen:
        raise OptionError("layers is empty; name at least one module, or leave it out.")
    return [name for name in modules if name in chosen]


def _matches(pattern: object, modules: Mapping[str, nn.Module]) -> list[str]:
    if isinstance(pattern, str):
        return [name for name in modules if name and fnmatchcase(name, pattern)]
    if isinstance(pattern, type) and issubclass(pattern, nn.Module):
        return [name for name, module in modules.items() if isinstance(module, pattern)]
    raise OptionError(f"layers holds {pattern!r}; expected a name, a glob or a module type.")


def _own_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """All modules by name, but for the machinery of parametrised weights."""
    for name, module in model.named_modules():
        if "parametrizations" not in name.split("."):
            yield name, module


def _trainable(module: nn.Module) -> bool:
    parameters = list(module.parameters(recurse=False))
    parametrised = getattr(module, "parametrizations", None)
    if isinstance(parametrised, nn.Module):
        parameters += parametrised.parameters()
    return any(p.requires_grad for p in parameters)


def _ancestors(name: str) -> Iterator[str]:
    while name:
        name = name.rpartition(".")[0]
        yield name


def _channel_axis(module: nn.Module) -> int:
    return 1 if isinstance(module, _CHANNELS_SECOND) else -1


def _first_tensor(output: object) -> Tensor | None:
    if isinstance(output, Tensor):
        return output
    items: Iterable[object] = ()
    if isinstance(output, Mapping):
        items = output.values()
    elif isinstance(output, (tuple, list)):
        items = output
    return next((t for t in map(_first_tensor, items) if t is not None), None)


def _output_tensor(key: _Key, output: object) -> Tensor:
    tensor = _first_tensor(output)
    if tensor is None or not tensor.is_floating_point() or tensor.ndim == 0:
        given = type(output).__name__ if tensor is None else f"{tensor.dtype}, {tensor.ndim}-d"
        raise AttachmentError(
            f"layer {str(key)!r} put out {given}; expected a floating-point tensor with a sample "
            "axis. Choose other layers with layers=."
        )
    return tensor


def _tensor(value: Any) -> Tensor:
    assert isinstance(value, Tensor)
    return value


def _version(tensor: Tensor) -> int | None:
    """How often the tensor was changed in place; not known of inference tensors."""
    if torch.compiler.is_compiling() or tensor.is_inference():
        return None
    return int(tensor._version)


def _changed_in_place(key: _Key) -> AttachmentError:
    return AttachmentError(
        f"the output of layer {str(key)!r} was changed in place after it was recorded (for "
        "example by 'out += x'), so its values are lost. Write 'out = out + x', or choose other "
        "layers with layers=."
    )


def _refuse_replica(module: nn.Module) -> None:
    if getattr(module, "_is_replica", False):
        raise AttachmentError(
            "a DataParallel replica of the attached model was run: each replica sees part of the "
            "batch, on its own thread. Use DistributedDataParallel, or one device."
        )


def _refuse_compiled(model: nn.Module) -> None:
    for module in model.modules():
        # compile() sets one, torch.compile() wraps in the other; neither looks at new hooks.
        if (
            getattr(module, "_compiled_call_impl", None) is not None
            or hasattr(module, "_torchdynamo_orig_callable")
            or type(module).__name__ == "OptimizedModule"
        ):
            raise AttachmentError(
                "the model is compiled already, and a compiled model does not run hooks that are "
                "added later; attach first, run it once, then compile."
            )


def _remove_all(handles: list[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()
    handles.clear()
