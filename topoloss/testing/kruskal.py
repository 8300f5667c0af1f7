"""Kruskal's algorithm in a few lines: obvious, and used by no shipped engine."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from topoloss.engines import CriticalEdges, Persistence

__all__ = ["Kruskal", "by_value_then_indices", "in_order", "spanning_forest"]


def by_value_then_indices(values: Float[Tensor, "n n"]) -> Int[Tensor, "edges 2"]:
    """Return the minimum spanning tree by (value, lower index, higher index), its edges sorted.

    Examples
    --------
    >>> import torch
    >>> from topoloss.testing.kruskal import by_value_then_indices
    >>> by_value_then_indices(torch.ones(3, 3)).tolist()
    [[0, 1], [0, 2]]
    """
    n = len(values)
    pairs = torch.triu_indices(n, n, 1, device=values.device)
    rows = spanning_forest(n, pairs.T, values[pairs[0], pairs[1]])
    return pairs.T[rows.sort().values]


def spanning_forest(
    n: int, edges: Int[Tensor, "e 2"], values: Float[Tensor, " e"]
) -> Int[Tensor, " rows"]:
    """Return which rows of `edges` make up the minimum spanning forest, the lightest first.

    Edges are ordered as by :func:`in_order`; NaN counts as infinity.

    Examples
    --------
    >>> import torch
    >>> from topoloss.testing.kruskal import spanning_forest
    >>> edges = torch.tensor([[2, 2], [0, 1], [1, 0], [2, 3]])
    >>> spanning_forest(4, edges, torch.tensor([0.0, 5.0, 1.0, 1.0])).tolist()
    [2, 3]
    """
    component = list(range(n))
    vertices = [[vertex] for vertex in range(n)]  # of each component
    rows: list[int] = []
    ends, heights = edges.cpu().numpy(), _doubles(values)
    left = np.arange(len(ends))
    while len(left):
        # Sort only the lightest edges; once they are added, few others join two components.
        highest = np.partition(heights[left], min(4 * n, len(left)) - 1)[: 4 * n].max()
        light = heights[left] <= highest
        block, left = left[light], left[~light]
        block = block[_order(ends[block], heights[block])]
        for row, (i, j) in zip(block.tolist(), ends[block].tolist(), strict=True):
            a, b = component[i], component[j]
            if a != b:
                if len(vertices[a]) < len(vertices[b]):
                    a, b = b, a
                for vertex in vertices[b]:
                    component[vertex] = a
                vertices[a] += vertices[b]
                rows.append(row)
        of_vertex = np.array(component)
        left = left[of_vertex[ends[left, 0]] != of_vertex[ends[left, 1]]]
    return torch.tensor(rows, dtype=torch.int64, device=edges.device)


def in_order(edges: Int[Tensor, "e 2"], values: Float[Tensor, " e"]) -> Int[Tensor, " e"]:
    """Return the rows of `edges` ordered by (value, lower index, higher index, row), on the CPU."""
    return torch.from_numpy(_order(edges.cpu().numpy(), _doubles(values)))


def _order(ends: NDArray[np.int64], values: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.lexsort((ends.max(1), ends.min(1), values))


def _doubles(values: Tensor) -> NDArray[np.float64]:
    """Return float64 values, with infinity for NaN, which has no place in an order."""
    doubles = values.detach().double().cpu().numpy()
    return np.where(np.isnan(doubles), np.inf, doubles)


class Kruskal(Persistence):
    """Dimension 0 of a matrix of edge values, or of listed edges."""

    def from_matrix(self, values: Float[Tensor, "n n"]) -> list[CriticalEdges]:
        return [CriticalEdges(by_value_then_indices(values))]

    def from_edges(
        self, n: int, edges: Int[Tensor, "e 2"], values: Float[Tensor, " e"]
    ) -> list[CriticalEdges]:
        return [CriticalEdges(edges[spanning_forest(n, edges, values)])]
