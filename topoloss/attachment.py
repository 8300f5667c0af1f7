"""Attach a regulariser to a model: which neurons, valued when, for two lines of a training loop."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from topoloss import components, plugins
from topoloss.errors import (
    AttachmentError,
    InputError,
    NonFiniteError,
    OptionError,
    TopolossError,
    check_choice,
    nearest,
)
from topoloss.layers import Layers, select_layers
from topoloss.observation import Observed, Observer
from topoloss.regularisers import Regulariser
from topoloss.samplers import Sampler

__all__ = ["Attachment", "attach"]


def attach(
    model: nn.Module,
    regulariser: str | Regulariser = "t1",
    *,
    layers: Layers | None = None,
    after_activation: bool = True,
    units: Literal["unit", "channel"] = "unit",
    sampler: str | Sampler = "importance",
    fraction: float | None = None,
    batch_dim: int = 0,
    per: Literal["network", "layer"] = "network",
    eval_pass: bool = False,
    watch: Literal["first", "always"] = "first",
    **unknown: Any,
) -> Attachment:
    """Observe the neurons of a model, and value them by a regulariser.

    Parameters
    ----------
    model : Module
        Any feed-forward module. It is left as found by :meth:`Attachment.remove`.
    regulariser : str or Regulariser
        A name, or an instance for one with options.
    layers : str, type, or sequence of these, optional
        Which modules count: names, globs on names, or module types. By default every
        module with trainable parameters of its own; one that is never called itself (the
        output projection of attention) is covered by the module around it. Of an output
        that is a tuple the first tensor counts.
    after_activation : bool
        Take a layer's output after the elementwise activation that directly follows it,
        written as a module or as a function. False takes modules' outputs as they are.
    units : {"unit", "channel"}
        ``"unit"``: each channel and position is a neuron, as in the paper. ``"channel"``:
        each channel is one, and positions are further samples.
    sampler : str or Sampler
        Which neurons of each layer take part. The last layer is always taken whole.
    fraction : float, optional
        The sampler's fraction of each layer, when the sampler is given by name; its own
        default, every neuron, if left out.
    batch_dim : int
        The axis of all observed tensors that counts samples: 1 for sequence models with
        ``batch_first=False``, which is told by a warning if it is forgotten.
    per : {"network", "layer"}
        One diagram over all neurons, or one for each layer, whose values are summed.
    eval_pass : bool
        Value a second forward pass on the same inputs in evaluation mode (dropout off,
        running statistics, gradients on), as the paper's authors did, instead of the
        model's own latest one.
    watch : {"first", "always"}
        Learn what follows each layer from the first forward pass (in training and in
        evaluation mode each), or from every pass anew, which costs some microseconds for
        every torch function: for models whose path changes from call to call.

    Returns
    -------
    Attachment
        Call it after the model for the penalty.

    Raises
    ------
    OptionError, AttachmentError
        For an unknown option, a pattern that matches nothing, or a compiled model.

    Notes
    -----
    A regulariser of parameters (l1, l2) needs none of the options about
    neurons. The model's first forward pass is watched for the activations that follow its
    layers. One that is a module is observed itself; one that is a function is applied to the
    layer's output once more when the penalty is valued, with the arguments that it had in the
    first pass: a model that changes them, or the function, needs ``watch="always"``. Where it
    is not clear which tensor holds a layer's neurons (``h * torch.sigmoid(h)``), that is an
    error. So is a function that torch's
    function modes do not see, such as a scripted one, in a pass with gradients.

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
    if unknown:
        known = [
            name
            for name, parameter in inspect.signature(attach).parameters.items()
            if parameter.kind is parameter.KEYWORD_ONLY
        ]
        raise OptionError(
            f"attach has no option {next(iter(unknown))!r}; its options are {known}."
            f"{nearest(next(iter(unknown)), known)} Options of the regulariser go through an "
            "instance: attach(model, topoloss.regulariser('t2', alpha=0.5))."
        )
    if not isinstance(model, nn.Module):
        raise InputError(f"model is {model!r}; expected a torch.nn.Module.")
    check_choice("units", units, ("unit", "channel"))
    check_choice("per", per, ("network", "layer"))
    check_choice("watch", watch, ("first", "always"))
    if not isinstance(batch_dim, int):
        raise OptionError(f"batch_dim={batch_dim!r} was given; expected an integer.")
    made = _regulariser(regulariser)
    chosen = _sampler(sampler, fraction)
    if made.source != "activations":
        if layers is not None:
            select_layers(model, layers)
        return Attachment(model, made)
    if batch_dim == 0 and units == "unit":
        _warn_of_sequence_first(model, select_layers(model, layers))
    return Attachment(
        model,
        made,
        Observer(model, layers, after_activation, watch, repeats=eval_pass),
        chosen,
        units=units,
        batch_dim=batch_dim,
        per=per,
        eval_pass=eval_pass,
    )


