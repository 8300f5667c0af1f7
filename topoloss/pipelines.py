"""The pipeline of filtration, persistence and loss, as a regulariser."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from topoloss.diagrams import Diagram, evaluate
from topoloss.engines import CriticalEdges, Persistence, chosen_outside
from topoloss.errors import (
    InputError,
    OptionError,
    TooLargeError,
    TopolossError,
    check_choice,
)
from topoloss.filtrations import (
    ORDERS,
    Filtration,
    checked_edge_values,
    checked_edge_weights,
)
from topoloss.finite import check_activations, check_finite, check_named, describe
from topoloss.losses import Loss
from topoloss.regularisers import Activations, Regulariser, device_type, title

__all__ = ["Pipeline"]


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
    on n vertices with d features, and is itself differentiable.

    Its ``source`` and ``structure`` are those that the filtration declares.
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
        self.source, self.structure = self.filtration.source, self.filtration.structure

    def _title(self) -> str:
        stages = (self.filtration, self.persistence, self.loss)
        return "the pipeline " + " -> ".join(type(stage).__name__ for stage in stages)

    @property
    def vmappable(self) -> bool:
        vmappable: bool = self.persistence.vmappable
        return vmappable

    def compute(self, given: Any) -> Float[Tensor, ""]:
        value: Tensor = self.loss(self._diagrams(given))
        if _needs_gradient(given) and torch.is_grad_enabled() and not value.requires_grad:
            raise TopolossError(
                f"the {self.source} need a gradient, and the value of {title(self)} has none: a "
                "stage detaches, leaves torch (item(), numpy()), or works under no_grad. "
                "`topoloss check` says which."
            )
        return value

    def diagrams(self, given: Activations | Mapping[str, Tensor]) -> Any:
        """Return one diagram for each homology dimension, lowest first.

        Parameters
        ----------
        given : Tensor, shape (samples, neurons) or (batch, samples, neurons)
            What ``forward`` takes. With a batch every tensor of a diagram has a leading
            batch axis. For a sequence, a list of such lists is returned.

        Returns
        -------
        list of Diagram
            Differentiable with respect to what was given.
        """
        if self.source != "activations":
            named = check_named(given, self.source, title(self))
            with torch.autocast(device_type(named), enabled=False):
                return self._diagrams(named)
        if isinstance(given, (list, tuple)):
            return [self.diagrams(x) for x in given]
        x = check_activations(given)
        check_finite(x)
        with torch.autocast(x.device.type, enabled=False):
            if x.ndim == 2:
                return self._diagrams(x)
            return [_stack(same) for same in zip(*map(self._diagrams, x), strict=True)]

    def vertices(self, given: Any) -> Any:
        """Let the filtration compute the vertices.

        Parameters
        ----------
        given : Tensor, shape (samples, neurons), or dict of str to Tensor
            What ``compute`` takes.

        Returns
        -------
        Tensor or tuple of Tensor
            In at least float32.
        """
        return _each(_at_least_float32, _checked_vertices(self.filtration, given))

    def critical_edges(self, v: Tensor | tuple[Tensor, ...]) -> Sequence[CriticalEdges]:
        """Let the persistence engine choose edges, without gradients.

        Parameters
        ----------
        v : Tensor or tuple of Tensor
            What ``vertices`` returned.

        Returns
        -------
        sequence of CriticalEdges
            Found in the graph, if the filtration lists its edges; otherwise from the features, if
            the engine supports the filtration's order; otherwise from the matrix of all edge
            values.
        """
        return self._choose(v)[0]

    def value_edges(
        self, v: Tensor | tuple[Tensor, ...], edges: Int[Tensor, "e 2"]
    ) -> tuple[Float[Tensor, " e"], Float[Tensor, " e"]]:
        """Let the filtration value edges, differentiably, and say how much each counts.

        Parameters
        ----------
        v : Tensor or tuple of Tensor
            What ``vertices`` returned.
        edges : Tensor of int64, shape (e, 2)

        Returns
        -------
        values, weights : Tensor, shape (e,)

        Raises
        ------
        InputError
            If the filtration returns any other shape.
        """
        i, j = edges.unbind(1)
        values = checked_edge_values(self.filtration, v, i, j)
        return values, checked_edge_weights(self.filtration, v, i, j)

    def _diagrams(self, given: Any) -> list[Diagram]:
        v = self.vertices(given)
        critical, components = self._choose(v, given)
        return evaluate(self.filtration, v, critical, components)

    def _choose(self, v: Any, given: Any = None) -> tuple[Sequence[CriticalEdges], int]:
        """Choose edges, and count the components of the graph."""
        v = _each(Tensor.detach, v)
        graph = self.filtration.edges(v)
        if graph is not None:
            n, edges = _checked_graph(self.filtration, graph)
            with torch.no_grad():  # the filtration may have parameters
                values = checked_edge_values(self.filtration, v, edges[:, 0], edges[:, 1])
            critical = self._chosen(partial(self.persistence.from_edges, n), edges, values)
        else:
            critical, n = self._of_clique(v, given), len(v)
        # Each death in dimension 0 joins two components.
        return critical, n - len(critical[0].death_edges)

    def _of_clique(self, v: Tensor, given: Any) -> Sequence[CriticalEdges]:
        _check_features(self.filtration, v, given)
        engine: Persistence = self.persistence
        order = self.filtration.order
        if order is not None:
            check_choice(f"{type(self.filtration).__name__}.order", order, ORDERS)
        if order is not None and order in engine.orders:
            return self._chosen(partial(engine.from_features, order=order), v)
        engine.check_matrix(len(v), v.dtype)
        return self._chosen(engine.from_matrix, _matrix(self.filtration, v))

    def _chosen(
        self, operator: Callable[..., Sequence[CriticalEdges]], *tensors: Tensor
    ) -> Sequence[CriticalEdges]:
        # An engine that vmap cannot map over may leave PyTorch.
        return operator(*tensors) if self.vmappable else chosen_outside(operator, *tensors)


def _needs_gradient(given: Tensor | Mapping[str, Tensor]) -> bool:
    tensors = [given] if isinstance(given, Tensor) else given.values()
    return any(x.requires_grad for x in tensors)


def _each(function: Callable[[Tensor], Tensor], v: Any) -> Any:
    """Apply a function to a tensor, or to each tensor of a tuple or named tuple."""
    if isinstance(v, Tensor):
        return function(v)
    each = [function(x) for x in v]
    return type(v)(*each) if hasattr(v, "_fields") else tuple(each)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _checked_vertices(filtration: Filtration, given: Any) -> Any:
    v = filtration.vertices(given)
    if isinstance(v, Tensor) or (isinstance(v, tuple) and all(isinstance(x, Tensor) for x in v)):
        return v
    raise InputError(
        f"{type(filtration).__name__}.vertices returned {describe(v)}; expected a tensor, or a "
        "tuple of tensors."
    )


def _check_features(filtration: Filtration, v: Any, given: Any) -> None:
    """Raise unless `v` holds a feature vector for each neuron."""
    neurons = given.shape[1] if isinstance(given, Tensor) else None
    if isinstance(v, Tensor) and v.ndim == 2 and neurons in (None, len(v)):
        return
    returned = f"shape {tuple(v.shape)}" if isinstance(v, Tensor) else f"{len(v)} tensors"
    activations = "" if neurons is None else f" for activations of shape {tuple(given.shape)}"
    raise InputError(
        f"{type(filtration).__name__}.vertices returned {returned}{activations}; expected "
        f"({'neurons' if neurons is None else neurons}, features). Other tensors need a graph: "
        "implement edges(v)."
    )


def _checked_graph(filtration: Filtration, graph: Any) -> tuple[int, Tensor]:
    """Return the number of vertices and the edges of `graph`, or raise if it is anything else."""
    if isinstance(graph, tuple) and len(graph) == 2:
        n, edges = graph
        pairs = isinstance(edges, Tensor) and edges.ndim == 2 and edges.shape[1] == 2
        if isinstance(n, int) and n > 0 and pairs and edges.dtype == torch.int64:
            _check_ends(filtration, n, edges)
            return n, edges
    raise InputError(
        f"{type(filtration).__name__}.edges returned {describe(graph)}; expected (n, edges), the "
        "number of vertices, at least 1, and an int64 tensor of shape (e, 2)."
    )


def _check_ends(filtration: Filtration, n: int, edges: Tensor) -> None:
    """Raise if an edge has an end outside 0 to n - 1, if values can be read cheaply."""
    # Reading values would synchronise a GPU; inside a graph or a transform it is impossible.
    if (
        edges.device.type != "cpu"
        or torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
    ):
        return
    outside = ((edges < 0) | (edges >= n)).any(1)
    if outside.any():
        first = edges[outside][0].tolist()
        raise InputError(
            f"{type(filtration).__name__}.edges returned the edge {first} of a graph on {n} "
            f"vertices; expected ends from 0 to {n - 1}."
        )


def _matrix(filtration: Filtration, v: Tensor) -> Tensor:
    try:
        return filtration.pairwise(v)
    except torch.OutOfMemoryError as error:
        size = len(v) ** 2 * v.element_size() / 2**30
        raise TooLargeError(
            f"{v.device} ran out of memory for the {len(v)} x {len(v)} values of all edges, "
            f"{size:.1f} GiB for each copy. Give the filtration an order, so that engines work on "
            "its features and need no such matrix; or take a fraction of the neurons "
            "(attach(..., fraction=0.1))."
        ) from error


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
                f"{diagrams[0].dimension}; pass its elements as a list instead."
            )
        return torch.stack(values)

    return Diagram(**{field.name: merge(field.name) for field in fields(Diagram)})
