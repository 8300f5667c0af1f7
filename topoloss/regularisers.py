"""Regularisers turn activations, weights or parameters into one number to add to the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from topoloss.errors import (
    InputError,
    TopolossError,
)
from topoloss.filtrations import (
    Source,
    Structure,
    check_declared,
)
from topoloss.finite import Guarded, check_named, describe

__all__ = ["Activations", "Regulariser", "device_type", "refuse_labels", "side_by_side", "title"]

Activations: TypeAlias = Tensor | Sequence[Tensor]


class Regulariser(Guarded):
    """Turn tensors into one number to add to the training loss.

    Subclasses implement :meth:`compute`. A regulariser never sees a model:
    :func:`topoloss.attach` takes the tensors out of the model and hands them over.

    Parameters
    ----------
    on_nonfinite : {"raise", "skip"}
        What to do about NaN or infinity in the activations. ``"skip"`` returns zero with a zero
        gradient for that element of the batch and counts it in ``skipped``.
    check_finite : bool, optional
        Whether ``"raise"`` checks at once. By default it does for eager code on the CPU;
        elsewhere that would synchronise the device, so the next call raises the error.
        Inside :func:`torch.vmap` and :func:`torch.func.grad` no check is possible.

    Attributes
    ----------
    source : {"activations", "weights", "parameters"}
        Which tensors it takes. ``"activations"``: those of all layers, side by side.
        ``"weights"``: a mapping from each layer's name to its weight (fan_out, fan_in, ...).
        ``"parameters"``: a mapping from names to all trainable parameters, biases included.
    structure : {None, "chain"}
        With ``"chain"`` :func:`topoloss.attach` raises an error unless each layer feeds only the
        next one; weights then come in that order.
    inputs : bool
        Whether :func:`topoloss.attach` adds the model's input to the activations, as a first
        layer named ``"(input)"``.
    labels : bool
        Whether it takes a list with the samples of each class. :func:`topoloss.attach` has no
        labels, and refuses such a regulariser.
    vmappable : bool
        Whether :func:`torch.vmap` can map over :meth:`compute`.
    surrogate_gradient : bool
        As for :class:`Filtration`. A pipeline need not repeat what its stages declare.
    skipped : Tensor of int64, shape ()
        How many elements of batches were skipped so far under ``on_nonfinite="skip"``.

    Examples
    --------
    >>> import torch, topoloss
    >>> class MeanSquare(topoloss.Regulariser):
    ...     def compute(self, x):
    ...         return x.square().mean()
    >>> MeanSquare()(torch.tensor([[1.0, 3.0]]))
    tensor(5.)
    >>> class Spectral(topoloss.Regulariser):
    ...     source = "weights"
    ...     def compute(self, weights):
    ...         return sum(torch.linalg.matrix_norm(w.flatten(1), 2) for w in weights.values())
    >>> Spectral()({"hidden": torch.diag(torch.tensor([2.0, 3.0]))})
    tensor(3.)
    """

    source: Source = "activations"
    structure: Structure = None
    inputs: ClassVar[bool] = False
    labels: ClassVar[bool] = False
    surrogate_gradient: bool = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        check_declared(cls)

    def __init__(
        self,
        *,
        on_nonfinite: Literal["raise", "skip"] = "raise",
        check_finite: bool | None = None,
    ) -> None:
        super().__init__(on_nonfinite, check_finite)

    @property
    def vmappable(self) -> bool:
        return True

    def compute(self, given: Any) -> Tensor:
        """Value the activations of one element of a batch, or the weights or parameters of a model.

        Parameters
        ----------
        given : Tensor, shape (samples, neurons), or dict of str to Tensor
            Checked activations; ``forward`` maps over batches and sequences. For the sources
            ``"weights"`` and ``"parameters"``, a mapping.

        Returns
        -------
        Tensor, shape ()
        """
        raise NotImplementedError(f"{type(self).__name__} must implement compute(given)")

    def forward(self, given: Activations | Mapping[str, Tensor]) -> Tensor:
        """Value tensors of the regulariser's source.

        Parameters
        ----------
        given : Tensor, shape (samples, neurons) or (batch, samples, neurons)
            Floating-point activations; or a sequence of activations of differing shapes, in which
            those of equal shape are valued together, as a batch. For the sources ``"weights"`` and
            ``"parameters"``, a mapping from names to tensors.

        Returns
        -------
        Tensor, shape (), or (batch,) or (len,) for a batch or a sequence
            In float32 for half-precision activations, otherwise in their dtype.

        Raises
        ------
        InputError
            For a wrong type, shape or dtype.
        NonFiniteError
            For activations that hold NaN or infinity, with the number of neurons that do.
        """
        if self.source != "activations":
            named = check_named(given, self.source, title(self))
            with torch.autocast(device_type(named), enabled=False):
                return self.compute(named)
        if isinstance(given, (list, tuple)):
            if not given:
                raise InputError("an empty sequence of activations was given; pass at least one.")
            for k, x in enumerate(given):
                if not isinstance(x, Tensor) or x.ndim != 2:
                    raise InputError(
                        f"element {k} of the sequence is {describe(x)}; expected a tensor "
                        "(samples, neurons)."
                    )
            return torch.stack(self._of_sequence(given))
        x, finite = self.guard(given)
        with torch.autocast(x.device.type, enabled=False):
            value = self.compute(x) if x.ndim == 2 else self._compute_batch(x)
        return value if finite is None else torch.where(finite, value, torch.zeros_like(value))

    def of_layers(self, layers: Mapping[str, Tensor]) -> Tensor:
        """Value the tensors of a whole model, layer by layer.

        :func:`topoloss.attach` calls this method. Activations of all layers are joined side by
        side and valued together; weights and parameters are valued as they are. A subclass may
        override it, for example to compare the activations of one layer with those of another.

        Parameters
        ----------
        layers : dict of str to Tensor
            Activations of shape (samples, neurons) or weights, by layer; or parameters, by name.

        Returns
        -------
        Tensor, shape ()

        Raises
        ------
        InputError
            If the layers have differing numbers of samples; or for a regulariser that needs
            labels.

        Examples
        --------
        >>> import torch, topoloss
        >>> first, second = torch.randn(8, 3), torch.randn(8, 2)
        >>> reg = topoloss.regulariser("t1")
        >>> value = reg.of_layers({"first": first, "second": second})
        >>> torch.equal(value, reg(torch.cat((first, second), 1)))
        True
        """
        self.check_layers(layers)
        value: Tensor = self(side_by_side(layers) if self.source == "activations" else layers)
        return value

    def check_layers(self, layers: Mapping[str, Tensor]) -> None:
        """Raise unless `layers` suit :meth:`of_layers`; an override of that calls this first.

        Parameters
        ----------
        layers : dict of str to Tensor

        Raises
        ------
        InputError
            For anything but a mapping to tensors; for activations that are not of shape
            (samples, neurons), or none at all; for a regulariser that needs labels.
        """
        refuse_labels(self)
        check_named(layers, self.source, title(self))
        if self.source == "activations":
            _check_shapes(layers)

    def diagrams(self, given: Activations) -> Any:
        """Return the persistence diagrams, or raise an error if the regulariser has none."""
        raise TopolossError(
            f"{type(self).__name__} has no persistence diagrams: it is not a pipeline of "
            "filtration, persistence and loss. Use for example "
            "topoloss.regulariser('t1').diagrams(activations)."
        )

    def _title(self) -> str:
        return type(self).__name__

    def _of_sequence(self, given: Sequence[Tensor]) -> list[Tensor]:
        """Value tensors (samples, neurons); those of equal shape, dtype and device as one batch."""
        alike: dict[Any, list[int]] = {}
        for k, x in enumerate(given):
            alike.setdefault((x.shape, x.dtype, x.device), []).append(k)
        values = list(given)
        for ks in alike.values():
            if len(ks) == 1:
                values[ks[0]] = self(given[ks[0]])
                continue
            for k, value in zip(ks, self(torch.stack([given[k] for k in ks])), strict=True):
                values[k] = value
        return values

    def _compute_batch(self, x: Float[Tensor, "batch samples n"]) -> Float[Tensor, " batch"]:
        if self.vmappable:
            return torch.vmap(self.compute)(x)
        return torch.stack([self.compute(element) for element in x])


def title(regulariser: Regulariser) -> str:
    """The name of a regulariser in errors: its class, or the stages of a pipeline."""
    return regulariser._title()


def refuse_labels(regulariser: Regulariser) -> None:
    """Raise if a regulariser needs labels: the layers of a model come without them.

    Raises
    ------
    InputError
        It says how to value the classes by hand.
    """
    if regulariser.labels:
        name = type(regulariser).__name__
        raise InputError(
            f"{name} takes a list of one tensor (samples, neurons) for each class, and attach "
            "knows no labels: take the activations z of a layer from "
            "topoloss.observe(model).activations(), and add "
            "regulariser([z[y == label] for label in y.unique()]).sum() to the loss."
        )


def side_by_side(layers: Mapping[str, Tensor]) -> Tensor:
    """Join the activations of layers to (samples, all neurons), on the device of the first.

    Raises
    ------
    InputError
        If there are no layers, or if their numbers of samples differ.
    """
    _check_shapes(layers)
    if len({len(x) for x in layers.values()}) > 1:
        raise InputError(
            f"the layers cannot be joined side by side: {_shapes(layers)}. Expected the same "
            "number of samples in each; choose layers that share it, or value each by itself."
        )
    device = next(iter(layers.values())).device
    return torch.cat([x.to(device) for x in layers.values()], 1)


def _check_shapes(layers: Mapping[str, Tensor]) -> None:
    if not layers:
        raise InputError("a mapping without layers was given; expected at least one layer.")
    if any(x.ndim != 2 for x in layers.values()):
        raise InputError(
            f"the layers {_shapes(layers)} were given; expected (samples, neurons) for each."
        )


def _shapes(layers: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name!r}: {tuple(x.shape)}" for name, x in layers.items())


def device_type(named: Mapping[str, Tensor]) -> str:
    """The type of device on which the first of some tensors is; "cpu" without tensors."""
    first = next(iter(named.values()), None)
    return "cpu" if first is None else first.device.type
