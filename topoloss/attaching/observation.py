"""Observe the neurons of a model in its forward passes."""

from __future__ import annotations

import copy
import os
import sys
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from topoloss.attaching.cost import duration, seconds
from topoloss.attaching.culprit import note_component
from topoloss.attaching.hooks import Link, connect, disconnect, forgotten, refuse_scripted
from topoloss.attaching.layers import Choice, Layers
from topoloss.attaching.neurons import Units, check_usable, chosen_neurons, matrices
from topoloss.attaching.options import checked, made_sampler, unknown_option
from topoloss.attaching.passes import Mask, Pass, Watching
from topoloss.attaching.recording import Recorder, unseen
from topoloss.errors import (
    AttachmentError,
    AttachmentWarning,
    InputError,
    OptionError,
    TopolossError,
    check_flag,
)
from topoloss.samplers import Sampler

__all__ = ["Description", "Observation", "observe"]

_LIBRARY = str(Path(__file__).parents[1]) + os.sep

_Self = TypeVar("_Self", bound="Observation")


def observe(
    model: nn.Module,
    layers: Layers = "auto",
    units: Units = "unit",
    mask: Mask | None = None,
    *,
    sampler: str | Sampler = "importance",
    fraction: float | None = None,
    batch_dim: int = 0,
    after_activation: bool = True,
    eval_pass: bool = False,
    **unknown: Any,
) -> Observation:
    """Observe the neurons of a model.

    Parameters
    ----------
    model : Module
        Any feed-forward module. ``remove()`` leaves it as it was.
    layers : "auto", "trainable", str, type, or sequence of str and type
        ``"auto"``: each linear map (linear layer, convolution, recurrent layer, attention as a
        whole, or whatever else multiplies by a parameter of two or more axes), taken after the
        normalisation and the elementwise activation that directly follow it. In softmax
        attention the output projection is a layer; those to queries, keys and values are not.
        ``"trainable"``: the paper's rule, the output of each module with trainable parameters of
        its own, norms and embeddings included. Otherwise names of modules, patterns (``*`` also
        matches dots), or module types: the outputs of these modules, taken after
        the norm and the activation that directly follow, as by default. A norm that is chosen as
        well is a layer of its own.
    units : {"unit", "channel"}
        ``"unit"``: each channel at each position is a neuron, as in the paper. ``"channel"``:
        each channel is a neuron, and positions in an image or a text are further samples.
    mask : str or callable, optional
        Which positions count, where positions are samples: the name of the model's argument
        that has 1 or True where a position counts, such as ``"attention_mask"``, or a function
        ``(args, kwargs) -> Tensor`` of shape (samples, positions). Needs ``units="channel"``;
        without a mask, padded positions count like others.
    sampler : str or Sampler
        Which neurons of each layer take part. The last layer is always taken whole, even if it
        is the only one.
    fraction : float, optional
        The fraction of each layer that a sampler given by name takes; by default every neuron.
        The shipped samplers take floor(fraction * n) of a layer's n neurons, so a layer with
        fewer than ``1 / fraction`` neurons takes no part, unless it is the last.
    batch_dim : int
        The axis of the model's inputs that counts samples: 1 for a sequence model that takes
        (positions, samples, ...).
    after_activation : bool
        False takes the output of each linear map or module, before norm and activation.
    eval_pass : bool
        Observe a second forward pass on the same inputs in evaluation mode (dropout off,
        running statistics, gradients on), instead of the model's own latest one.

    Returns
    -------
    Observation

    Raises
    ------
    OptionError, AttachmentError
        For a wrong option, a pattern that matches nothing, or a compiled model.

    Notes
    -----
    Every forward pass is watched. Errors and warnings come from the calls that ask for what was
    observed; the model's forward pass itself only warns if nobody kept the observation. A layer
    that is not computed from the inputs, or has no axis of samples, is left out with a warning, or
    raises an error if you named it.

    Examples
    --------
    >>> import torch, topoloss
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> seen = topoloss.observe(model)
    >>> _ = model(torch.randn(16, 4))
    >>> {layer: tuple(x.shape) for layer, x in seen.activations().items()}
    {'0': (16, 8), '2': (16, 3)}
    """
    if unknown:
        raise unknown_option(observe, next(iter(unknown)))
    watching = Watching(batch_dim, after_activation, mask, eval_pass)
    choice = checked(model, layers, units, watching)
    return Observation(model, choice, watching, units, made_sampler(sampler, fraction))