class Attachment:
    """A regulariser attached to a model; made by :func:`attach`.

    Calling it values the latest forward pass. As a context manager it removes itself.

    Notes
    -----
    ``copy.deepcopy`` and pickling copy model and attachment together; a copied model
    observes itself, and forgets what was recorded.

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
        observer: Observer | None = None,
        sampler: Sampler | None = None,
        *,
        units: Literal["unit", "channel"] = "unit",
        batch_dim: int = 0,
        per: Literal["network", "layer"] = "network",
        eval_pass: bool = False,
    ) -> None:
        self.model = model
        self.regulariser = regulariser
        self._observer = observer
        self._sampler = sampler
        self._units = units
        self._batch_dim = batch_dim
        self._per = per
        self._eval_pass = eval_pass
        self._removed = False
        # The forward pass of the model that the choice of neurons is for, and the choice.
        self._sample: tuple[object, dict[str, Tensor]] = (None, {})

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_sample": (None, {})}

    def __call__(self) -> Tensor:
        """Value the latest forward pass.

        Returns
        -------
        Tensor, shape ()

        Raises
        ------
        AttachmentError
            If the model was not run, ran without gradients while they are on now, or was
            changed in place where it is observed; or if layers share no sample axis.
        NonFiniteError
            With the layers that hold NaN or infinity.
        """
        if self._observer is None:
            self._check_not_removed()
            return self.regulariser.of_layers(dict(self.model.named_parameters()))
        layers = self._layers()
        try:
            values = [self.regulariser(x) for x in self._problems(layers).values()]
        except NonFiniteError as error:
            raise NonFiniteError(f"{error} {_where(layers)}") from error
        return torch.stack(values).sum()

    def diagrams(self) -> Any:
        """Return the diagrams of the latest forward pass.

        Returns
        -------
        list of Diagram, or dict from layer name to list of Diagram with ``per="layer"``
        """
        if self._observer is None:
            return self.regulariser.diagrams(dict(self.model.named_parameters()))  # type: ignore[arg-type]
        found = {
            name: self.regulariser.diagrams(x) for name, x in self._problems(self._layers()).items()
        }
        return found if self._per == "layer" else found[_NETWORK]

    @property
    def neurons(self) -> dict[str, Tensor]:
        """The neurons that take part, by layer: indices into its flattened units.

        A layer called more than once appears as ``name``, ``name:2`` and so on.
        """
        if self._observer is None:
            raise TopolossError(
                f"{type(self.regulariser).__name__} observes the model, not its neurons."
            )
        self._layers()
        return self._sample[1]

    def remove(self) -> None:
        """Take every hook off the model. Doing so twice is harmless."""
        if self._observer is not None:
            self._observer.remove()
        self._removed = True
        self._sample = (None, {})

    def __enter__(self) -> Attachment:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.remove()

    def __repr__(self) -> str:
        return f"Attachment({type(self.model).__name__}, {self.regulariser!r})"

    def _check_not_removed(self) -> None:
        if self._removed:
            raise AttachmentError("this attachment was removed; call topoloss.attach again.")

    def _layers(self) -> dict[str, Tensor]:
        """The chosen neurons of each layer, shape (samples, neurons), in the order of the calls."""
        self._check_not_removed()
        assert self._observer is not None
        if self._eval_pass:
            with _evaluating(self.model):
                self._observer.repeat()
        units = {o.name: self._to_units(o) for o in self._observer.latest()}
        if self._sample[0] is not self._observer.latest_pass:
            self._sample = (self._observer.latest_pass, self._choose(units))
        chosen = self._sample[1]
        return {
            name: x if len(chosen[name]) == x.shape[1] else x.index_select(1, chosen[name])
            for name, x in units.items()
        }

    def _to_units(self, observed: Observed) -> Tensor:
        x, axes = observed.tensor, observed.tensor.ndim
        if self._units == "channel" and axes > 1:
            if observed.channel_axis is None:
                raise AttachmentError(
                    f"layer {observed.name!r} put out shape {tuple(x.shape)}, and which axis holds "
                    "its channels is not known; choose other layers with layers=, or units='unit'."
                )
            return x.movedim(observed.channel_axis, -1).flatten(0, -2)
        if not -axes <= self._batch_dim < axes:
            raise AttachmentError(
                f"layer {observed.name!r} put out shape {tuple(x.shape)}, which has no axis "
                f"batch_dim={self._batch_dim}."
            )
        x = x.movedim(self._batch_dim, 0)
        return x.flatten(1) if axes > 1 else x[:, None]

    @torch.no_grad()
    def _choose(self, units: dict[str, Tensor]) -> dict[str, Tensor]:
        assert self._sampler is not None
        chosen = {}
        for name, x in units.items():
            if name == next(reversed(units)):
                chosen[name] = torch.arange(x.shape[1], device=x.device)
            else:
                index = self._sampler.select(x.detach())
                _check_index(index, x.shape[1], self._sampler)
                chosen[name] = index
        return chosen

    def _problems(self, layers: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the regulariser sees: all layers side by side, or each by itself."""
        layers = {name: x for name, x in layers.items() if x.shape[1]}
        if not layers:
            raise AttachmentError("no layer put out any neurons; choose others with layers=.")
        if self._per == "layer":
            return layers
        if len({x.shape[0] for x in layers.values()}) > 1:
            shapes = ", ".join(f"{name!r}: {tuple(x.shape)}" for name, x in layers.items())
            raise AttachmentError(
                f"the layers have differing numbers of samples (samples, neurons): {shapes}. "
                "Choose layers that share a sample axis with layers= or batch_dim=, or value each "
                "by itself with per='layer'."
            )
        device = next(iter(layers.values())).device
        return {_NETWORK: torch.cat([x.to(device) for x in layers.values()], 1)}


