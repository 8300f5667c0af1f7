"""The maximum spanning tree of a complete bipartite graph, given as a matrix."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

import topoloss

__all__ = ["maximum_spanning_tree"]


def maximum_spanning_tree(
    matrix: Float[Tensor, "rows columns"],
) -> tuple[Int[Tensor, " e"], Int[Tensor, " e"]]:
    """Rows and columns of the entries that make up the tree, rows + columns - 1 of them.

    Every row and every column is a vertex, and every entry an edge. The search runs on the CPU,
    in memory that grows with the number of vertices, not of edges. Of equal entries the first
    that Prim's algorithm meets from row 0 is taken, always the same.
    """
    i, j = topoloss.outside(_tree, matrix.detach())
    return i, j


def _tree(matrix: Tensor) -> tuple[Tensor, Tensor]:
    from topoloss_neural_persistence.loops import prim

    i, j = prim(matrix.cpu().contiguous().numpy())
    return (torch.from_numpy(i).to(matrix.device), torch.from_numpy(j).to(matrix.device))