@dataclass(frozen=True)
class Description:
    """What is observed; printing it gives a table.

    Attributes
    ----------
    rows : list of tuple
        Layer, shape of its output, neurons, and neurons that take part.
    left_out : dict of str to str
        Layers that are left out, and why.
    seconds : float
        Estimated time of T1 over all layers that take part, forward and backward, on two
        cores of a CPU that multiplies bfloat16. Others take up to about 7 times as long.
    processes : int
        How many processes' batches are taken together, as one.
    """

    rows: list[tuple[str, tuple[int, ...], int, int]]
    left_out: dict[str, str]
    seconds: float
    processes: int = 1

    def __str__(self) -> str:
        header = ("layer", "output", "neurons", "taking part")
        cells = [header, *((a, str(b), f"{c:,}", f"{d:,}") for a, b, c, d in self.rows)]
        total = sum(row[3] for row in self.rows)
        cells.append(("all", "", f"{sum(row[2] for row in self.rows):,}", f"{total:,}"))
        widths = [max(len(row[k]) for row in cells) for k in range(len(header))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in cells
        ]
        lines.append(f"a step of T1 over all of them: {duration(self.seconds)}")
        together = f"those of {self.processes} processes, valued as one batch"
        lines.append(f"samples: {together if self.processes > 1 else 'those of this process'}")
        lines += [f"left out: {name!r} {reason}" for name, reason in self.left_out.items()]
        return "\n".join(lines)

    __repr__ = __str__


