"""Regularisers: activations, or a model, to one number that is added to the training loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from topoloss.diagrams import Diagram, evaluate
from topoloss.engines import Persistence
from topoloss.errors import InputError, OptionError, TopolossError
from topoloss.filtrations import Filtration
from topoloss.finite import Guarded, check_activations, check_finite, describe
from topoloss.losses import Loss

__all__ = ["Pipeline", "Regulariser"]

Activations: TypeAlias = Tensor | Sequence[Tensor]


class Regulariser(Guarded):
    """Value activations, or a model, by one number to add to the training loss.

    Subclasses implement :meth:`compute`. For activations it sees one problem of shape
    (samples, neurons), checked and finite; batches and lists are mapped over it.

    Parameters
    ----------
    on_nonfinite : {"raise", "skip"}
        What NaN or infinity in the activations does. ``"skip"`` returns zero with a zero
        gradient for that problem and counts it in ``skipped``.
    check_finite : bool, optional
        Whether ``"raise"`` looks at once. By default it does for eager code on the CPU;
        elsewhere looking would synchronise the device, so a flag is kept there and raised
        by the next call. Inside :func:`torch.vmap` and :func:`torch.func.grad` neither is
        possible.

    Attributes
    ----------
    observes : {"activations", "model"}
        What :meth:`forward` takes, and so what :func:`topoloss.attach` hands it.
    vmappable : bool
        Whether :func:`torch.vmap` can map over :meth:`compute`.
    skipped : Tensor of int64, shape ()
        Problems skipped so far under ``on_nonfinite="skip"``.
    """

    observes: ClassVar[Literal["activations", "model"]] = "activations"

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

    def compute(self, observed: Any) -> Tensor:
        """Value one problem: activations of shape (samples, neurons), or the model."""
        raise NotImplementedError(f"{type(self).__name__} must implement compute(observed)")

    def forward(self, observed: Activations | nn.Module) -> Tensor:
        """Value what is observed.

        Parameters
        ----------
        observed : Tensor, shape (samples, neurons) or (batch, samples, neurons)
            Floating-point activations; or a sequence of problems of differing shapes; or
            the model, where ``observes`` says so.

        Returns
        -------
        Tensor, shape () for one problem, (batch,) or (len,) for several
            In float32 for half-precision activations, otherwise in their dtype.

        Raises
        ------
        InputError
            For a wrong type, shape or dtype.
        NonFiniteError
            For NaN or infinity, with the number of neurons that hold them.
        """
        if self.observes == "model":
            if not isinstance(observed, nn.Module):
                raise InputError(
                    f"{type(self).__name__} observes the model but was given "
                    f"{describe(observed)}; pass the torch.nn.Module itself."
                )
            return self.compute(observed)
        if isinstance(observed, (list, tuple)):
            if not observed:
                raise InputError("an empty sequence of problems was given; pass at least one.")
            for k, x in enumerate(observed):
                if not isinstance(x, Tensor) or x.ndim != 2:
                    raise InputError(
                        f"problem {k} of the sequence is {describe(x)}; expected a tensor "
                        "(samples, neurons)."
                    )
            return torch.stack([self(x) for x in observed])
        x = check_activations(observed)
        x, finite = self.guard(x)
        with torch.autocast(x.device.type, enabled=False):
            value = self.compute(x) if x.ndim == 2 else self._compute_batch(x)
        return value if finite is None else torch.where(finite, value, torch.zeros_like(value))

    def diagrams(self, observed: Activations) -> Any:
        """Return the persistence diagrams; an error for a regulariser that has none."""
        raise TopolossError(
            f"{type(self).__name__} has no persistence diagrams: it is not a pipeline of "
            "filtration, persistence and loss. Use for example "
            "topoloss.regulariser('t1').diagrams(activations)."
        )

    def _compute_batch(self, x: Float[Tensor, "batch samples n"]) -> Float[Tensor, " batch"]:
        if self.vmappable:
            return torch.vmap(self.compute)(x)
        return torch.stack([self.compute(problem) for problem in x])


class Pipeline(Regulariser):
    """filtration -> persistence -> loss, as one module.

    Parameters
    ----------
    filtration : Filtration
    persistence : Persistence
    loss : Loss
    on_nonfinite, check_finite
        As for :class:`Regulariser`.

    Notes
    -----
    The persistence engine sees detached values and returns integers. Only the chosen
    edges are valued under autograd, so the backward pass costs O(n d) for a spanning tree
    on n vertices with d features, and is differentiable again.
    """

    def __init__(
        self,
        filtration: Filtration,
        persistence: Persistence,
        loss: Loss,
        *,
        on_nonfinite: Literal["raise", "skip"] = "raise",
        check_finite: bool | None = None,
    ) -> None:
        super().__init__(on_nonfinite=on_nonfinite, check_finite=check_finite)
        self.filtration = _component("filtration", filtration, Filtration)
        self.persistence = _component("persistence", persistence, Persistence)
        self.loss = _component("loss", loss, Loss)

    @property
    def vmappable(self) -> bool:
        vmappable: bool = self.persistence.vmappable
        return vmappable

    def compute(self, x: Float[Tensor, "samples n"]) -> Float[Tensor, ""]:
        value: Tensor = self.loss(self._diagrams(x))
        if x.requires_grad and torch.is_grad_enabled() and not value.requires_grad:
            raise TopolossError(
                f"the activations need a gradient, and the value of {self._named_stages()} has "
                "none: a stage detaches, leaves torch (item(), numpy()), or works under no_grad. "
                "`topoloss check` says which."
            )
        return value

    def _named_stages(self) -> str:
        stages = (self.filtration, self.persistence, self.loss)
        return " -> ".join(type(stage).__name__ for stage in stages)

    def diagrams(self, activations: Activations) -> Any:
        """Return one diagram for each homology dimension, lowest first.

        Parameters
        ----------
        activations : Tensor, shape (samples, neurons) or (batch, samples, neurons)
            With a batch every tensor of a diagram has a leading batch axis. For a
            sequence of problems a list of such lists is returned.

        Returns
        -------
        list of Diagram
            Differentiable with respect to the activations.
        """
        if isinstance(activations, (list, tuple)):
            return [self.diagrams(x) for x in activations]
        x = check_activations(activations)
        check_finite(x)
        with torch.autocast(x.device.type, enabled=False):
            if x.ndim == 2:
                return self._diagrams(x)
            return [_stack(same) for same in zip(*map(self._diagrams, x), strict=True)]

    def _diagrams(self, x: Float[Tensor, "samples n"]) -> list[Diagram]:
        v = self.filtration.vertices(x)
        if v.ndim != 2 or v.shape[0] != x.shape[1]:
            raise InputError(
                f"{type(self.filtration).__name__}.vertices returned shape {tuple(v.shape)} for "
                f"activations of shape {tuple(x.shape)}; expected ({x.shape[1]}, features)."
            )
        if v.dtype in (torch.float16, torch.bfloat16):
            v = v.float()
        return evaluate(self.filtration, v, self.persistence.critical_edges(self.filtration, v))


def _component(stage: str, given: object, base: type[Any]) -> Any:
    if isinstance(given, type) and issubclass(given, base):
        raise OptionError(f"{stage} is the class {given.__name__}; pass an instance of it.")
    if not isinstance(given, base):
        raise OptionError(
            f"{stage} is {describe(given)}; expected a name or a topoloss.{base.__name__}."
        )
    if not hasattr(given, "_parameters"):
        raise OptionError(
            f"{type(given).__name__} did not initialise its base class; begin its __init__ "
            "with super().__init__()."
        )
    return given


def _stack(diagrams: Sequence[Diagram]) -> Diagram:
    def merge(name: str) -> Any:
        values = [getattr(d, name) for d in diagrams]
        if not isinstance(values[0], Tensor):
            return values[0]
        if len({v.shape for v in values}) > 1:
            raise InputError(
                f"the diagrams of this batch have differing numbers of points in dimension "
                f"{diagrams[0].dimension}; pass the problems as a list instead."
            )
        return torch.stack(values)

    return Diagram(**{field.name: merge(field.name) for field in fields(Diagram)})
