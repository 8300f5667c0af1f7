"""Kruskal's algorithm in a few lines: obvious, and shared with no engine."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from topoloss.engines import CriticalEdges, Persistence

__all__ = ["Kruskal", "by_value_then_indices", "in_order", "spanning_forest"]


def by_value_then_indices(values: Float[Tensor, "n n"]) -> Int[Tensor, "edges 2"]:
    """Return the spanning tree of the order (value, lower index, higher index), sorted.

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

    Edges are ordered as by :func:`in_order`.

    Examples
    --------
    >>> import torch
    >>> from topoloss.testing.kruskal import spanning_forest
    >>> edges = torch.tensor([[2, 2], [0, 1], [1, 0], [2, 3]])
    >>> spanning_forest(4, edges, torch.tensor([0.0, 5.0, 1.0, 1.0])).tolist()
    [2, 3]
    """
    parent = list(range(n))

    def root(vertex: int) -> int:
        while parent[vertex] != vertex:
            parent[vertex] = parent[parent[vertex]]
            vertex = parent[vertex]
        return vertex

    rows: list[int] = []
    ends = edges.cpu().numpy()
    order = in_order(edges, values).numpy()
    while len(order):
        block, order = order[: 8 * n], order[8 * n :]
        for row, (i, j) in zip(block.tolist(), ends[block].tolist(), strict=True):
            a, b = root(i), root(j)
            if a != b:
                parent[b] = a
                rows.append(row)
        # Few of the edges that are left join two components: spare the others the slow loop.
        component = np.array([root(vertex) for vertex in range(n)])
        i, j = component[ends[order]].T
        order = order[i != j]
    return torch.tensor(rows, dtype=torch.int64, device=edges.device)


def in_order(edges: Int[Tensor, "e 2"], values: Float[Tensor, " e"]) -> Int[Tensor, " e"]:
    """Return the rows of `edges` ordered by (value, lower index, higher index, row), on the CPU."""
    lower, higher = np.sort(edges.cpu().numpy(), axis=1).T
    return torch.from_numpy(np.lexsort((higher, lower, values.detach().double().cpu().numpy())))


class Kruskal(Persistence):
    """Dimension 0 of a matrix of edge values, or of listed edges."""

    def from_matrix(self, values: Float[Tensor, "n n"]) -> list[CriticalEdges]:
        return [CriticalEdges(by_value_then_indices(values))]

    def from_edges(
        self, n: int, edges: Int[Tensor, "e 2"], values: Float[Tensor, " e"]
    ) -> list[CriticalEdges]:
        return [CriticalEdges(edges[spanning_forest(n, edges, values)])]