class Observation:
    """The neurons of a model, from its latest forward pass; made by :func:`observe`.

    As a context manager it removes itself at the end. Its hooks leave the model when it is freed.

    Notes
    -----
    It is not an ``nn.Module``: kept as an attribute of the model it adds nothing to ``modules()``,
    ``parameters()`` or ``state_dict()``. ``copy.deepcopy`` and pickling of a structure that
    holds model and observation copy both, wired together; a model copied alone observes nothing.
    Passes on several threads do not mix: each thread is shown its own latest one.
    """

    def __init__(
        self,
        model: nn.Module,
        choice: Choice | None,
        watching: Watching,
        units: Units,
        sampler: Sampler,
    ) -> None:
        if choice is not None:
            refuse_scripted(model)
        self.model = model
        self._choice = choice
        self._watching = watching
        self._units = units
        self._sampler = sampler
        self._removed = False
        self._paused = False
        self._link = Link()
        self._forget()
        self._start_recording()
        if choice is not None:
            connect(model, self._link)

    def _forget(self) -> None:
        # The neurons that take part, by forward pass: each thread has a latest one of its own.
        self._chosen: WeakKeyDictionary[object, dict[str, Tensor]] = WeakKeyDictionary()
        self._told: set[str] = set()

    def _start_recording(self) -> None:
        if self._choice is not None and not self._removed:
            self._link.recorder = Recorder(self.model, self._choice, self._watching)
            self._link.recorder.paused = self._paused
            released = weakref.finalize(self, _release, self._link, weakref.ref(self.model))
            released.atexit = False
            self._released = released

    def __getstate__(self) -> dict[str, Any]:
        kept = self.__dict__.copy()
        for name in ("_chosen", "_told", "_released"):
            kept.pop(name, None)
        return kept

    def __setstate__(self, state: dict[str, Any]) -> None:
        # What was recorded belongs to another model; the copied hooks share this copied link.
        self.__dict__.update(state)
        self._forget()
        self._start_recording()

    # What there is to see

    def activations(self) -> dict[str, Tensor]:
        """The neurons that take part, layer by layer, in the order in which they were computed.

        Returns
        -------
        dict of str to Tensor, shape (samples, neurons)
            With gradients. A layer called more than once appears as ``name``, ``name:2``
            and so on.

        Raises
        ------
        AttachmentError
            If the model was not run, if it ran without gradients while they are on now, or if an
            observed tensor was changed in place.
        """
        layers, chosen = self._all()
        return {
            name: x if len(chosen[name]) == x.shape[1] else x.index_select(1, chosen[name])
            for name, x in layers.items()
        }

    @property
    def neurons(self) -> dict[str, Tensor]:
        """The neurons that take part, by layer: indices into its flattened units, or channels."""
        return self._all()[1]

    def locate(
        self, edges: Tensor, layer: str | None = None
    ) -> list[tuple[tuple[str, int], tuple[str, int]]]:
        """Return the neurons that edges join.

        Parameters
        ----------
        edges : Tensor of int64, shape (edges, 2)
            Such as a diagram's ``death_edges``.
        layer : str, optional
            The layer whose diagram they come from, where each layer has a diagram of its own.

        Returns
        -------
        list of ((layer, unit), (layer, unit))
            A unit is an index into the layer's flattened output, or a channel.
        """
        neurons = self.neurons
        if layer is not None:
            if layer not in neurons:
                raise OptionError(f"layer={layer!r} is not one of {list(neurons)}.")
            neurons = {layer: neurons[layer]}
        where = [(name, int(unit)) for name, units in neurons.items() for unit in units.tolist()]
        edges = torch.as_tensor(edges)
        if edges.ndim != 2 or edges.shape[1] != 2 or edges.is_floating_point():
            raise InputError(
                f"edges of shape {tuple(edges.shape)} and dtype {edges.dtype} were given; expected "
                "integers of shape (edges, 2), as a diagram's death_edges."
            )
        pairs = edges.tolist()
        unknown = [end for pair in pairs for end in pair if not 0 <= end < len(where)]
        if unknown:
            raise InputError(
                f"edges name neuron {unknown[0]}, but the neurons that take part are 0 to "
                f"{len(where) - 1}; pass edges of a diagram of the latest forward pass, and with "
                "layer= the layer of that diagram."
            )
        return [(where[i], where[j]) for i, j in pairs]

    def describe(self, *inputs: Any, **kwargs: Any) -> Description:
        """Describe what is observed, and what T1 on it would cost.

        Parameters
        ----------
        *inputs, **kwargs
            For one pass without gradients, in evaluation mode, which leaves no trace. Without
            them the latest pass is described.

        Returns
        -------
        Description
        """
        recorder = self._recorder()
        if inputs or kwargs:
            with torch.no_grad(), evaluating(self.model):
                made = recorder.once(inputs, kwargs)
        else:
            made = self._latest()
        with torch.no_grad():
            found, left_out = self._matrices(made)
            chosen = chosen_neurons(found, copy.deepcopy(self._sampler))
        shapes = {r.name: r.tensor.shape for r in made.records if r.tensor is not None}
        rows = [
            (name, tuple(shapes[name]), x.shape[1], len(chosen[name])) for name, x in found.items()
        ]
        processes = self._processes_together
        samples = processes * max((x.shape[0] for x in found.values()), default=0)
        took = seconds(sum(r[3] for r in rows), samples)
        return Description(rows, made.left_out | left_out, took, processes)

    @property
    def paused(self) -> bool:
        """Whether forward passes go by unobserved; set it to True to save time in validation."""
        return self._paused

    @paused.setter
    def paused(self, paused: bool) -> None:
        check_flag("paused", paused)
        self._paused = paused
        if self._link.recorder is not None:
            self._link.recorder.paused = paused

    def remove(self) -> None:
        """Take every hook off the model. Doing so twice is harmless."""
        if not self._removed and self._choice is not None:
            self._released.detach()
            disconnect(self.model, self._link)
        self._removed = True
        self._forget()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold for the sampler to continue, its options included."""
        kind = type(self._sampler).__qualname__
        return {"sampler": copy.deepcopy(vars(self._sampler)), "sampler_type": kind}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what ``state_dict()`` returned: as in optimizers, also the sampler's options.

        Raises
        ------
        OptionError
            If it is not the state of such an object, or of the same sampler.
        """
        expected = self.state_dict()
        if state.keys() != expected.keys():
            raise OptionError(
                f"the state holds {sorted(state)}; expected {sorted(expected)}, as state_dict() of "
                f"an {type(self).__name__} returns it."
            )
        if state["sampler_type"] != expected["sampler_type"]:
            raise OptionError(
                f"the state is that of a sampler {state['sampler_type']}, and here it is "
                f"{expected['sampler_type']}; give the same sampler as before."
            )
        vars(self._sampler).update(copy.deepcopy(state["sampler"]))

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.remove()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.model).__name__})"

    # Inside

    def _check_present(self) -> None:
        if self._removed:
            raise AttachmentError("this attachment was removed; call topoloss.attach again.")

    def _recorder(self) -> Recorder:
        self._check_present()
        recorder = self._link.recorder
        if recorder is None:
            raise TopolossError("no activations are observed here, only weights or parameters.")
        return recorder

    def _latest(self) -> Pass:
        recorder = self._recorder()
        if recorder.marks.rested:
            raise AttachmentError(
                "nothing was recorded of the latest forward pass: it was made while `paused` was "
                "True, or it was a step of training that every= or overhead= leaves without the "
                "penalty. Ask after a step with it, or run the model in evaluation mode."
            )
        if recorder.repeats:
            with evaluating(self.model):
                recorder.repeat()
        return recorder.latest()

    def _all(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """All neurons by layer, and which of them take part."""
        found = self._seen()
        token = self._recorder().token
        if token is None:
            return found, self._choose(found)
        if token not in self._chosen:
            self._chosen[token] = self._choose(found)
        return found, self._chosen[token]

    # How many processes' batches are taken together, as one.
    _processes_together = 1

    def _seen(self) -> dict[str, Tensor]:
        """All neurons by layer."""
        made = self._latest()
        found, left_out = self._matrices(made)
        if not any(x.shape[1] for x in found.values()):
            why = [f"{_because(left_out)}."] if left_out else []
            raise AttachmentError(
                " ".join(
                    ["no layer has any neurons; choose others with layers=.", *why, *made.notes]
                )
            )
        self._tell(made, left_out)
        return found

    def _choose(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        try:
            return chosen_neurons(found, self._sampler)
        except Exception as error:
            note_component(error)
            raise

    def _matrices(self, made: Pass) -> tuple[dict[str, Tensor], dict[str, str]]:
        check_usable(made)
        assert self._choice is not None
        return matrices(made, self._units, strict=self._choice.rule == "named")

    def _tell(self, made: Pass, left_out: dict[str, str]) -> None:
        for note in made.notes:
            self._warn(note)
        self._tell_left_out(left_out)

    def _tell_left_out(self, left_out: dict[str, str]) -> None:
        """Warn of the layers that are left out, once for each."""
        new = {name: why for name, why in left_out.items() if name not in self._told}
        self._told.update(new)
        if new:
            self._warn("these layers are left out: " + _because(new))

    def _warn(self, note: str) -> None:
        """Warn once, and name the line that called the library."""
        if note not in self._told:
            self._told.add(note)
            level, frame = 1, sys._getframe()
            while frame.f_code.co_filename.startswith(_LIBRARY) and frame.f_back is not None:
                level, frame = level + 1, frame.f_back
            warnings.warn(note, AttachmentWarning, stacklevel=level)


def _because(left_out: dict[str, str]) -> str:
    return "; ".join(f"{name!r} {reason}" for name, reason in left_out.items())


def _release(link: Link, model: weakref.ref[nn.Module]) -> None:
    """Take the hooks of a freed observation off its model."""
    observed, recorder = model(), link.recorder
    if observed is not None and recorder is not None:
        disconnect(observed, link)
        if recorder.passes == 0:
            forgotten(observed)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, with every module's own flag and the random state restored."""
    flags = [(module, module.training) for module in model.modules()]
    cuda = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(cuda)):
        try:
            # Not model.eval(): overridden versions may do more than set the flag.
            for module, _ in flags:
                module.training = False
            yield
        finally:
            for module, training in flags:
                module.training = training


@contextmanager
def looking(model: nn.Module, seen: Observation | None = None) -> Iterator[None]:
    """In this context the model can be run to examine it, which leaves no trace.

    It runs in evaluation mode, without gradients and uncompiled. Only the observation `seen`
    records the passes made here; all others keep their latest pass.
    """
    passes = unseen() if seen is None else seen._recorder().alone()
    with torch.no_grad(), evaluating(model), passes:
        yield
