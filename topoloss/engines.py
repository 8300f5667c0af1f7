"""The persistence stage: an engine picks critical edges, as integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from topoloss.errors import check_choice
from topoloss.filtrations import ORDERS, Filtration, Order

__all__ = ["CriticalEdges", "Persistence"]


class CriticalEdges(NamedTuple):
    """The edges that create and destroy the classes of one homology dimension.

    Attributes
    ----------
    death_edges : Tensor of int64, shape (points, 2)
    birth_edges : Tensor of int64, shape (points, 2), or None
        None in dimension 0, where vertices are born at 0.
    essential_births : Tensor of int64, shape (essential, 2), or None
        Birth edges of the classes that never die. None in dimension 0, which always
        has exactly one, born at 0.
    """

    death_edges: Tensor
    birth_edges: Tensor | None = None
    essential_births: Tensor | None = None


class Persistence(nn.Module):
    """An engine that picks critical edges: integers only, never values.

    Because the values are re-evaluated by the filtration, an engine may be written in
    any language and run on any device, and is differentiable to every order for free.

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

    def critical_edges(
        self, filtration: Filtration, v: Float[Tensor, "n d"]
    ) -> Sequence[CriticalEdges]:
        """Choose the operator: on features where the order allows it, else on the matrix."""
        v = v.detach()
        if filtration.order is not None:
            check_choice(f"{type(filtration).__name__}.order", filtration.order, ORDERS)
        if filtration.order is not None and filtration.order in self.orders:
            return self.from_features(v, filtration.order)
        return self.from_matrix(filtration.pairwise(v))
