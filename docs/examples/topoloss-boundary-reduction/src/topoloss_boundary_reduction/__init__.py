"""Persistence in dimensions 0 and 1 by boundary reduction, for topoloss."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

import topoloss

__all__ = ["BoundaryReduction"]


class BoundaryReduction(topoloss.Persistence):
    """Dimension 0, and dimension 1 of the complex in which every triangle is filled.

    Parameters
    ----------
    max_vertices : int
        More vertices than this are refused.

    Notes
    -----
    **Ties.** Edges enter in the order of (value, lower index, higher index), and a triangle
    enters with its last edge. A circle that is filled by the edge that closes it is not a point
    of the diagram.

    **Complexity.** There are about n^3 / 6 triangles, and each may be added to as many others.

    References
    ----------
    Edelsbrunner, Letscher, Zomorodian, "Topological persistence and simplification", Discrete
    Comput. Geom. 28 (2002).

    Examples
    --------
    >>> import torch, topoloss
    >>> corners = torch.tensor([[0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    >>> reg = topoloss.pipeline("euclidean", "boundary-reduction", "total-persistence")
    >>> reg.diagrams(corners)[1].to_numpy().round(3)  # born with the sides, filled by a diagonal
    array([[1.   , 1.414]], dtype=float32)
    """

    def __init__(self, *, max_vertices: int = 48) -> None:
        super().__init__()
        self.max_vertices = max_vertices

    def from_matrix(self, values: Tensor) -> list[topoloss.CriticalEdges]:
        n = len(values)
        self.check_limits(n, values.dtype)
        i, j = torch.triu_indices(n, n, 1, device=values.device)
        return _critical_edges(n, torch.stack((i, j), 1), values[i, j])

    def from_edges(self, n: int, edges: Tensor, values: Tensor) -> list[topoloss.CriticalEdges]:
        self.check_limits(n, values.dtype)
        return _critical_edges(n, edges, values)


class _Numbers(NamedTuple):
    """Critical edges, as their positions in the order in which edges enter."""

    joins: list[int]
    births: list[int]
    deaths: list[int]
    essential: list[int]


def _critical_edges(n: int, edges: Tensor, values: Tensor) -> list[topoloss.CriticalEdges]:
    # Stable sorts by the last key first give the order (value, lower index, higher index).
    order = edges.amax(1).argsort(stable=True)
    for key in (edges.amin(1), values):
        order = order[key[order].argsort(stable=True)]
    ordered = edges[order]
    found = _reduced(n, ordered.tolist())
    joins, births, deaths, essential = (
        ordered[torch.tensor(numbers, dtype=torch.int64, device=edges.device)] for numbers in found
    )
    return [topoloss.CriticalEdges(joins), topoloss.CriticalEdges(deaths, births, essential)]


def _reduced(n: int, edges: list[list[int]]) -> _Numbers:
    """Add the edges one by one, each with the triangles of which it is the last edge."""
    found = _Numbers([], [], [], [])
    component = list(range(n))
    number_of: list[dict[int, int]] = [{} for _ in range(n)]  # by vertex: neighbour -> edge
    born: list[int] = []
    filled: dict[int, set[int]] = {}  # youngest edge -> a sum of boundaries of triangles
    for number, (i, j) in enumerate(edges):
        if i == j or j in number_of[i]:
            continue  # a self-loop, or a second edge between the same vertices
        if component[i] == component[j]:
            born.append(number)
        else:
            found.joins.append(number)
            gone = component[j]
            component = [component[i] if c == gone else c for c in component]
        for k in number_of[i].keys() & number_of[j].keys():
            boundary = {number, number_of[i][k], number_of[j][k]}
            while boundary and max(boundary) in filled:
                boundary ^= filled[max(boundary)]
            if boundary:
                youngest = max(boundary)
                filled[youngest] = boundary
                if youngest != number:
                    found.births.append(youngest)
                    found.deaths.append(number)
        number_of[i][j] = number_of[j][i] = number
    found.essential.extend(number for number in born if number not in filled)
    return found


@topoloss.hookimpl
def topoloss_persistence() -> dict[str, type[BoundaryReduction]]:
    return {"boundary-reduction": BoundaryReduction}
