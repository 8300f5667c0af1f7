"""Attach a regulariser to a model: observe its neurons, and compute a penalty on them."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from topoloss.attaching.cost import check_max_neurons, guard
from topoloss.attaching.culprit import note_component
from topoloss.attaching.gathering import Gathering, check_whole, whole
from topoloss.attaching.layers import Choice, Layers
from topoloss.attaching.metrics import Measurement, share
from topoloss.attaching.modules import own_modules
from topoloss.attaching.neurons import Units
from topoloss.attaching.observation import Observation
from topoloss.attaching.options import checked, made_regulariser, made_sampler, unknown_option
from topoloss.attaching.passes import Marks, Mask, Pass, Watching
from topoloss.attaching.reading import fed_by
from topoloss.attaching.schedule import Schedule
from topoloss.attaching.weights import no_weights, parameters, weights
from topoloss.errors import (
    AttachmentError,
    InputError,
    NonFiniteError,
    OptionError,
    TopolossError,
    check_choice,
    check_number,
    shown,
)
from topoloss.pipelines import Pipeline
from topoloss.processes import Processes
from topoloss.regularisers import Regulariser, refuse_labels, side_by_side, title
from topoloss.samplers import Sampler

__all__ = ["Attachment", "attach", "options_of"]

# Passes may come from several threads.
_COUNTING = threading.Lock()
_INPUT = "(input)"


def attach(
    model: nn.Module,
    regulariser: str | Regulariser = "t1",
    *,
    layers: Layers = "auto",
    units: Units = "unit",
    mask: Mask | None = None,
    sampler: str | Sampler = "importance",
    fraction: float | None = None,
    batch_dim: int = 0,
    per: Literal["network", "layer"] | None = None,
    after_activation: bool = True,
    eval_pass: bool = False,
    max_neurons: int | Literal["auto"] | None = "auto",
    on_small_batch: Literal["raise", "skip"] = "raise",
    warmup: int = 0,
    every: int = 1,
    overhead: float | None = None,
    group: Any = None,
    **unknown: Any,
) -> Attachment:
    """Observe the neurons of a model, and compute a regulariser's penalty on them.

    Parameters
    ----------
    model : Module
        Any feed-forward module. ``remove()`` leaves it as it was.
    regulariser : str or Regulariser
        A name, with options in brackets as in ``"t1[reduction=mean]"``, or an instance.
    layers, units, mask, batch_dim, after_activation, eval_pass
        As for :func:`topoloss.observe`.
    sampler : str or Sampler
        Which neurons of each layer take part. The last layer is always taken whole, even if it
        is the only one.
    fraction : float, optional
        The fraction of each layer that a sampler given by name takes; by default every neuron.
        The shipped samplers take floor(fraction * n) of a layer's n neurons, so a layer with
        fewer than ``1 / fraction`` neurons takes no part, unless it is the last.
    per : {"network", "layer"}, optional
        One diagram over all neurons, or one for each layer, whose values are summed. By default
        :meth:`topoloss.Regulariser.of_layers` decides: it joins all layers unless overridden.
    max_neurons : int, "auto" or None
        With more neurons than this the penalty would take too long, and raises an error instead.
        Only neurons left by `units`, `sampler` and `fraction` count, and with ``per="layer"``
        only those of the largest layer. ``"auto"`` is 32,768 on a CPU and 131,072 on a GPU; None
        sets no limit. A regulariser without a spanning tree has no limit.
    on_small_batch : {"raise", "skip"}
        What to do with fewer than two samples, after masking. ``"skip"`` gives a penalty of zero
        without a gradient, and counts it in ``penalty.skipped``.
    warmup : int
        Steps over which the value is multiplied by a factor that rises linearly from 0 to 1. A
        step is a forward pass in training mode that is followed by a ``penalty()`` with
        gradients; with gradient accumulation each micro-batch is one.
    every : int
        The penalty is applied at the first step and at each `every`-th after it. At the steps
        between, its value is a zero that ``backward`` accepts, and no activations are recorded.
        At the steps with the penalty its value is not multiplied by `every`.
    overhead : float, optional
        Choose `every` so that the penalty lengthens training by about this share: 0.1 for a
        tenth. The first 20 steps are timed, in turns of four with the penalty and four without.
        Then `every` is fixed, logged, and kept in ``state_dict()``. With ``torch.distributed``
        rank 0 decides for all. Two machines may choose differently. The choice never changes
        which neurons are sampled for a penalty that is applied.
    group : torch.distributed.ProcessGroup, optional
        Take the samples of all its processes together, as one batch. Gradients of parameters are
        those of that batch once they are averaged over the processes, as DDP and FSDP do. By
        default each process takes its own batch.

    Returns
    -------
    Attachment
        Call it after the model for the penalty.

    Raises
    ------
    OptionError, AttachmentError
        For an option that is unknown or would be ignored, a pattern that matches nothing, or a
        compiled model.
    InputError
        For a regulariser that needs labels.

    Notes
    -----
    A regulariser of weights or parameters (l1, l2) takes them from the model and needs no forward
    pass: each call in training mode with gradients is a step. Options that it would ignore,
    such as those about neurons, are errors unless they have their default values.

    Passes in evaluation mode are not steps: their penalty has its full value.

    Weights are those of linear layers, convolutions, recurrent layers and attention. Each matrix of
    the last two has the name of its parameter. Any other parameter of two or more axes is left
    out with a warning that names it; embeddings and norms are left out silently, as they are
    not linear maps.

    A compiled model is observed, too, if it was attached to and run once before it was compiled.

    Examples
    --------
    >>> import torch, topoloss
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> penalty = topoloss.attach(model, "t1")
    >>> loss = model(torch.randn(16, 4)).square().mean() + 1e-3 * penalty()
    >>> loss.backward()
    >>> {layer: len(index) for layer, index in penalty.neurons.items()}
    {'0': 8, '2': 3}
    """
    given = dict(locals())
    if unknown:
        raise unknown_option(attach, next(iter(unknown)))
    watching = Watching(batch_dim, after_activation, mask, eval_pass)
    choice = checked(model, layers, units, watching)
    if per is not None:
        check_choice("per", per, ("network", "layer"))
    check_choice("on_small_batch", on_small_batch, ("raise", "skip"))
    check_max_neurons(max_neurons)
    chosen_by = made_sampler(sampler, fraction)
    made = made_regulariser(regulariser)
    refuse_labels(made)
    schedule = Schedule(warmup, every, overhead)
    _refuse_ignored(made, given)
    if per is not None and type(made).of_layers is not Regulariser.of_layers:
        raise OptionError(
            f"per={per!r} was given, but {title(made)} joins the layers in its own way "
            "(of_layers); leave per out."
        )
    watches = made.source == "activations" or made.structure is not None
    return Attachment(
        model,
        made,
        choice if watches else None,
        watching,
        units,
        chosen_by,
        schedule,
        chosen=None if choice.rule == "auto" else choice.modules,
        per=per,
        # fraction= is refused together with a sampler instance.
        takes_fraction=isinstance(sampler, str),
        max_neurons=max_neurons,
        on_small_batch=on_small_batch,
        gathering=None if group is None else Gathering(Processes(group)),
    )


class Attachment(Observation):
    """A regulariser attached to a model; made by :func:`attach`.

    Call it for the penalty on the latest forward pass. As a context manager it removes itself at
    the end.

    Attributes
    ----------
    regulariser : Regulariser
    skipped : int
        How many batches were too small so far; ``regulariser.skipped`` counts those with NaN.

    Examples
    --------
    >>> import torch, topoloss
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    >>> with topoloss.attach(model, "t2") as penalty:
    ...     _ = model(torch.randn(16, 4))
    ...     penalty().backward()
    >>> len(model._forward_hooks)
    0
    """

    def __init__(
        self,
        model: nn.Module,
        regulariser: Regulariser,
        choice: Choice | None,
        watching: Watching,
        units: Units,
        sampler: Sampler,
        schedule: Schedule,
        *,
        chosen: list[str] | None,
        per: Literal["network", "layer"] | None,
        takes_fraction: bool,
        max_neurons: int | Literal["auto"] | None,
        on_small_batch: Literal["raise", "skip"],
        gathering: Gathering | None,
    ) -> None:
        self.regulariser = regulariser
        self.skipped = 0
        self._schedule = schedule
        self._measurement: Measurement | None = None
        self._applied = False
        self._chosen_modules = chosen
        self._per = per
        self._takes_fraction = takes_fraction
        self._max_neurons = max_neurons
        self._on_small_batch = on_small_batch
        self._gathering = gathering
        self._processes_together = 1 if gathering is None else gathering.processes.size
        self._looked = False
        super().__init__(model, choice, watching, units, sampler)

    def __call__(self) -> Tensor:
        """Return the penalty on the latest forward pass, or on the weights.

        Returns
        -------
        Tensor, shape ()

        Raises
        ------
        AttachmentError
            If the model was not run, if it ran without gradients while they are on now, if an
            observed tensor was changed in place, or if the layers share no sample axis.
        TooLargeError
            For more neurons than `max_neurons`.
        NonFiniteError
            With the layers that hold NaN or infinity.
        """
        self._check_present()
        recorder = self._link.recorder
        # Weights need no forward pass: each call stands for one.
        marks = Marks(self.model.training) if recorder is None else recorder.marks
        if not marks.trains:
            self._tell_of_evaluation()
            self._applied = True
            return self._measured(1)
        counted = marks.factor is not None
        rests = marks.rested or (not counted and not self._schedule.applies)
        factor = self._schedule.factor if marks.factor is None else marks.factor
        self._applied = not rests
        value = self._zero() if rests else self._measured(factor)
        if torch.is_grad_enabled() and not counted:
            marks.rested, marks.factor = rests, factor
            self._schedule.count()
            self._set_rest()
        return value

    def _measured(self, factor: float) -> Tensor:
        with Measurement(self.regulariser) as measurement:
            value = self._value(measurement)
        if factor != 1:
            value = factor * value
        measurement.note_value(value)
        self._measurement = measurement
        return value

    def _value(self, measurement: Measurement) -> Tensor:
        layers = self._taken()
        if self.regulariser.source != "activations":
            value = self.regulariser.of_layers(layers)
            self._tell_of_nothing(value, layers)
            return value
        small = any(x.shape[0] < 2 for x in layers.values())
        if small and self._on_small_batch == "skip":
            with _COUNTING:
                self.skipped += self._recorder().skip()
            return self._zero()
        measurement.note_layers(layers)
        self._guard(layers)
        try:
            return self._valued(layers)
        except NonFiniteError as error:
            raise NonFiniteError(f"{error} {_where(layers)}") from error
        except InputError as error:
            if not small or not self._values_more_samples(layers):
                raise
            raise InputError(
                f"{error} Or let such batches pass: attach(..., on_small_batch='skip')."
            ) from error
        except Exception as error:
            note_component(error)
            raise

    def _zero(self) -> Tensor:
        """A zero that backward accepts, and by which no parameter gets a gradient: a new leaf."""
        device = next((p.device for p in self.model.parameters()), None)
        return torch.zeros((), device=device, requires_grad=torch.is_grad_enabled())

    def _start_recording(self) -> None:
        super()._start_recording()
        if self._gathering is not None and self._link.recorder is not None:
            self._link.recorder.on_begin = self._gathering.forget
        self._set_rest()

    def _set_rest(self) -> None:
        """Record the next training pass only if the penalty is applied to it."""
        if self._link.recorder is not None:
            self._link.recorder.at_rest = not self._schedule.applies

    def _tell_of_evaluation(self) -> None:
        if torch.is_grad_enabled() and not self.model.training and not self._schedule.plain:
            self._warn(
                "a penalty with gradients was asked for in evaluation mode, which is not a "
                "training step: it has its full value, whatever warmup=, every= and overhead= say. "
                "Call model.train() to train."
            )

    def metrics(
        self, loss: Tensor | float | None = None, weight: float | None = None, level: float = 0.05
    ) -> dict[str, float]:
        """Return numbers to log about the latest penalty that was applied; no new tree is made.

        Parameters
        ----------
        loss : Tensor or float, optional
            The whole loss, the weighted penalty included.
        weight : float, optional
            What the penalty was multiplied by in the loss.
        level : float
            A death of at most this is a copy: where deaths are ``1 - |r|``, 0.05 means a
            correlation of at least 0.95. The level of `topoloss.redundancy` means the same.

        Returns
        -------
        dict of str to float
            ``value``, what ``penalty()`` returned; ``median_death`` and ``lowest_death`` in
            dimension 0; ``copies``, how many of these deaths are at most the level: that many
            neurons could go if one of each group of copies stayed; ``constant``, how many neurons
            have activations that differ by no more than rounding; ``seconds``, how long
            ``penalty()`` took, on a GPU until its work was launched. With a loss and a weight also
            ``share``, the weighted penalty divided by the loss: negative where the penalty is, as
            T1 always is, and 0 after a step without it. A regulariser without diagrams, or of
            weights, has fewer of these.

        Raises
        ------
        AttachmentError
            If ``penalty()`` was not called yet.
        OptionError
            For a loss without a weight, or a weight without a loss.

        Examples
        --------
        >>> import torch, topoloss
        >>> model = torch.nn.Linear(2, 3, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]]))
        >>> penalty = topoloss.attach(model, "t1")
        >>> _ = model(torch.tensor([[1.0, 2.0], [2.0, 1.0], [3.0, 5.0]])), penalty()
        >>> numbers = penalty.metrics()
        >>> numbers["copies"], numbers["constant"], numbers["median_death"]
        (1, 1, 0.5)
        """
        check_number("level", level)
        measurement = self._latest_measurement()
        value = float(measurement.value) if self._applied else 0.0
        return measurement.numbers(level) | share(value, loss, weight)

    @property
    def deaths(self) -> Tensor:
        """The deaths in dimension 0 of the latest penalty that was applied, ascending, on the CPU.

        They come from all diagrams, without gradients; no new tree is made.
        """
        return self._latest_measurement().deaths

    def _latest_measurement(self) -> Measurement:
        if self._measurement is None:
            raise AttachmentError(
                "penalty() was not called yet; its numbers are those of the latest call."
            )
        return self._measurement

    def diagrams(self) -> Any:
        """Return the diagrams of the latest forward pass.

        Returns
        -------
        list of Diagram, or dict from layer name to list of Diagram with ``per="layer"``
        """
        layers = self._taken()
        if self.regulariser.source != "activations":
            return self.regulariser.diagrams(layers)  # type: ignore[arg-type]
        self._guard(layers)
        if self._joins:
            return self.regulariser.diagrams(side_by_side(layers))
        return {name: self.regulariser.diagrams(x) for name, x in layers.items()}

    @property
    def neurons(self) -> dict[str, Tensor]:
        """The neurons that take part, by layer: indices into its flattened units, or channels."""
        if self.regulariser.source != "activations":
            raise TopolossError(
                f"{title(self.regulariser)} takes {self.regulariser.source}, not neurons."
            )
        return super().neurons

    def locate(
        self, edges: Tensor, layer: str | None = None
    ) -> list[tuple[tuple[str, int], tuple[str, int]]]:
        if layer is None and not self._joins:
            raise OptionError(
                "each layer has a diagram of its own; say with layer= which layer's diagram these "
                "edges come from."
            )
        return super().locate(edges, layer)

    locate.__doc__ = Observation.locate.__doc__

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold: the states of sampler and regulariser, and the counts."""
        return super().state_dict() | {
            "regulariser": self.regulariser.state_dict(),
            "skipped": self.skipped,
            "schedule": self._schedule.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what ``state_dict()`` returned."""
        super().load_state_dict(state)
        self.regulariser.load_state_dict(state["regulariser"])
        self.skipped = state["skipped"]
        self._schedule.load_state_dict(state["schedule"])
        self._set_rest()

    def __repr__(self) -> str:
        return f"Attachment({type(self.model).__name__}, {self.regulariser!r})"

    @property
    def _joins(self) -> bool:
        """Whether one penalty is computed on all layers side by side."""
        own_way = type(self.regulariser).of_layers is not Regulariser.of_layers
        return self._per != "layer" and not own_way

    def _taken(self) -> dict[str, Tensor]:
        """The tensors that the regulariser takes, by layer."""
        self._check_present()
        source = self.regulariser.source
        if source == "parameters":
            if self.regulariser.structure is not None:
                self._check_structure(self._latest())
            check_whole(self.model, ())
            return whole(parameters(self.model))
        if source == "weights":
            check_whole(self.model, self._chosen_modules)
            found = whole(weights(self.model, self._chosen_modules))
            self._tell_left_out(no_weights(self.model, self._chosen_modules))
            return found if self.regulariser.structure is None else self._in_order(found)
        layers = self.activations()
        made = self._recorder().latest()
        self._check_structure(made)
        layers = {name: x for name, x in layers.items() if x.shape[1]}
        if self.regulariser.inputs:
            layers = {_INPUT: self._all_inputs(made)} | layers
        if self._joins:
            _check_samples(layers)
        self._tell_of_frozen(layers)
        return layers

    def _tell_of_frozen(self, layers: dict[str, Tensor]) -> None:
        """Warn once if the model has trainable parameters, but these layers depend on none."""
        lost = torch.is_grad_enabled() and not any(x.requires_grad for x in layers.values())
        if lost and any(p.requires_grad for p in self.model.parameters()):
            self._warn(
                f"the layers {list(layers)} depend on no trainable parameter, so the penalty "
                "changes nothing; choose other layers with layers=."
            )

    def _tell_of_nothing(self, value: Tensor, layers: dict[str, Tensor]) -> None:
        """Warn once if a filtration of weights lets no edge count in the loss."""
        made = self.regulariser
        if not isinstance(made, Pipeline) or torch.compiler.is_compiling() or self._looked:
            return
        self._looked = True
        if torch._C._are_functorch_transforms_active() or float(value.detach()) != 0:
            return
        with torch.no_grad():
            counted = sum(int(d.weights.count_nonzero()) for d in made.diagrams(layers))
        if not counted:
            self._warn(
                f"{made.filtration!r} lets no edge of this network count in the loss, so the "
                f"penalty is 0 and changes nothing.{_remedy(made.filtration)}"
            )

    def _valued(self, layers: dict[str, Tensor]) -> Tensor:
        if self._per == "layer":
            return torch.stack([self.regulariser(x) for x in layers.values()]).sum()
        return self.regulariser.of_layers(layers)

    def _values_more_samples(self, layers: dict[str, Tensor]) -> bool:
        """Whether two samples, of zeros, raise no error: then there were only too few of them."""
        try:
            with torch.no_grad():
                self._valued({name: x.new_zeros(2, x.shape[1]) for name, x in layers.items()})
        except Exception:
            return False
        return True

    def _guard(self, layers: dict[str, Tensor]) -> None:
        # Only pipelines have a spanning tree.
        if isinstance(self.regulariser, Pipeline):
            channels = self._recorder().latest().channels()
            fraction = getattr(self._sampler, "fraction", None) if self._takes_fraction else None
            named = {name for name, _ in own_modules(self.model)}
            guard(layers, channels, self._joins, fraction, named, self._max_neurons)

    def _all_inputs(self, made: Pass) -> Tensor:
        if self._gathering is None:
            return self._inputs(made)
        return self._gathering.of_pass(self._recorder().token, self._own)[_INPUT]

    # Gathering over the processes of a group

    def _seen(self) -> dict[str, Tensor]:
        if self._gathering is None:
            return super()._seen()
        gathered = self._gathering.of_pass(self._recorder().token, self._own)
        return {name: x for name, x in gathered.items() if name != _INPUT}

    def _own(self) -> dict[str, Tensor]:
        """The layers of this process alone."""
        found = super()._seen()
        if self.regulariser.inputs:
            found = found | {_INPUT: self._inputs(self._recorder().latest())}
        return found

    def _choose(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        choose = super()._choose
        if self._gathering is None or getattr(self._sampler, "fraction", None) == 1:
            return choose(found)
        # A sampler may draw by chance, so one process decides for all.
        chosen = self._gathering.processes.broadcast(
            lambda: {name: index.cpu() for name, index in choose(found).items()}
        )
        return {name: index.to(found[name].device) for name, index in chosen.items()}

    def _forget(self) -> None:
        super()._forget()
        if self._gathering is not None:
            self._gathering.forget()

    def _inputs(self, made: Pass) -> Tensor:
        if made.inputs is None:
            raise AttachmentError(
                f"{title(self.regulariser)} takes the model's input as well, but the model "
                "was given no floating-point tensor with an axis of samples."
            )
        x = made.inputs.movedim(self._watching.batch_dim, 0)
        return x[:, None] if x.ndim == 1 else x.flatten(1)

    def _in_order(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        made = self._latest()
        self._check_structure(made)
        names = [r.name for r in made.records]
        missing = [name for name in names if name not in found]
        if missing:
            raise AttachmentError(f"the layers {missing} have no weight matrix of their own.")
        return {name: found[name] for name in names}

    def _check_structure(self, made: Pass) -> None:
        """Raise unless each layer feeds only the next, where the regulariser asks for that."""
        if self.regulariser.structure is None:
            return
        before = "(input)"
        for record in made.records:
            feeding = fed_by(record, made.records)
            if feeding != {before}:
                raise AttachmentError(
                    f"{title(self.regulariser)} needs layers that form a chain, each "
                    f"feeding only the next; layer {record.name!r} is fed by {sorted(feeding)}, "
                    f"expected {before!r} alone. Choose layers that form a chain with layers=, or "
                    "attach to a part of the model that is one."
                )
            before = record.name


def _remedy(filtration: object) -> str:
    options = " or ".join(f"{option}=" for option in inspect.signature(type(filtration)).parameters)
    return f" Change the option that leaves edges out: {options}." if options else ""


def options_of(regulariser: Regulariser) -> frozenset[str]:
    """The options of :func:`attach` that make a difference to a regulariser."""
    if regulariser.source == "activations":
        every = frozenset(inspect.signature(attach).parameters)
        # Only pipelines have a spanning tree.
        return every if isinstance(regulariser, Pipeline) else every - {"max_neurons"}
    scheduling = frozenset({"warmup", "every", "overhead"})
    if regulariser.structure is not None:  # a forward pass says what feeds what
        return scheduling | {"layers", "eval_pass"}
    return scheduling | ({"layers"} if regulariser.source == "weights" else frozenset())


def _refuse_ignored(regulariser: Regulariser, given: Mapping[str, Any]) -> None:
    """Raise if an option was given, other than its default, that makes no difference."""
    parameters = inspect.signature(attach).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    taken = options_of(regulariser)
    ignored = [
        f"{option}={shown(given[option])}"
        for option, default in defaults.items()
        if option not in taken and given[option] != default
    ]
    if not ignored:
        return
    if regulariser.source == "activations":
        why = "has no spanning tree"
    else:
        why = f"takes the {regulariser.source} of the model and no neurons"
    options = sorted(taken & set(defaults))
    raise OptionError(
        f"{', '.join(ignored)} was given, and would be ignored: {title(regulariser)} "
        f"{why}. Leave it out; of the options of attach it takes {options or 'none'}."
    )


def _check_samples(layers: dict[str, Tensor]) -> None:
    if len({x.shape[0] for x in layers.values()}) > 1:
        shapes = ", ".join(f"{name!r}: {tuple(x.shape)}" for name, x in layers.items())
        raise AttachmentError(
            f"the layers have different numbers of samples; shapes (samples, neurons): {shapes}. "
            "Choose layers that share a sample axis with layers= or batch_dim=, or give each layer "
            "a diagram of its own with per='layer'."
        )


def _where(layers: dict[str, Tensor]) -> str:
    bad = {name: int((~torch.isfinite(x)).any(0).sum()) for name, x in layers.items()}
    return "By layer: " + ", ".join(f"{name!r} {n}" for name, n in bad.items() if n) + "."
