"""The rules for what a persistence engine finds above dimension 0."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from topoloss.engines import CriticalEdges, Persistence
from topoloss.testing import boundary_reduction as oracle
from topoloss.testing.checks import NotApplicable, Subject, builds_on, on, require
from topoloss.testing.kinds.listed_graphs import ListedGraph, graphs
from topoloss.testing.kinds.searches import (
    Search,
    at_most,
    dtypes_of,
    has,
    integers,
    random_walk,
    searches_of_matrix,
    searches_of_vertices,
)
from topoloss.testing.kruskal import in_order

__all__ = ["boundary_reduction", "higher_dimensions"]

_VERTICES = 12
# These cliques have 300 and 780 edges, too many for 8-bit numbers; only dimension 1 is checked.
_MANY = (25, 40)


@builds_on("components")
def higher_dimensions(subject: Subject) -> None:
    """Above dimension 0 every point has two edges; the number of dimensions is always the same."""
    engine = subject.make()
    numbers: dict[int, str] = {}
    for question in _questions(engine, subject.seed):
        with on(question.name):
            critical = question.find()
            numbers.setdefault(len(critical), question.name)
            for dimension, edges in enumerate(critical[1:], start=1):
                births, deaths = edges.birth_edges, edges.death_edges
                require(
                    births is not None and births.shape == deaths.shape,
                    expected=f"a birth edge for each death edge in dimension {dimension}",
                    received=births,
                    mend="return the birth edge and the death edge of every point",
                )
    require(
        len(numbers) <= 1,
        expected="the same number of dimensions for every input",
        received=", ".join(f"{number} for {name}" for number, name in numbers.items()),
        mend="return CriticalEdges without rows in a dimension that has no points",
    )
    if set(numbers) <= {1}:
        raise NotApplicable("it finds only dimension 0")


@builds_on("reference", "forest", "higher_dimensions")
def boundary_reduction(subject: Subject) -> None:
    """Above dimension 0 boundary reduction over Z/2 finds the same points, edge for edge.

    Edges enter in the order (value, lower vertex, higher vertex, row), and a clique enters with its
    last edge. A point whose edges have equal values may be left out.
    """
    engine = subject.make()
    for question in _questions(engine, subject.seed):
        with on(question.name):
            critical = question.find()
            if len(critical) == 1:
                raise NotApplicable("it finds only dimension 0")
            of_many = not question.directed and question.graph.n in _MANY
            dimensions = 2 if of_many else len(critical)
            expected = oracle.of_edges(*question.graph[1:], dimensions)
            for dimension in range(1, dimensions):
                _require_points(question, dimension, critical[dimension], expected[dimension])


class _Question(NamedTuple):
    """One call of an operator.

    Attributes
    ----------
    name : str
    find : callable
        Calls the operator; returns critical edges.
    graph : ListedGraph
        The graph that the operator is given.
    directed : bool
        Whether the order of the two ends of an edge matters.
    """

    name: str
    find: Callable[[], Sequence[CriticalEdges]]
    graph: ListedGraph
    directed: bool = False


def _questions(engine: Persistence, seed: int) -> Iterator[_Question]:
    """Yield small cliques, with ties and without, and listed graphs."""
    for search in _cliques(engine, seed):
        n = len(search.key)
        pairs = torch.triu_indices(n, n, 1)
        clique = ListedGraph(search.name, n, pairs.T, search.key[tuple(pairs)])
        yield _Question(search.name, search.find, clique)
    if has(engine, "from_edges"):
        for graph in graphs(engine, seed):
            yield _Question(graph.name, partial(engine.from_edges, *graph[1:]), graph, True)


def _cliques(engine: Persistence, seed: int) -> Iterator[Search]:
    for dtype in dtypes_of(engine):
        for n in sorted({at_most(engine, n) for n in (1, 2, 3, _VERTICES)}):
            for search in searches_of_vertices(engine, integers(n, seed).to(dtype)):
                yield search.of(f"{n} vertices of small integers, seed={seed}, {dtype}")
        n = at_most(engine, _VERTICES)
        for search in searches_of_vertices(engine, random_walk(n, seed).to(dtype)):
            yield search.of(f"a random walk of {n} vertices, seed={seed}, {dtype}")
        for search in searches_of_matrix(engine, _shuffled(n, seed, dtype)):
            yield search.of(f"shuffled values of {n} vertices' pairs, seed={seed}, {dtype}")
    sizes = sorted({at_most(engine, n) for n in _MANY})
    for dtype, n in itertools.product(dtypes_of(engine)[:1], sizes):
        for search in searches_of_matrix(engine, _shuffled(n, seed, dtype)):
            yield search.of(f"shuffled values of {n} vertices' pairs, seed={seed}, {dtype}")


def _shuffled(n: int, seed: int, dtype: torch.dtype) -> Tensor:
    """Fill a symmetric matrix with numbers that differ in the last digits, in random order."""
    i, j = torch.triu_indices(n, n, 1)
    generator = torch.Generator().manual_seed(seed)
    rank = torch.randperm(len(i), generator=generator).to(dtype)
    numbers = 1 + 4 * torch.finfo(dtype).eps * rank
    values = torch.ones(n, n, dtype=dtype)
    values[i, j] = values[j, i] = numbers
    return values


def _require_points(
    question: _Question, dimension: int, found: CriticalEdges, expected: CriticalEdges
) -> None:
    names = _names(expected, question.directed)
    received = _names(found, question.directed)
    value = {
        ends: question.graph.values[row].item()
        for row in reversed(in_order(*question.graph[2:]).tolist())
        for ends in [_ends(question.graph.edges[row].tolist(), question.directed)]
    }
    optional = Counter({p: k for p, k in names.points.items() if value[p[0]] == value[p[1]]})
    wrong, absent = received.points - names.points, names.points - received.points - optional
    require(
        not wrong and not absent,
        expected=f"in dimension {dimension} the points (birth edge, death edge) "
        f"{sorted(absent)[:3]}",
        received=f"{sorted(wrong)[:3]} instead",
        mend="order edges by (value, lower, higher), for example by working on their ranks; a "
        "class is born with the edge that closes its cycle, and of two that merge the younger dies",
    )
    require(
        names.essential == received.essential,
        expected=f"in dimension {dimension} the essential births {sorted(names.essential)}",
        received=sorted(received.essential),
        mend="return the birth edges of classes that never die; in a clique all of them die",
    )


class _Names(NamedTuple):
    points: Counter[tuple[tuple[int, ...], tuple[int, ...]]]
    essential: Counter[tuple[int, ...]]


def _names(edges: CriticalEdges, directed: bool) -> _Names:
    births, deaths, essential = (
        [] if ends is None else [_ends(pair, directed) for pair in ends.tolist()]
        for ends in (edges.birth_edges, edges.death_edges, edges.essential_births)
    )
    # An engine may pad its points with classes that die with the edge of their birth.
    points = [(a, b) for a, b in zip(births, deaths, strict=True) if a != b]
    return _Names(Counter(points), Counter(essential))


def _ends(edge: list[int], directed: bool) -> tuple[int, ...]:
    return tuple(edge if directed else sorted(edge))
