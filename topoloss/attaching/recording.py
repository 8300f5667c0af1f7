"""Record the layers of each forward pass of a model."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from topoloss.attaching.compiled import CompiledPass, Followed
from topoloss.attaching.finishing import finished, length, note_arguments
from topoloss.attaching.functions import tensors_in, tensors_within, version_of
from topoloss.attaching.graph import Graph
from topoloss.attaching.layers import Choice
from topoloss.attaching.modules import Modules, is_compiled
from topoloss.attaching.passes import Marks, Pass, Running, Watching
from topoloss.attaching.reading import Record
from topoloss.attaching.watching import Watch
from topoloss.errors import AttachmentError

__all__ = ["Recorder", "unseen"]


class _Repeating(threading.local):
    """The recorders that repeat a pass on this thread; all others ignore that pass."""

    def __init__(self) -> None:
        # None stands for no recorder: all of them ignore the passes.
        self.recorders: list[Recorder | None] = []


_repeating = _Repeating()


class Recorder:
    """Records the layers of each forward pass.

    Parameters
    ----------
    model : Module
    choice : Choice
    watching : Watching
    """

    def __init__(
        self,
        model: nn.Module,
        choice: Choice,
        watching: Watching,
    ) -> None:
        self._model = weakref.ref(model)
        self._modules = Modules(model)
        self._choice = choice
        self._chosen = frozenset(choice.modules)
        self._watching = watching
        self.repeats = watching.repeats
        # Both are set from outside: record no pass at all, or no training pass.
        self.paused = False
        self.at_rest = False
        # Also set from outside. Called when a pass begins, as the previous pass is then no longer
        # the latest.
        self.on_begin: Callable[[], None] = lambda: None
        self.passes = 0
        self._replicated = False
        self._inputs: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        # The tensors in the inputs, each with its version; None in a compiled pass.
        self._input_versions: list[tuple[Tensor, int | None]] | None = None
        self._autocast = _autocast()
        self._running: dict[int, Running] = {}
        self._of_thread = threading.local()
        self._newest: Pass | None = None
        # By the model's training flag: the layers of the latest watched pass. A compiled pass
        # cannot be watched, and finds its layers by these.
        self._followed: dict[bool, Followed] = {}
        # The latest pass, if it was compiled.
        self._compiled: CompiledPass | None = None
        # The marks of the latest pass, if it was compiled or will be repeated.
        self._marks = Marks()

    # What the user asks for

    def latest(self) -> Pass:
        """The latest pass on this thread, or on any thread if this one made none.

        Raises
        ------
        AttachmentError
            If there was none, or it cannot be used.
        """
        found = self._eager if self._compiled is None else self._pass_of(self._compiled)
        if found is None:
            raise _not_run()
        if found.error:
            raise AttachmentError(found.error)
        return found

    @property
    def token(self) -> object:
        """An object that identifies the latest pass, even when a recorder repeats that pass."""
        if self.repeats:
            return None if self._inputs is None else self._marks
        if self._compiled is not None:
            return self._compiled
        # Not the pass itself: whoever kept it would keep its activations during the next pass.
        return None if self._eager is None else self._eager.marks

    @property
    def marks(self) -> Marks:
        """The marks of the latest pass."""
        if self.repeats or self._compiled is not None:
            return self._marks
        return Marks() if self._eager is None else self._eager.marks

    @property
    def _eager(self) -> Pass | None:
        """The latest pass that was watched."""
        return getattr(self._of_thread, "latest", None) or self._newest

    def skip(self) -> bool:
        """Mark the latest pass as skipped; return whether this is the first time."""
        marks = self.marks
        first, marks.skipped = not marks.skipped, True
        return first

    def forget(self) -> None:
        """Free everything that was recorded."""
        self._interrupt()
        self._newest = self._compiled = self._inputs = None
        self._input_versions = None
        self._of_thread = threading.local()

    def repeat(self) -> None:
        """Run the model once more on its latest inputs, unseen by its other recorders."""
        model = self._model()
        if self._inputs is None or model is None:
            raise _not_run()
        args, kwargs = self._inputs
        self._check_inputs()
        with self.alone(), ExitStack() as casts:
            for device, now, then in zip(_DEVICES, _autocast(), self._autocast, strict=True):
                if now != then:
                    enabled, dtype = then
                    casts.enter_context(torch.autocast(device, dtype, enabled))
            model(*args, **kwargs)
        self._check_inputs()

    def _check_inputs(self) -> None:
        """Raise if the model's latest inputs were changed after the pass began."""
        before, now = self._input_versions, _versions(self._inputs)
        if before is not None and (
            len(before) != len(now)
            or any(t is not u or v != w for (t, v), (u, w) in zip(before, now, strict=True))
        ):
            raise AttachmentError(
                "an input of the latest forward pass was changed in place or replaced, by the "
                "model or after it, so the pass cannot be repeated; pass the model a copy, or "
                "eval_pass=False."
            )

    def once(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Pass:
        """Run the model on inputs and return the pass; no recorder keeps it, this one included."""
        model = self._model()
        assert model is not None
        before = (getattr(self._of_thread, "latest", None), self._newest, self._compiled)
        passes = self.passes
        try:
            with self.alone():
                model(*args, **kwargs)
            return self.latest()
        finally:
            self._of_thread.latest, self._newest, self._compiled = before
            self.passes = passes

    def alone(self) -> AbstractContextManager[None]:
        """In this context passes run uncompiled, and only this recorder sees those of its model."""
        return _alone(self)

    # A pass, from the model's pre-hook to its forward hook

    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.compiler.is_compiling():
            if self._mark(module):
                args, kwargs = (), {}
            if self.repeats:
                self._inputs, self._input_versions = (args, kwargs), None
                self._autocast = _autocast()
            else:
                self._compiled = CompiledPass(module.training, (args, kwargs))
            return
        if getattr(module, "_is_replica", False):
            self._of_thread.latest, self._newest = None, Pass(error=_REPLICATED)
            return
        if torch._C._current_graph_task_id() != -1:
            return  # activation checkpointing repeats a pass inside the backward pass
        under_way = self._running.get(threading.get_ident())
        if under_way is not None and under_way.watch.is_running():
            under_way.depth += 1  # the model calls itself
            return
        self._interrupt()  # an earlier pass failed, and its end was never reported
        repeating = _repeating.recorders
        if repeating and repeating[-1] is not self:
            return
        self.passes += 1
        if not repeating:
            self.on_begin()
        rests = not repeating and self._mark(module)
        if rests:
            args, kwargs = (), {}
        if self.repeats and not repeating:
            self._inputs = (args, kwargs)
            self._input_versions = _versions(self._inputs)
            self._autocast = _autocast()
            return
        self._compiled = None
        self._of_thread.latest = self._newest = None
        self._replicated = False
        if rests:
            self._of_thread.latest = self._newest = Pass(marks=self._marks)
            return
        if not repeating and any(map(is_compiled, module.modules())):
            self._compiled = CompiledPass(module.training, (args, kwargs))
            return
        self._modules.refresh()  # parameters may have been replaced
        inputs = list(tensors_within((args, kwargs)))
        watch = Watch(
            Graph(self._modules, inputs, self._watching.batch_dim),
            self._modules,
            by_function=self._choice.rule == "auto",
            # By the paper's rule each norm is a layer of its own.
            passes_norms=self._choice.rule != "trainable",
            keeps_starts=not self._watching.after_activation,
        )
        running = Running(watch, (args, kwargs))
        self._running[threading.get_ident()] = running
        watch.__enter__()  # type: ignore[no-untyped-call]

    def _mark(self, module: nn.Module) -> bool:
        """Set the marks of a pass that begins, and return whether it goes unrecorded."""
        trains = module.training and torch.is_grad_enabled() and not self.paused
        # Compiled passes need one watched training pass before them: `at_rest` waits for it.
        watched = self.repeats or True in self._followed
        rested = self.paused or (trains and self.at_rest and watched)
        self._marks = Marks(trains, rested)
        return rested

    def end(self, module: nn.Module, output: Any) -> None:
        if self._compiled is not None:
            self.on_compiled("", output, last=True)
            return
        running = self._running.get(threading.get_ident())
        if running is None:
            return
        if running.depth:
            running.depth -= 1
            self._finish_module(running, "", module, (), {}, output)
            return
        del self._running[threading.get_ident()]
        try:
            self._finish_module(running, "", module, (), {}, output)
        finally:
            running.watch.leave()
        if output is None and sys.exc_info()[0] is not None:
            return  # the pass failed
        running.watch.graph.end(list(tensors_within(output)))
        if self._replicated:
            running.error = _REPLICATED
        made = finished(running, module, self._modules, self._choice, self._watching)
        self._of_thread.latest = self._newest = made
        if not made.error:
            followed = [(_without_tensor(r), r.step) for r in made.records]
            self._followed[module.training] = followed

    def on_module(
        self,
        name: str,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
    ) -> None:
        if getattr(module, "_is_replica", False):
            self._replicated = True
            return
        if self._compiled is not None:
            self.on_compiled(name, output, last=False)
            return
        running = self._running.get(threading.get_ident())
        if running is not None and torch._C._current_graph_task_id() == -1:
            self._finish_module(running, name, module, args, kwargs, output)

    def _finish_module(
        self,
        running: Running,
        name: str,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
    ) -> None:
        running.called.add(module)
        call = running.calls[name] = running.calls.get(name, 0) + 1
        outputs = list(tensors_within(output))
        tensor = outputs[0] if outputs else None
        if tensor is None or not tensor.is_floating_point() or tensor.ndim == 0:
            if name in self._choice.named:
                running.error = _no_samples(name, tensor, output)
            return
        given = list(tensors_in((*args, *kwargs.values())))
        alone = sum(a is not None for a in (*args, *kwargs.values())) == 1
        node = running.watch.finish(name, module, call, given, outputs, alone)
        if getattr(module, "batch_first", True) is False and node is not None and node.axis == 0:
            running.notes.append(
                f"{name or '(model)'!r} has batch_first=False, so its axis 0 counts positions, and "
                "it was given samples there; pass batch_dim=1, or build it with batch_first=True."
            )
        if any(t.is_floating_point() for t in given):
            running.fed.add(module)
        if name in self._chosen:
            running.watch.begin_module(name, node, tensor, module)

    def _interrupt(self) -> None:
        running = self._running.pop(threading.get_ident(), None)
        if running is not None:
            running.watch.leave()
            running.watch.graph.release()

    # A compiled pass

    def on_compiled(self, name: str, output: Any, last: bool) -> None:
        """Record the output of a module in a compiled pass."""
        compiled = self._compiled
        if compiled is not None and not self._marks.rested:
            compiled.note(name, output, last, self._followed.get(compiled.training, ()))

    def _pass_of(self, compiled: CompiledPass) -> Pass:
        model, axis = self._model(), self._watching.batch_dim
        assert model is not None
        records = compiled.records(self._followed.get(compiled.training))
        given = tensors_within(compiled.arguments)
        samples = next((n for t in given if (n := length(t, axis)) is not None), None)
        made = Pass(records, samples)
        note_arguments(made, self._watching, model, *compiled.arguments)
        return made


def unseen() -> AbstractContextManager[None]:
    """In this context passes run uncompiled, and no recorder sees them."""
    return _alone(None)


@contextmanager
def _alone(recorder: Recorder | None) -> Iterator[None]:
    _repeating.recorders.append(recorder)
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        _repeating.recorders.remove(recorder)


# Small tools


def _versions(inputs: object) -> list[tuple[Tensor, int | None]]:
    return [(t, version_of(t)) for t in tensors_within(inputs)]


# The types of device on which a pass may run under autocast.
_DEVICES = ("cpu", "cuda", "mps", "xpu")


def _autocast() -> list[tuple[bool, torch.dtype]]:
    """Whether autocast is on, and for which dtype, on each type of device."""
    return [(torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in _DEVICES]


def _without_tensor(record: Record) -> Record:
    return replace(record, tensor=None, step=None, start=None)


def _no_samples(name: str, tensor: Tensor | None, output: object) -> str:
    given = type(output).__name__ if tensor is None else f"{tensor.dtype}, {tensor.ndim}-d"
    return (
        f"layer {name or '(model)'!r} returned {given}; expected a floating-point tensor with a "
        "sample axis. Choose other layers with layers=."
    )


def _not_run() -> AttachmentError:
    return AttachmentError(
        "the model was not run since it was attached to, or its latest forward pass failed; call "
        "model(inputs) first. A model that was compiled before does not call new hooks: attach, "
        "run the model once, then compile."
    )


_REPLICATED = (
    "a DataParallel replica of the attached model was run: each replica sees part of the batch, on "
    "its own thread. Use DistributedDataParallel, or one device."
)
