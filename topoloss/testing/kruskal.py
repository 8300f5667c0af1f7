"""Kruskal's algorithm in plain Python: slow, obvious, and shared with no engine."""

from __future__ import annotations

import itertools

import torch
from jaxtyping import Float, Int
from torch import Tensor

from topoloss.engines import CriticalEdges, Persistence

__all__ = ["Kruskal", "by_value_then_indices"]


def by_value_then_indices(values: Float[Tensor, "n n"]) -> Int[Tensor, "edges 2"]:
    """Return the spanning tree of the order (value, lower index, higher index), sorted.

    Examples
    --------
    >>> import torch
    >>> from topoloss.testing.kruskal import by_value_then_indices
    >>> by_value_then_indices(torch.ones(3, 3)).tolist()
    [[0, 1], [0, 2]]
    """
    value = values.detach().cpu().tolist()
    parent = list(range(len(value)))

    def root(vertex: int) -> int:
        while parent[vertex] != vertex:
            vertex = parent[vertex]
        return vertex

    tree = []
    edges = itertools.combinations(range(len(value)), 2)
    for i, j in sorted(edges, key=lambda edge: (value[edge[0]][edge[1]], edge)):
        a, b = root(i), root(j)
        if a != b:
            parent[b] = a
            tree.append((i, j))
    return torch.tensor(sorted(tree), dtype=torch.int64, device=values.device).reshape(-1, 2)


class Kruskal(Persistence):
    """Dimension 0 of a matrix of edge values."""

    def from_matrix(self, values: Float[Tensor, "n n"]) -> list[CriticalEdges]:
        return [CriticalEdges(by_value_then_indices(values))]
