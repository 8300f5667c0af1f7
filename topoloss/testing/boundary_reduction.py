"""Persistent homology by boundary reduction: slow, obvious, and used by no shipped engine."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from topoloss.engines import CriticalEdges
from topoloss.testing.kruskal import in_order

__all__ = ["of_edges", "of_matrix"]


def of_matrix(values: Float[Tensor, "n n"], dimensions: int) -> list[CriticalEdges]:
    """Return the critical edges of a symmetric matrix, as :func:`of_edges` does.

    Examples
    --------
    >>> import torch
    >>> from topoloss.testing.boundary_reduction import of_matrix
    >>> square = torch.tensor(
    ...     [[0.0, 1.0, 2.0, 1.0], [1.0, 0.0, 1.0, 2.0], [2.0, 1.0, 0.0, 1.0], [1.0, 2.0, 1.0, 0.0]]
    ... )
    >>> circle = of_matrix(square, dimensions=2)[1]
    >>> circle.birth_edges, circle.death_edges  # the last of 4 sides; the first of 2 diagonals
    (tensor([[2, 3]]), tensor([[0, 2]]))
    """
    n = len(values)
    i, j = torch.triu_indices(n, n, 1, device=values.device)
    return of_edges(n, torch.stack((i, j), 1), values[i, j], dimensions)


def of_edges(
    n: int, edges: Int[Tensor, "e 2"], values: Float[Tensor, " e"], dimensions: int
) -> list[CriticalEdges]:
    """Return the critical edges of a listed graph, dimension 0 first, with coefficients in Z/2.

    The edges enter one by one, ordered by (value, lower index, higher index, row). Each clique
    enters with its last edge. A class that is born and dies with the same edge is left out; a
    point whose birth and death edges differ is included, even if their values are equal.

    Parameters
    ----------
    n : int
        The number of vertices.
    edges : Tensor of int64, shape (e, 2)
        Self-loops are ignored. Of several edges between two vertices the lightest counts;
        of equally light ones, the first row.
    values : Tensor, shape (e,)
    dimensions : int
        How many dimensions to return.

    Returns
    -------
    list of CriticalEdges
        Unchanged rows of `edges`, ordered by death.
    """
    rows = _simple(edges, in_order(edges, values))
    listed = edges[rows]
    entry = {(min(ends), max(ends)): k for k, ends in enumerate(listed.tolist())}
    # Vertices enter before every edge.
    simplices = [_Simplex(-1, (vertex,)) for vertex in range(n)]
    creators = list(range(n))
    found = []
    for dimension in range(dimensions):
        cofaces = _cofaces(simplices, n, entry)
        pivots = _reduced(simplices, cofaces)
        points = sorted(
            (cofaces[k].entry, simplices[pivot].entry)
            for k, pivot in enumerate(pivots)
            if pivot is not None and cofaces[k].entry != simplices[pivot].entry
        )
        dying = set(pivots)
        essential = [simplices[k].entry for k in creators if k not in dying]
        deaths = listed[[death for death, _ in points]]
        if dimension == 0:
            found.append(CriticalEdges(deaths))
        else:
            births = listed[[birth for _, birth in points]]
            found.append(CriticalEdges(deaths, births, listed[essential]))
        simplices = cofaces
        creators = [k for k, pivot in enumerate(pivots) if pivot is None]
    return found


class _Simplex(NamedTuple):
    """A clique, and the number of its last edge in the order of the filtration."""

    entry: int
    vertices: tuple[int, ...]


def _simple(edges: Tensor, order: Tensor) -> list[int]:
    """Leave out self-loops, and all but the first edge between the same two vertices."""
    first: dict[frozenset[int], int] = {}
    for row in order.tolist():
        first.setdefault(frozenset(edges[row].tolist()), row)
    return [row for ends, row in first.items() if len(ends) == 2]


def _cofaces(cliques: list[_Simplex], n: int, entry: dict[tuple[int, int], int]) -> list[_Simplex]:
    """List the cliques with one more vertex, in the order of the filtration."""
    larger = []
    for clique in cliques:
        for vertex in range(clique.vertices[-1] + 1, n):
            sides = [entry.get((other, vertex)) for other in clique.vertices]
            present = [side for side in sides if side is not None]
            if len(present) == len(sides):
                last = max(clique.entry, *present)
                larger.append(_Simplex(last, (*clique.vertices, vertex)))
    return sorted(larger)


def _reduced(faces: list[_Simplex], simplices: Iterable[_Simplex]) -> list[int | None]:
    """Reduce the boundary matrix from left to right; return the last face of each column, if any.

    A column is an integer whose bit k says whether face k is in it.
    """
    number = {face.vertices: k for k, face in enumerate(faces)}
    of_pivot: dict[int, int] = {}
    pivots: list[int | None] = []
    for simplex in simplices:
        sides = itertools.combinations(simplex.vertices, len(simplex.vertices) - 1)
        column = sum(1 << number[side] for side in sides)
        while column and (pivot := column.bit_length() - 1) in of_pivot:
            column ^= of_pivot[pivot]
        pivots.append(column.bit_length() - 1 if column else None)
        if column:
            of_pivot[column.bit_length() - 1] = column
    return pivots