_NETWORK = "network"


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
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


def _regulariser(given: str | Regulariser) -> Regulariser:
    if isinstance(given, str):
        return components.regulariser(given)
    if not isinstance(given, Regulariser):
        raise OptionError(
            f"regulariser is {given!r}; expected a name of {plugins.available('regulariser')} "
            "or a topoloss.Regulariser."
        )
    return given


def _sampler(given: str | Sampler, fraction: float | None) -> Sampler:
    if isinstance(given, str):
        return components.sampler(given, **({} if fraction is None else {"fraction": fraction}))
    if not isinstance(given, Sampler):
        raise OptionError(
            f"sampler is {given!r}; expected a name of {plugins.available('sampler')} or a "
            "topoloss.Sampler."
        )
    if fraction is not None:
        raise OptionError(
            f"fraction={fraction} was given beside a sampler instance; give it to the sampler."
        )
    return given


def _warn_of_sequence_first(model: nn.Module, names: Sequence[str]) -> None:
    modules = dict(model.named_modules())
    found = [name for name in names if getattr(modules[name], "batch_first", True) is False]
    if found:
        warnings.warn(
            f"{found[0]!r} has batch_first=False, so its axis 0 counts positions, and batch_dim=0 "
            "takes them for samples; pass batch_dim=1, or build it with batch_first=True.",
            UserWarning,
            stacklevel=3,
        )


def _check_index(index: object, n: int, sampler: Sampler) -> None:
    """Raise unless `index` holds ascending, distinct indices below `n`."""
    if not isinstance(index, Tensor) or index.dtype != torch.int64 or index.ndim != 1:
        expected = "a 1-d tensor of int64 (of a mask: mask.nonzero()[:, 0])"
    elif index.device.type != "cpu":
        return  # to look at values would wait for the device
    elif len(index) and not (int(index[0]) >= 0 and int(index[-1]) < n):
        expected = f"indices from 0 to {n - 1}"
    elif bool((index[1:] <= index[:-1]).any()):
        expected = "distinct indices in ascending order"
    else:
        return
    raise OptionError(
        f"{type(sampler).__name__}.select returned {index!r} for {n} neurons; expected {expected}."
    )


def _where(layers: dict[str, Tensor]) -> str:
    bad = {name: int((~torch.isfinite(x)).any(0).sum()) for name, x in layers.items()}
    return "By layer: " + ", ".join(f"{name!r} {n}" for name, n in bad.items() if n) + "."
