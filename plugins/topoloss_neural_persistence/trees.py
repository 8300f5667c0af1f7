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
    """Return the rows and columns of the rows + columns - 1 entries that make up the tree.

    Every row and every column is a vertex, and every entry an edge. The search runs on the CPU,
    in memory that grows with the number of vertices, not of edges. Of equal entries,
    Prim's algorithm from row 0 takes the first that it meets, so the result is deterministic.
    """
    i, j = topoloss.outside(_tree, matrix.detach())
    return i, j


def _tree(matrix: Tensor) -> tuple[Tensor, Tensor]:
    from topoloss_neural_persistence.loops import prim

    i, j = prim(matrix.cpu().contiguous().numpy())
    return (torch.from_numpy(i).to(matrix.device), torch.from_numpy(j).to(matrix.device))
