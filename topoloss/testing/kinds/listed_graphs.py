"""The rules for a persistence engine on the listed edges of a graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from topoloss.engines import Persistence
from topoloss.testing.checks import NotApplicable, Subject, builds_on, on, require
from topoloss.testing.kinds.searches import at_most, dtypes_of, has
from topoloss.testing.kruskal import spanning_forest

__all__ = ["ListedGraph", "components", "forest", "graphs"]


class ListedGraph(NamedTuple):
    """A listed graph, with its name in reports."""

    name: str
    n: int
    edges: Tensor
    values: Tensor


@builds_on("spanning_tree")
def components(subject: Subject) -> None:
    """A listed graph of k components has n - k deaths, which are unchanged rows of the list."""
    engine = _engine_of_lists(subject)
    for graph in graphs(engine, subject.seed):
        with on(graph.name):
            found = engine.from_edges(*graph[1:])[0].death_edges
            expected = len(spanning_forest(*graph[1:]))
            require(
                found.shape == (expected, 2) and found.dtype == torch.int64,
                expected=f"{expected} deaths, int64 of shape {(expected, 2)}, for {graph.n} "
                f"vertices in {graph.n - expected} components",
                received=f"{found.dtype} of shape {tuple(found.shape)}",
                mend="count isolated vertices as components; leave out self-loops, and keep edges "
                "of value 0",
            )
            listed = set(map(tuple, graph.edges.tolist()))
            other = [edge for edge in found.tolist() if tuple(edge) not in listed]
            require(
                not other,
                expected="rows of the list, with their ends in the same order",
                received=f"{other[:3]}, which are not listed",
                mend="return edges[rows]: the values of (i, j) and (j, i) may differ",
            )


@builds_on("reference", "negative_values", "sizes", "components")
def forest(subject: Subject) -> None:
    """On listed edges Kruskal's algorithm by (value, lower, higher, row) finds the same deaths."""
    engine = _engine_of_lists(subject)
    for graph in graphs(engine, subject.seed):
        with on(graph.name):
            found = engine.from_edges(*graph[1:])[0].death_edges
            received = Counter(map(tuple, found.tolist()))
            rows = spanning_forest(*graph[1:])
            expected = Counter(map(tuple, graph.edges[rows].tolist()))
            wrong, absent = received - expected, expected - received
            require(
                not wrong and not absent,
                expected=f"a spanning forest with the edges {sorted(absent)[:3]}",
                received=f"{sorted(wrong)[:3]} instead",
                mend="of several edges between two vertices take the lightest, or the first of "
                "equally light ones; do not add their values up, or expect a sorted list",
            )


def graphs(engine: Persistence, seed: int) -> Iterator[ListedGraph]:
    """Yield graphs that the engine says it takes, in each of its dtypes."""
    for dtype in dtypes_of(engine):
        for graph in _by_hand(dtype):
            if graph.n <= at_most(engine, graph.n):
                yield graph
        for n, e in ((12, 9), (17, 20), (40, 200), (301, 900)):
            if n <= at_most(engine, n):
                yield _random(n, e, seed, dtype)


def _by_hand(dtype: torch.dtype) -> Iterator[ListedGraph]:
    listed: list[tuple[str, int, list[list[int]], list[float]]] = [
        ("1 vertex without edges", 1, [], []),
        ("4 vertices without edges", 4, [], []),
        ("2 vertices and a self-loop", 2, [[1, 1]], [1]),
        ("3 vertices, the middle one isolated", 3, [[2, 0]], [1]),
        ("edges of value 0", 4, [[3, 1], [1, 0]], [0, 0]),
        ("4 edges between 2 vertices", 2, [[0, 1], [1, 0], [0, 1], [1, 0]], [3, 2, 3, 2]),
        ("2 equal edges between 2 vertices", 2, [[1, 0], [0, 1]], [1, 1]),
        (
            "a triangle whose heaviest side is listed twice",
            3,
            [[0, 1], [1, 2], [2, 0], [2, 0]],
            [2, 3, 1, 5],
        ),
        (
            "a triangle whose lightest side is listed twice",
            3,
            [[0, 1], [1, 2], [2, 0], [0, 2]],
            [2, 3, 1, 1.5],
        ),
        ("2 components", 5, [[4, 2], [0, 3], [4, 1], [2, 1]], [-1, 1, 0, -2]),
    ]
    for name, n, edges, values in listed:
        rows = torch.tensor(edges, dtype=torch.int64).reshape(-1, 2)
        yield ListedGraph(
            f"from_edges of {name}, {dtype}", n, rows, torch.tensor(values, dtype=dtype)
        )


def _random(n: int, e: int, seed: int, dtype: torch.dtype) -> ListedGraph:
    """Draw edges in both directions, with repetitions, self-loops, ties and negative values."""
    generator = torch.Generator().manual_seed(seed)
    edges = torch.randint(n, (e, 2), generator=generator)
    values = torch.randint(-5, 20, (e,), generator=generator).to(dtype)
    return ListedGraph(
        f"from_edges of {e} edges on {n} vertices, seed={seed}, {dtype}", n, edges, values
    )


def _engine_of_lists(subject: Subject) -> Persistence:
    engine: Persistence = subject.make()
    if not has(engine, "from_edges"):
        raise NotApplicable("it has no from_edges")
    return engine
