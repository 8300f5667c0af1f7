"""The persistence stage: an engine picks critical edges, as integers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from topoloss.errors import InputError, TooLargeError
from topoloss.filtrations import Order
from topoloss.transforms import Indices, outside

__all__ = ["CriticalEdges", "Persistence", "chosen_outside"]


class CriticalEdges(NamedTuple):
    """The edges that create and destroy the classes of one homology dimension.

    Attributes
    ----------
    death_edges : Tensor of int64, shape (points, 2)
    birth_edges : Tensor of int64, shape (points, 2), or None
        In each row the birth edge of the same class. None in dimension 0, where vertices
        are born at 0.
    essential_births : Tensor of int64, shape (essential, 2), or None
        Birth edges of the classes that never die. None in dimension 0, where each component
        of the graph is such a class, born at 0; in higher dimensions None means no such class.
    """

    death_edges: Tensor
    birth_edges: Tensor | None = None
    essential_births: Tensor | None = None


class Persistence(nn.Module):
    """An engine that picks critical edges: it returns integers, never values.

    Because the values are re-evaluated by the filtration, an engine may be written in
    any language and run on any device, and is differentiable to every order for free. An
    engine does not see the filtration: the pipeline gives it features, a matrix, or listed edges,
    all detached from the autograd graph. An engine implements at least one of the three operators
    ``from_features``, ``from_matrix`` and ``from_edges``.

    Attributes
    ----------
    orders : frozenset of str
        Orders (see :class:`Filtration`) for which :meth:`from_features` works.
    vmappable : bool
        Whether :func:`torch.vmap` can map over the engine. If not, the engine may leave
        PyTorch, and is called on one element of a batch at a time.
    max_vertices : int or None
        The engine may refuse more vertices than this. None: it takes any number.
    dtypes : frozenset of torch.dtype, or None
        The engine may refuse tensors of other dtypes. None: it takes float32 and float64.
        Half precision is promoted to float32 before an engine sees it.

    Notes
    -----
    **Order.** Edges enter the filtration one by one, ordered by (value, lower index, higher
    index), so that the diagram is unique even where values tie. The order of the points makes no
    difference. Nor does the order of an edge's two ends, except for listed edges.

    **Above dimension 0** every clique enters with its last edge (the Vietoris-Rips complex).
    Coefficients are in Z/2, unless an option of the engine says otherwise. A class is born with
    the edge that closes its cycle and dies with the edge that fills it. A class that dies with the
    edge of its birth is not a point: a row for one may pad a batch, and has weight 0. A point
    whose two edges differ may be left out if their values are equal.
    """

    orders: ClassVar[frozenset[str]] = frozenset()
    vmappable: bool = False
    max_vertices: int | None = None
    dtypes: frozenset[torch.dtype] | None = None

    # The signature of nn.Module takes any arguments; a stage has only those that its class adds.
    def __init__(self) -> None:
        super().__init__()

    def from_features(self, v: Float[Tensor, "n d"], order: Order) -> Sequence[CriticalEdges]:
        """Return the critical edges of the filtration that `order` induces on features."""
        raise NotImplementedError(f"{type(self).__name__} has no engine for features")

    def from_matrix(self, values: Float[Tensor, "n n"]) -> Sequence[CriticalEdges]:
        """Return the critical edges, dimension 0 first, of a symmetric matrix of edge values."""
        raise NotImplementedError(f"{type(self).__name__} must implement from_matrix(values)")

    def from_edges(
        self, n: int, edges: Int[Tensor, "e 2"], values: Float[Tensor, " e"]
    ) -> Sequence[CriticalEdges]:
        """Return the critical edges, dimension 0 first, of a graph of listed edges.

        Parameters
        ----------
        n : int
            The number of vertices.
        edges : Tensor of int64, shape (e, 2)
            The two ends of each edge.
        values : Tensor, shape (e,)

        Returns
        -------
        sequence of CriticalEdges
            Rows of `edges`, with their ends in the same order: in dimension 0 the n - k edges of
            the minimum spanning forest, for a graph of k components. Self-loops join nothing. Of
            several edges between two vertices the lightest counts; among equals, the first.
        """
        raise NotImplementedError(f"{type(self).__name__} has no engine for listed edges")

    def check_matrix(self, n: int, dtype: torch.dtype) -> None:
        """Raise a `TooLargeError` if n x n values are more than :meth:`from_matrix` may take.

        A pipeline calls this before it fills the matrix. By default it calls ``check_limits``.
        """
        self.check_limits(n, dtype)

    def check_limits(self, n: int, dtype: torch.dtype) -> None:
        """Raise an error for more vertices, or another dtype, than the engine says it takes.

        An engine that states `max_vertices` or `dtypes` calls this first, in each of its
        operators.

        Raises
        ------
        TooLargeError
            For more than `max_vertices` vertices.
        InputError
            For a dtype that is not among `dtypes`.
        """
        name = type(self).__name__
        if self.max_vertices is not None and n > self.max_vertices:
            raise TooLargeError(
                f"{n} vertices were given to {name}, which takes at most {self.max_vertices}; take "
                "a fraction of the neurons (attach(..., fraction=0.1)), or another engine."
            )
        if self.dtypes is not None and dtype not in self.dtypes:
            taken = " or ".join(sorted(map(str, self.dtypes)))
            raise InputError(
                f"{dtype} was given to {name}, which takes {taken}; convert the activations "
                f"(x.to({taken.partition(' ')[0]})), or take another engine."
            )


def chosen_outside(
    operator: Callable[..., Sequence[CriticalEdges]], *tensors: Tensor
) -> list[CriticalEdges]:
    """Call an operator of an engine that leaves PyTorch.

    Under :func:`torch.vmap` the elements of a batch may have differing numbers of points above
    dimension 0. Those that have fewer are padded with points whose two edges are equal.

    Raises
    ------
    InputError
        Under vmap, if elements have differing numbers of deaths in dimension 0 or of essential
        classes.
    """

    def call(*plain: Tensor) -> Indices:
        return tuple(edges for of_dimension in operator(*plain) for edges in of_dimension)

    flat = outside(call, *tensors, join=_padded)
    return [CriticalEdges(*flat[k : k + 3]) for k in range(0, len(flat), 3)]


def _padded(each: Sequence[Indices]) -> Indices:
    """Join the critical edges of a batch, three tensors for each dimension."""
    # What each element is padded with: its first death edge in dimension 0, if it has any.
    spare = [edges[:1] for edges, *_ in each if edges is not None]
    joined: list[Tensor | None] = []
    for place, same in enumerate(zip(*each, strict=True)):
        if all(edges is None for edges in same):
            joined.append(None)
            continue
        rows = [s[:0] if edges is None else edges for edges, s in zip(same, spare, strict=True)]
        most = max(map(len, rows))
        dimension, kind = divmod(place, 3)
        if (dimension == 0 or kind == 2) and min(map(len, rows)) < most:
            raise InputError(
                "the elements of a batch have differing numbers of components or of essential "
                "classes, which torch.vmap cannot join; call the regulariser with the batch "
                "itself, without vmap, or pass its elements as a list."
            )
        filled = [
            torch.cat((edges, s.expand(most - len(edges), 2)))
            for edges, s in zip(rows, spare, strict=True)
        ]
        joined.append(torch.stack(filled))
    return tuple(joined)
