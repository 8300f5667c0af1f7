"""Persistence in dimension 0 as a minimum spanning tree."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

import topoloss
from topoloss_mst.operators import spanning_tree_of_features, spanning_tree_of_matrix
from topoloss_mst.selection import ENGINES, choose_engine

Engine = Literal["auto", "numba", "torch", "reference", "triton"]


class MinimumSpanningTree(topoloss.Persistence):
    """Dimension 0: the n - 1 deaths of a clique are its minimum spanning tree's edges.

    Parameters
    ----------
    engine : {"auto", "numba", "torch", "reference", "triton"}
        ``"numba"`` is Prim's algorithm on the CPU; ``"torch"`` is Boruvka's in torch
        operations, on any device; ``"reference"`` is a plain Kruskal in float64, for tests.
        ``"auto"`` takes numba on the CPU and torch elsewhere. An explicit choice never
        falls back. ``"triton"`` is reserved for the kernel on GPUs, which is not built yet.
    max_vertices : int
        All engines hold a matrix of n x n keys for the time of the search (none is kept
        for the backward pass). More vertices than this are refused.

    Notes
    -----
    **Ties.** Edges are ordered by (key, lower index, higher index), so that there is one
    tree. Where keys are exactly representable (small integers) all engines agree on it,
    edge for edge. Elsewhere matrix products round: with unit vectors of d features each
    dot product is off by at most d eps, so the tree weighs at most 2 (n - 1) d eps more than
    the minimum. Squared distances are compared in float64; there a key is off by at most
    4 d eps times the largest squared distance to the first vertex.

    **Zero-length edges** are edges like others: there are always n - 1 deaths.

    **Complexity.** O(n^2 d) for the keys of features, O(n^2) for the search.

    References
    ----------
    Prim, "Shortest connection networks and some generalizations" (1957). Boruvka (1926).

    Examples
    --------
    >>> import torch, topoloss
    >>> mst = topoloss.persistence("mst")
    >>> matrix = torch.tensor([[0.0, 1.0, 5.0], [1.0, 0.0, 4.0], [5.0, 4.0, 0.0]])
    >>> mst.from_matrix(matrix)[0].death_edges
    tensor([[0, 1],
            [1, 2]])
    """

    orders = frozenset({"abs_dot_descending", "dot_descending", "sq_dist_ascending"})
    vmappable = True

    def __init__(self, *, engine: Engine = "auto", max_vertices: int = 32_768) -> None:
        super().__init__()
        if engine != "auto" and engine not in ENGINES:
            listed = ", ".join(repr(name) for name in ("auto", *ENGINES))
            raise topoloss.OptionError(f"engine={engine!r} is not one of {listed}.")
        self.engine = engine
        self.max_vertices = max_vertices

    def from_features(
        self, v: Float[Tensor, "n d"], order: topoloss.Order
    ) -> list[topoloss.CriticalEdges]:
        self._check_size(v)
        tree = spanning_tree_of_features(v, order, choose_engine(self.engine, v))
        return [topoloss.CriticalEdges(tree)]

    def from_matrix(self, values: Float[Tensor, "n n"]) -> list[topoloss.CriticalEdges]:
        self._check_size(values)
        tree = spanning_tree_of_matrix(values, choose_engine(self.engine, values))
        return [topoloss.CriticalEdges(tree)]

    def _check_size(self, keyed: Tensor) -> None:
        n = keyed.shape[-2]
        if n > self.max_vertices:
            size = n * n * keyed.element_size() / 2**30
            raise topoloss.TooLargeError(
                f"{n} vertices need a matrix of {size:.1f} GiB, and max_vertices is "
                f"{self.max_vertices}. Take a fraction of the neurons (attach(..., "
                "fraction=0.1)), channels as units (units='channel'), or raise it: "
                "topoloss.persistence('mst', max_vertices=...)."
            )

    def extra_repr(self) -> str:
        return f"engine={self.engine!r}"
