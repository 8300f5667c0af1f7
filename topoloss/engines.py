"""The persistence stage: an engine picks critical edges, as integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from topoloss.filtrations import Order

__all__ = ["CriticalEdges", "Persistence"]


class CriticalEdges(NamedTuple):
    """The edges that create and destroy the classes of one homology dimension.

    Attributes
    ----------
    death_edges : Tensor of int64, shape (points, 2)
    birth_edges : Tensor of int64, shape (points, 2), or None
        None in dimension 0, where vertices are born at 0.
    essential_births : Tensor of int64, shape (essential, 2), or None
        Birth edges of the classes that never die. None in dimension 0, where each component
        of the graph has one, born at 0.
    """

    death_edges: Tensor
    birth_edges: Tensor | None = None
    essential_births: Tensor | None = None


class Persistence(nn.Module):
    """An engine that picks critical edges: integers only, never values.

    Because the values are re-evaluated by the filtration, an engine may be written in
    any language and run on any device, and is differentiable to every order for free. An
    engine knows no filtration: the pipeline gives it features, a matrix, or listed edges, all
    without gradients.

    Attributes
    ----------
    orders : frozenset of str
        Orders (see :class:`Filtration`) for which :meth:`from_features` works.
    vmappable : bool
        Whether :func:`torch.vmap` can map over the engine. Where it cannot, batches
        are a Python loop.
    """

    orders: ClassVar[frozenset[str]] = frozenset()
    vmappable: bool = False

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
            Rows of `edges`, as they stand there: in dimension 0 the n - k edges of the minimum
            spanning forest, for a graph of k components.
        """
        raise NotImplementedError(f"{type(self).__name__} has no engine for listed edges")

    def check_matrix(self, n: int, dtype: torch.dtype) -> None:
        """Raise a `TooLargeError` if n x n values are more than :meth:`from_matrix` may take.

        A pipeline asks before it fills the matrix. By default every size may be taken.
        """
