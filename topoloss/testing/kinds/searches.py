"""Calls of each operator of a persistence engine, on cliques with known trees."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from typing import cast

import torch
from torch import Tensor

from topoloss.engines import CriticalEdges, Persistence
from topoloss.filtrations import Order
from topoloss.testing.checks import require
from topoloss.testing.kruskal import by_value_then_indices

__all__ = [
    "Search",
    "at_most",
    "dtypes_of",
    "edge_tensors",
    "has",
    "integers",
    "key_of",
    "random_walk",
    "require_tree",
    "searches_of_features",
    "searches_of_matrix",
    "searches_of_vertices",
    "shuffled_pairs",
]

_FEATURES = 3


class Clique:
    """The keys of all pairs of vertices, and the minimum spanning tree by these keys.

    Attributes
    ----------
    key : Tensor of float64, shape (n, n)
    """

    def __init__(self, key: Tensor) -> None:
        self.key = key

    @cached_property
    def tree(self) -> Tensor:
        """The tree of Kruskal's algorithm by (key, lower index, higher index)."""
        return by_value_then_indices(self.key)


@dataclass(frozen=True, eq=False)
class Search:
    """One call of an operator on a clique.

    Attributes
    ----------
    name : str
        The call's name in reports.
    tensors : tuple of Tensor
        The operator's arguments.
    operator : callable
        Maps the tensors to critical edges.
    clique : Clique
        The expected tree is the minimum spanning tree of this clique.
    """

    name: str
    tensors: tuple[Tensor, ...]
    operator: Callable[..., Sequence[CriticalEdges]]
    clique: Clique

    @property
    def key(self) -> Tensor:
        return self.clique.key

    @property
    def tree(self) -> Tensor:
        return self.clique.tree

    def find(self) -> Sequence[CriticalEdges]:
        return self.operator(*self.tensors)

    def of(self, what: str) -> Search:
        return replace(self, name=f"{self.name} of {what}")


def has(engine: Persistence, operator: str) -> bool:
    """Whether an engine implements an operator."""
    return getattr(type(engine), operator) is not getattr(Persistence, operator)


def dtypes_of(engine: Persistence) -> list[torch.dtype]:
    """Return those of float64 and float32 that an engine says it takes."""
    both = (torch.float64, torch.float32)
    return [dtype for dtype in both if engine.dtypes is None or dtype in engine.dtypes]


def at_most(engine: Persistence, n: int) -> int:
    """Return n, or the engine's `max_vertices` if that is less."""
    return n if engine.max_vertices is None else min(n, engine.max_vertices)


def searches_of_vertices(engine: Persistence, v: Tensor) -> Iterator[Search]:
    """Yield a search over the same vertices for each operator that the engine has."""
    squared = _clique("sq_dist_ascending", v)
    values = squared.key.to(v.dtype)
    exact = torch.equal(values.double(), squared.key)
    yield from _searches_of_matrix(engine, values, squared if exact else Clique(values.double()))
    yield from searches_of_features(engine, v)


def searches_of_features(engine: Persistence, v: Tensor) -> Iterator[Search]:
    """Yield a search over the same vertices for each order of features that the engine takes."""
    for order in sorted(engine.orders):
        operator = partial(engine.from_features, order=cast(Order, order))
        yield Search(f"from_features, {order},", (v,), operator, _clique(order, v))


def searches_of_matrix(engine: Persistence, values: Tensor) -> Iterator[Search]:
    """Yield a search over the same edge values for each operator that takes edge values."""
    yield from _searches_of_matrix(engine, values, Clique(values.double()))


def require_tree(search: Search, critical: Sequence[CriticalEdges], mend: str) -> None:
    """Require Kruskal's tree by (key, lower index, higher index) in dimension 0."""
    received = set(map(tuple, critical[0].death_edges.sort(-1).values.tolist()))
    expected = set(map(tuple, search.tree.tolist()))
    wrong, absent = sorted(received - expected), sorted(expected - received)
    require(
        not wrong and not absent,
        expected=f"a spanning tree with the edges {absent[:3]}",
        received=f"{wrong[:3]} instead",
        mend=mend,
    )


def edge_tensors(critical: Sequence[CriticalEdges]) -> list[Tensor]:
    """Return the tensors that critical edges consist of."""
    return [edges for dimension in critical for edges in dimension if edges is not None]


def integers(n: int, seed: int) -> Tensor:
    """Draw vertices with small integer features: keys are exact, and many of them tie."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-1, 2, (n, _FEATURES), generator=generator).double()


def random_walk(n: int, seed: int, features: int = _FEATURES) -> Tensor:
    """Draw vertices with integer features, each near the one before: keys are exact in float32."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-2, 3, (n, features), generator=generator).cumsum(0).double()


def key_of(order: str, v: Tensor) -> Tensor:
    """Return the keys of all pairs of vertices, which ascend in the given order."""
    if order == "sq_dist_ascending":
        return (v[:, None] - v[None]).square().sum(-1)
    dot = v @ v.T
    return -dot.abs() if order == "abs_dot_descending" else -dot


@lru_cache(maxsize=64)
def shuffled_pairs(n: int) -> Tensor:
    """List the edges of the clique in random order, each in a random direction."""
    generator = torch.Generator().manual_seed(n)
    pairs = torch.triu_indices(n, n, 1).T
    pairs = pairs[torch.randperm(len(pairs), generator=generator)]
    turned = torch.rand(len(pairs), 1, generator=generator) < 0.5
    return torch.where(turned, pairs.flip(1), pairs)


def _searches_of_matrix(engine: Persistence, values: Tensor, clique: Clique) -> Iterator[Search]:
    if has(engine, "from_matrix"):
        yield Search("from_matrix", (values,), engine.from_matrix, clique)
    if has(engine, "from_edges"):
        edges = shuffled_pairs(len(values)).clone()
        listed = (edges, values[edges[:, 0], edges[:, 1]])
        yield Search("from_edges", listed, partial(engine.from_edges, len(values)), clique)


def _clique(order: str, v: Tensor) -> Clique:
    return _clique_of(order, tuple(v.shape), v.double().numpy().tobytes())


@lru_cache(maxsize=64)
def _clique_of(order: str, shape: tuple[int, ...], numbers: bytes) -> Clique:
    """Share a clique between engines, because the tree of a large one takes long to find."""
    v = torch.frombuffer(bytearray(numbers), dtype=torch.float64).view(shape)
    return Clique(key_of(order, v))
