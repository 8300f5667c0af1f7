"""What a model's layers put out in a forward pass: which tensors, recorded by forward hooks.

The first forward pass is watched closely, to learn which layers are called, which
elementwise activation directly follows each (as a module or as a function), and which
outputs are changed in place afterwards. Later passes follow that plan with plain hooks.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from topoloss.errors import AttachmentError
from topoloss.layers import (
    Layers,
    ancestors,
    channel_axis,
    own_modules,
    patterns,
    refuse_compiled,
    select_layers,
)
from topoloss.tracing import Activation, Fate, UnclearActivationError, Watch, version_of

__all__ = ["Observed", "Observer"]


class _Repeating(threading.local):
    """The observers that repeat a pass on this thread: to all others it does not happen."""

    def __init__(self) -> None:
        self.observers: list[Observer] = []


_REPEATING = _Repeating()


class Observed(NamedTuple):
    """One layer's output in the latest forward pass.

    Attributes
    ----------
    name : str
        The module's name; ``name:2`` for the second call in one forward pass.
    tensor : Tensor
    channel_axis : int or None
        None where it is not known.
    """

    name: str
    tensor: Tensor
    channel_axis: int | None


class _Key(NamedTuple):
    """One call of a module in a forward pass."""

    layer: str
    call: int

    def __str__(self) -> str:
        name = self.layer or "(model)"
        return name if self.call == 0 else f"{name}:{self.call + 1}"


@dataclass(eq=False)
class _Step:
    """What to do with the output of a module.

    Attributes
    ----------
    observes : _Key
        The layer whose neurons these are: the module itself, or the one before it.
    activation : Activation or None
        A function to apply to the output, when the value is asked for.
    clone : bool
        Whether the output is changed in place later.
    """

    observes: _Key
    activation: Activation | None = None
    clone: bool = False


@dataclass(eq=False)
class _Record:
    step: _Step
    output: Tensor
    version: int | None
    with_grad: bool

    def value(self) -> Tensor:
        activation = self.step.activation
        return self.output if activation is None else activation(self.output)


@dataclass(eq=False)
class _Seen:
    """One call of a module in a pass that is watched."""

    key: _Key
    output: Tensor
    version: int | None
    with_grad: bool
    fate: Fate | None
    copy: Tensor | None

    def changed_since(self) -> bool:
        return version_of(self.output) != self.version


_Plan: TypeAlias = dict[_Key, _Step | None]


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
    watch : {"first", "always"}
        Learn the plan from the first pass (in training and in evaluation mode each), or
        watch every pass.
    repeats : bool
        Keep the inputs of each pass, and record only what :meth:`repeat` makes of them.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Layers | None,
        after_activation: bool = True,
        watch: Literal["first", "always"] = "first",
        repeats: bool = False,
    ) -> None:
        refuse_compiled(model)
        self.model = model
        self.after_activation = after_activation
        self.watch_always = watch == "always"
        self.repeats = repeats
        # What was named exactly must be called itself; patterns may match what is covered.
        self._named = None if layers is None else set(patterns(layers))
        self._layers = select_layers(model, layers)
        # By the model's training flag: functions of it may differ.
        self._plans: dict[bool, _Plan] = {}
        self._hooked: dict[str, nn.Module] = {}
        self._active = False
        self._watch: Watch | None = None
        self._inputs: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self._input_versions: list[tuple[Tensor, int | None]] = []
        self._reset()
        self._handles: list[RemovableHandle] = [
            model.register_forward_pre_hook(self._begin, with_kwargs=True),
            model.register_forward_hook(self._end),
        ]
        self._layer_handles: list[RemovableHandle] = []
        self._watch_handles: list[RemovableHandle] = []

    def _reset(self) -> None:
        self._records: list[_Record] = []
        self._calls: dict[str, int] = {}
        self._seen: list[_Seen] = []
        self._unplanned: list[_Key] = []
        self._complete = False

    def __getstate__(self) -> dict[str, Any]:
        # What was recorded belongs to this process and this model: a copy learns afresh.
        fresh = Observer.__new__(Observer)
        fresh._reset()
        unlearnt = {"_plans": {}, "_active": False, "_watch": None, "_watch_handles": []}
        return self.__dict__ | fresh.__dict__ | unlearnt | {"_inputs": None, "_input_versions": []}

    def remove(self) -> None:
        """Take every hook off the model again, and forget what was recorded."""
        self._stop_watching()
        _remove_all(self._handles)
        _remove_all(self._layer_handles)
        self._plans = {}
        self._hooked = {}
        self._inputs = None
        self._input_versions = []
        self._reset()

    @property
    def latest_pass(self) -> object:
        """Something that is the same object until the model makes another pass of its own."""
        return self._inputs if self.repeats else self._records

    def repeat(self) -> None:
        """Run the model once more on its latest inputs, unseen by its other observers."""
        if self._inputs is None:
            raise _not_run()
        args, kwargs = self._inputs
        _REPEATING.observers.append(self)
        try:
            self.model(*args, **kwargs)
        finally:
            _REPEATING.observers.remove(self)
        # Also what changed before the pass was repeated shows now.
        if any(v is not None and version_of(t) != v for t, v in self._input_versions):
            raise AttachmentError(
                "an input of the latest forward pass was changed in place, by the model or after "
                "it, so the pass cannot be repeated; pass the model a copy, or eval_pass=False."
            )

    def latest(self) -> list[Observed]:
        """Return the outputs of the latest forward pass, in the order of the calls.

        Raises
        ------
        AttachmentError
            If there was none, if it ran without gradients and they are on now, if an output
            was changed in place since, or if the pass was not like the one that was watched.
        """
        if not self._complete:
            raise _not_run()
        if self._unplanned:
            raise AttachmentError(
                f"the calls {[str(key) for key in self._unplanned]} were not made in the first "
                "forward pass, or were followed by another activation there. For a model whose "
                "path changes from call to call use attach(..., watch='always'), or take modules' "
                "outputs as they are: attach(..., layers=[...], after_activation=False)."
            )
        without = [str(r.step.observes) for r in self._records if not r.with_grad]
        if torch.is_grad_enabled() and without:
            raise AttachmentError(
                f"the layers {without} ran without gradients in the latest forward pass, but "
                "gradients are on now, so the penalty would have none. Run the model with "
                "gradients (with checkpointing: use_reentrant=False), call penalty() under "
                "torch.no_grad() too, or choose other layers with layers=."
            )
        modules = dict(self.model.named_modules())
        for name, module in self._hooked.items():
            if modules.get(name) is not module:
                raise AttachmentError(
                    f"module {name!r} was replaced after the model was first run; attach again."
                )
        return [self._observed(record, modules) for record in self._records]

    def _observed(self, record: _Record, modules: Mapping[str, nn.Module]) -> Observed:
        key = record.step.observes
        if record.version is not None and record.version != version_of(record.output):
            raise AttachmentError(
                f"the output of layer {str(key)!r} was changed in place after it was recorded (for "
                "example by 'out += x'), so its values are lost. Write 'out = out + x', or choose "
                "other layers with layers=."
            )
        value = record.value()
        return Observed(str(key), value, channel_axis(modules[key.layer], value))

    # A pass, from the root's pre-hook to its hook.

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        _refuse_replica(module)
        if not torch.compiler.is_compiling():
            if torch._C._current_graph_task_id() != -1:
                return  # activation checkpointing repeats a pass inside the backward pass
            self._stop_watching()  # of a pass that was interrupted
        self._active = False
        repeating = bool(_REPEATING.observers)
        if repeating and _REPEATING.observers[-1] is not self:
            return
        if self.repeats and not repeating:
            self._inputs = (args, kwargs)
            tensors = [t for t in (*args, *kwargs.values()) if isinstance(t, Tensor)]
            self._input_versions = [(t, version_of(t)) for t in tensors]
            return
        self._reset()
        self._active = True
        if self.watch_always or self.model.training not in self._plans:
            self._start_watching()

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        if not self._active:
            return
        self._active = False
        if self._watch is not None:
            try:
                self._see("", output)
                self._learn(self._watch, output)
            except BaseException:
                self._reset()
                raise
            finally:
                self._stop_watching()
        else:
            if "" in self._hooked:
                self._follow_plan("", output)
            self._find_unrecorded()
        self._complete = True

    def _on_layer(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        _refuse_replica(module)
        if self._active and self._watch is None:
            self._follow_plan(name, output)

    def _follow_plan(self, name: str, output: Any) -> None:
        key = self._next_key(name)
        plan = self._plans[self.model.training]
        step = plan[key] if key in plan else _Step(key)
        if step is None:
            return
        if self.after_activation and (key not in plan or not self._was_called(step.observes)):
            self._unplanned.append(key)
            return
        tensor = _output_tensor(step.observes, output)
        self._record(step, tensor.clone() if step.clone else tensor, torch.is_grad_enabled())

    def _find_unrecorded(self) -> None:
        """Note the layers that were called without the activation module that followed them."""
        if self.after_activation:
            recorded = {record.step.observes for record in self._records}
            for step in self._plans[self.model.training].values():
                if step and step.observes not in recorded and self._was_called(step.observes):
                    self._unplanned.append(step.observes)

    def _was_called(self, key: _Key) -> bool:
        return self._calls.get(key.layer, 0) > key.call

    def _record(self, step: _Step, output: Tensor, with_grad: bool) -> None:
        self._records.append(_Record(step, output, version_of(output), with_grad))

    def _next_key(self, name: str) -> _Key:
        call = self._calls.get(name, 0)
        self._calls[name] = call + 1
        return _Key(name, call)

    # A pass that is watched.

    def _start_watching(self) -> None:
        if torch.compiler.is_compiling():
            raise AttachmentError(
                "the first forward pass after attach must not be compiled, because it shows which "
                "activation follows which layer; run the model once before torch.compile."
            )
        for name, module in own_modules(self.model):
            if name:
                hook = functools.partial(self._on_watched, name)
                self._watch_handles.append(module.register_forward_hook(hook))
        stop = self.model.register_forward_hook(self._on_failure, always_call=True)
        self._watch_handles.append(stop)
        self._watch = Watch()
        self._watch.__enter__()  # type: ignore[no-untyped-call]

    def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.leave()
            self._watch = None
        self._seen = []
        _remove_all(self._watch_handles)

    def _on_failure(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._active and output is None:
            self._active = False
            self._stop_watching()
            self._reset()

    def _on_watched(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        _refuse_replica(module)
        if self._active:
            self._see(name, output)

    def _see(self, name: str, output: Any) -> None:
        key = self._next_key(name)
        tensor = _first_tensor(output)
        if tensor is None or self._watch is None:
            if name in self._layers:
                _output_tensor(key, output)
            return
        fate = copy = None
        if name in self._layers or self._is_around_a_layer(name):
            fate = self._watch.watch(tensor)
            with torch._C.DisableTorchFunction():  # a call of ours is none of the model's
                copy = tensor.clone()  # in case it is changed in place later
        with_grad = torch.is_grad_enabled()
        self._seen.append(_Seen(key, tensor, version_of(tensor), with_grad, fate, copy))

    def _is_around_a_layer(self, name: str) -> bool:
        return any(name in ancestors(layer) for layer in self._layers)

    def _learn(self, watch: Watch, output: Any) -> None:
        """Turn what was seen into a plan, and into the records that it would have made."""
        names = self._with_covers(watch)
        plan: _Plan = {}
        taken: set[int] = set()
        for seen in self._seen:
            plan.setdefault(seen.key, None)
            if seen.fate is None or seen.key.layer not in names:
                continue
            activation = self._activation(seen, seen.fate, output)
            observed = seen.output if activation is None else seen.fate.result
            # A module that only hands on the output of another adds no neurons.
            if id(observed) not in taken:
                taken.add(id(observed))
                key, step = self._step(seen, activation)
                plan[key] = step
                self._first_record(seen, activation)
        # Inference tensors do not tell whether they were changed.
        if not torch.is_inference_mode_enabled():
            self._plans[self.model.training] = plan
            # Layers that were not called are hooked too: they may be in a later pass.
            self._hook({key.layer for key in plan if plan[key]} | names | set(self._layers))

    def _with_covers(self, watch: Watch) -> set[str]:
        """The layers, and for each whose parameters are used though it is never called itself
        the nearest module around it that is."""
        called = {seen.key.layer for seen in self._seen}
        missing = [name for name in self._layers if name not in called]
        modules = dict(self.model.named_modules())
        used = [name for name in missing if watch.used(modules[name].parameters(recurse=False))]
        named = self._named
        asked = [n for n in missing if named is not None and (n not in used or n in named)]
        if asked or len(missing) == len(self._layers):
            raise AttachmentError(
                f"the layers {asked or missing} were not called in the forward pass; choose others "
                "with layers=, for example the module around them."
            )
        covers = {next(a for a in ancestors(name) if a in called or not a) for name in used}
        return (set(self._layers) & called) | covers

    def _activation(self, seen: _Seen, fate: Fate, output: Any) -> Activation | None:
        if not self.after_activation:
            return None
        try:
            activation = fate.find_activation()
            # A parameter can be replaced; a module knows which one is its own.
            if activation and activation.has_tensors() and not self._activation_module(seen):
                raise UnclearActivationError(fate.uses)
            if fate.used_unseen(output):
                raise UnclearActivationError(["something that no torch function mode sees"])
            return activation
        except UnclearActivationError as unclear:
            used = ", ".join(dict.fromkeys(unclear.args[0]))
            raise AttachmentError(
                f"the output of layer {str(seen.key)!r} goes into {used}: which tensor holds its "
                "neurons is not clear. Make the activation a module and name what to observe: "
                "attach(..., layers=[...], after_activation=False) takes modules' outputs as they "
                "are."
            ) from None

    def _step(self, seen: _Seen, activation: Activation | None) -> tuple[_Key, _Step]:
        if activation is not None:
            module = self._activation_module(seen)
            if module is not None:
                return module.key, _Step(seen.key, clone=module.changed_since())
        assert seen.fate is not None
        return seen.key, _Step(seen.key, activation, clone=seen.fate.has_changed())

    def _activation_module(self, seen: _Seen) -> _Seen | None:
        """The module that put out the activation's result, if one did nothing else."""
        assert seen.fate is not None
        around = set(ancestors(seen.key.layer))
        later = self._seen[self._seen.index(seen) + 1 :]
        found = (s for s in later if s.output is seen.fate.result and s.key.layer not in around)
        return next(found, None)

    def _first_record(self, seen: _Seen, activation: Activation | None) -> None:
        assert seen.fate is not None
        kept = not seen.fate.has_changed() and not seen.output.is_inference()
        output = seen.output if kept else seen.copy
        assert output is not None
        _output_tensor(seen.key, output)
        self._record(_Step(seen.key, activation), output, seen.with_grad)

    def _hook(self, names: Iterable[str]) -> None:
        modules = dict(self.model.named_modules())
        for name in names:
            if self._hooked.get(name) is modules[name]:
                continue
            self._hooked[name] = modules[name]
            if name:
                hook = functools.partial(self._on_layer, name)
                self._layer_handles.append(modules[name].register_forward_hook(hook))


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


def _not_run() -> AttachmentError:
    return AttachmentError(
        "the attached model has not been run since it was attached, or its last forward pass "
        "failed; call model(inputs) before penalty()."
    )


def _refuse_replica(module: nn.Module) -> None:
    if getattr(module, "_is_replica", False):
        raise AttachmentError(
            "a DataParallel replica of the attached model was run: each replica sees part of the "
            "batch, on its own thread. Use DistributedDataParallel, or one device."
        )


def _remove_all(handles: list[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()
    handles.clear()
