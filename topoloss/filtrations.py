"""The filtration stage: activations to vertices, and a value for each edge."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, TypeAlias, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from topoloss.errors import InputError, check_choice
from topoloss.finite import describe

__all__ = [
    "ORDERS",
    "Filtration",
    "Order",
    "Source",
    "Structure",
    "check_declared",
    "checked_edge_values",
    "checked_edge_weights",
]

Order = Literal["abs_dot_descending", "dot_descending", "sq_dist_ascending"]
ORDERS: tuple[str, ...] = get_args(Order)
Source: TypeAlias = Literal["activations", "weights", "parameters"]
Structure: TypeAlias = Literal["chain"] | None

# How many feature entries a block of edges gathers for one of its ends: 64 MiB in float32. An edge
# counts as having at least four features, since its indices and its value need memory, too.
_ENTRIES_PER_BLOCK = 1 << 24


class Filtration(nn.Module):
    """A filtration of the clique on n vertices, or of a listed graph, by edge values.

    Subclasses implement :meth:`vertices` and :meth:`edge_values`, without a batch axis, in
    differentiable torch operations that do not branch on the values of tensors. Engines
    choose edges without gradients; the chosen edges, and only these, are valued by
    :meth:`edge_values` under autograd. A subclass that implements :meth:`edges` filters the
    graph that it lists; otherwise every two vertices are joined by an edge.

    Attributes
    ----------
    source : {"activations", "weights", "parameters"}
    structure : {None, "chain"}
        As for :class:`Regulariser`: what a pipeline with this filtration takes. :meth:`vertices`
        is given a mapping for the sources ``"weights"`` and ``"parameters"``.
    order : {"abs_dot_descending", "dot_descending", "sq_dist_ascending"} or None
        A promise that edge values ascend as ``|v_i . v_j|`` or ``v_i . v_j`` descends,
        or as ``|v_i - v_j|^2`` ascends. An engine that supports the order works on the
        vertices, without the matrix of all edge values. A wrong promise gives a wrong tree.
        The order is not used where :meth:`edges` lists a graph.
    surrogate_gradient : bool
        Whether the gradient is deliberately not that of the value (straight-through,
        stop-gradient). The conformance kit then does not compare the two.

    Examples
    --------
    >>> import torch, topoloss
    >>> class Manhattan(topoloss.Filtration):
    ...     def vertices(self, x):
    ...         return x.T
    ...     def edge_values(self, v, i, j):
    ...         return (v[i] - v[j]).abs().sum(-1)
    >>> reg = topoloss.pipeline(Manhattan(), "mst", "t1")
    >>> reg(torch.tensor([[0.0, 1.0, 5.0], [0.0, 1.0, 1.0]]))
    tensor(-6.)
    """

    source: Source = "activations"
    structure: Structure = None
    order: ClassVar[Order | None] = None
    surrogate_gradient: bool = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        check_declared(cls)

    # The signature of nn.Module takes any arguments; a stage has only those that its class adds.
    def __init__(self) -> None:
        super().__init__()

    def vertices(self, x: Any) -> Any:
        """Map activations to one feature vector per neuron, differentiably.

        Parameters
        ----------
        x : Tensor, shape (samples, n), or dict of str to Tensor
            Finite activations, in the dtype in which the model produced them. For the sources
            ``"weights"`` and ``"parameters"``, tensors by name.

        Returns
        -------
        Tensor, shape (n, d)
            If ``edges`` lists a graph: any tensor, or tuple of tensors, that
            :meth:`edge_values` takes.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement vertices(x)")

    def edges(self, v: Any) -> tuple[int, Int[Tensor, "e 2"]] | None:
        """List the edges of the graph. The default is None, which stands for the clique.

        Parameters
        ----------
        v : Tensor or tuple of Tensor
            What :meth:`vertices` returned, without a gradient.

        Returns
        -------
        tuple of int and Tensor of int64, shape (e, 2), or None
            The number of vertices, and the two ends of each edge, which :meth:`edge_values` gets
            in the same order. An edge joins two different vertices; of several edges between two
            vertices only the lightest counts.

        Examples
        --------
        >>> import torch, topoloss
        >>> class Path(topoloss.Filtration):  # each neuron is joined to the next one
        ...     def vertices(self, x):
        ...         return x.mean(0)
        ...     def edges(self, v):
        ...         first = torch.arange(len(v) - 1, device=v.device)
        ...         return len(v), torch.stack((first, first + 1), 1)
        ...     def edge_values(self, v, i, j):
        ...         return (v[i] - v[j]).abs()
        >>> topoloss.pipeline(Path())(torch.tensor([[0.0, 5.0, 1.0]]))
        tensor(-9.)
        """
        return None

    def edge_values(
        self, v: Any, i: Int[Tensor, " e"], j: Int[Tensor, " e"]
    ) -> Float[Tensor, " e"]:
        """Value the edges between vertices `i` and `j`, differentiably.

        Parameters
        ----------
        v : Tensor, shape (n, d)
            What :meth:`vertices` returned.
        i, j : Tensor of int64, shape (e,)
            End points. The value must not depend on which comes first, unless ``edges``
            lists the edges: then the ends come in the listed order.

        Returns
        -------
        Tensor, shape (e,)
        """
        raise NotImplementedError(f"{type(self).__name__} must implement edge_values(v, i, j)")

    def edge_weights(
        self, v: Any, i: Int[Tensor, " e"], j: Int[Tensor, " e"]
    ) -> Float[Tensor, " e"]:
        """Say how much each edge counts in the loss: 1 by default, 0 excludes it."""
        first = v if isinstance(v, Tensor) else v[0]
        return torch.ones(i.shape, dtype=first.dtype, device=i.device)

    @torch.no_grad()
    def pairwise(self, v: Float[Tensor, "n d"]) -> Float[Tensor, "n n"]:
        """Fill the symmetric matrix of all edge values, without gradients.

        The default passes blocks of rows to :meth:`edge_values`; override `pairwise` where a
        matrix product is faster. The diagonal holds whatever value an edge from a vertex to
        itself has, and engines never look at it.
        """
        n, d = v.shape
        index = torch.arange(n, device=v.device)
        rows = max(1, _ENTRIES_PER_BLOCK // max(n * max(d, 4), 1))
        blocks = [
            checked_edge_values(self, v, i.repeat_interleave(n), index.repeat(len(i))).reshape(
                len(i), n
            )
            for i in torch.split(index, rows)
        ]
        return torch.cat(blocks)


def check_declared(cls: Any) -> None:
    """Check the `source` and the `structure` that a class declares."""
    check_choice(f"{cls.__name__}.source", cls.source, get_args(Source))
    if cls.structure is not None:
        check_choice(f"{cls.__name__}.structure", cls.structure, ("chain",))


def checked_edge_values(filtration: Filtration, v: Any, i: Tensor, j: Tensor) -> Tensor:
    """Value edges, and raise an `InputError` unless there is one value for each."""
    return _one_for_each(
        i, filtration.edge_values(v, i, j), f"{type(filtration).__name__}.edge_values"
    )


def checked_edge_weights(filtration: Filtration, v: Any, i: Tensor, j: Tensor) -> Tensor:
    """Weigh edges, and raise an `InputError` unless there is one weight for each."""
    return _one_for_each(
        i, filtration.edge_weights(v, i, j), f"{type(filtration).__name__}.edge_weights"
    )


def _one_for_each(i: Tensor, found: Tensor, method: str) -> Tensor:
    # A wrong shape might be broadcast, and give a wrong sum.
    if not isinstance(found, Tensor) or found.shape != i.shape:
        raise InputError(
            f"{method} returned {describe(found)} for {len(i)} edges; expected a tensor of shape "
            f"({len(i)},), one value for each edge."
        )
    return found
