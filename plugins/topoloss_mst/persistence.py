"""Persistence in dimension 0, from a minimum spanning tree."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

import topoloss
from topoloss_mst.backends.keys import dtype_of_keys
from topoloss_mst.operators import (
    GIVE_AN_ORDER,
    shared_tree_of_features,
    spanning_forest,
    spanning_tree_of_features,
    spanning_tree_of_matrix,
)
from topoloss_mst.selection import BACKENDS, HOLD_A_MATRIX, choose_backend

Backend = Literal["auto", "numba", "triton", "torch", "reference"]


class MinimumSpanningTree(topoloss.Persistence):
    """Dimension 0: the n - 1 deaths of a clique are its minimum spanning tree's edges.

    For a listed graph with k components, the n - k deaths are the edges of its minimum spanning
    forest.

    Parameters
    ----------
    backend : {"auto", "numba", "triton", "torch", "reference"}
        ``"numba"`` runs on the CPU and ``"triton"`` on GPUs; on features of many vertices, neither
        holds a matrix of all pairs. ``"torch"`` is Boruvka's algorithm in torch operations, on any
        device, and ``"reference"`` a plain Kruskal in float64 on the CPU, for tests; both hold the
        matrix. ``"auto"`` takes numba on the CPU, triton for up to float32 on CUDA where it is
        installed, and torch everywhere else. An explicit choice never falls back to another
        backend. Listed edges are always searched by numba on the CPU, to which they are copied.
    max_vertices : int
        More vertices than this are refused where a matrix of n x n keys is needed: by the
        backends that hold one, and for filtrations without an order.
    group : torch.distributed.ProcessGroup, optional
        Processes that share the search on features: see the notes.
    engine : None
        The former name of `backend`. Giving it is an error that says so.

    Notes
    -----
    **Ties.** Edges are ordered by (key, lower index, higher index), so that there is one
    tree. Where keys are exactly representable (small integers) all backends agree on it,
    edge for edge. Elsewhere products round, and for unit vectors of d features the tree weighs at
    most 2 (n - 1) d eps more than the minimum. ``"numba"`` and, beyond 16,384 vertices,
    ``"triton"`` compare keys that are summed in float64, whatever the dtype of the features, so eps
    is that of float64. Up to 16,384 vertices ``"triton"`` compares keys in float32. ``"torch"``
    compares dot products in the features' dtype, or in float32 if that is wider. For these two, eps
    is that of the keys' dtype, and squared distances have a bound of their own: each is off by at
    most c R^2, where R is the largest distance to the first vertex, and a tree's sum of them by
    2 (n - 1) times that. Here c is 4 d eps of float64 for ``"torch"``, or of float32 on MPS, and
    (d + 8) eps of float32 for ``"triton"`` up to 16,384 vertices.

    **Listed edges** are ordered by (value, lower index, higher index) as well. Self-loops join
    nothing; of several edges between the same two vertices the lightest counts, and of equally
    light ones the first.

    **NaN.** ``"triton"`` on a GPU does not check for NaN, as that would wait for the device. There
    NaN sorts before every number, so a tree contains any NaN there is and the loss becomes NaN.

    **Zero-length edges** count like all others: there are always n - 1 deaths.

    **Complexity.** O(n^2 d) time for features. ``"numba"`` needs O(n d) memory and a block of keys:
    all pairs up to 2,048 vertices, and some tiles of them beyond that. ``"triton"`` holds the keys
    of all pairs up to 16,384 vertices (1 GiB, which as many elements of a batch share as fit), and
    beyond that at most 128 pairs for each vertex. For a matrix, O(n^2) time and memory; for e
    listed edges, O(e log n) time.

    **CUDA graphs.** ``"triton"`` launches the same kernels whatever the values, and never waits
    for the device.

    **Many processes.** With a `group` every process is given the same features, bit for bit, and
    searches its share of the pairs; every process returns the same tree, the one that a single
    process finds. The search runs on the CPU, to which the features are copied, and needs O(n d)
    memory in each process. In a call with n vertices and p processes, each process receives a first
    tree of 16 n bytes, and from every other process the minimum forest of its share, at most
    16 (n - 1) bytes: at most 16 n p bytes together. The check that all features are equal adds some
    hundred bytes for each process. Matrices and listed edges cannot be shared out; giving some is
    an error. A compiled function leaves its graph for the search, and the elements of a batch are
    computed one by one.

    References
    ----------
    Boruvka (1926); Prim, "Shortest connection networks and some generalizations" (1957);
    Gower and Ross, "Minimum spanning trees and single linkage cluster analysis" (1969); for
    pairs that a spanning tree rules out: Karger, Klein and Tarjan, "A randomized linear-time
    algorithm to find minimum spanning trees" (1995).

    Examples
    --------
    >>> import torch, topoloss
    >>> mst = topoloss.persistence("mst")
    >>> matrix = torch.tensor([[0.0, 1.0, 5.0], [1.0, 0.0, 4.0], [5.0, 4.0, 0.0]])
    >>> mst.from_matrix(matrix)[0].death_edges
    tensor([[0, 1],
            [1, 2]])
    """

    max_vertices: int
    orders = frozenset({"abs_dot_descending", "dot_descending", "sq_dist_ascending"})

    def __init__(
        self,
        *,
        backend: Backend = "auto",
        max_vertices: int = 32_768,
        group: Any = None,
        engine: object = None,
    ) -> None:
        super().__init__()
        if engine is not None:
            topoloss.check_choice("engine", engine, ("auto", *BACKENDS))
            raise topoloss.OptionError(
                f"engine={engine!r} was given to mst, whose option is now called backend=, as "
                f"'engine' means the whole persistence stage; write backend={engine!r}."
            )
        topoloss.check_choice("backend", backend, ("auto", *BACKENDS))
        topoloss.check_number("max_vertices", max_vertices, whole=True, least=1)
        self.backend = backend
        self.max_vertices = max_vertices
        self.processes = None if group is None else _sharing(group, backend)
        self.vmappable = group is None

    def from_features(
        self, v: Float[Tensor, "n d"], order: topoloss.Order
    ) -> list[topoloss.CriticalEdges]:
        topoloss.check_choice("order", order, sorted(self.orders))
        if self.processes is not None:
            tree = shared_tree_of_features(v, order, self.processes)
            return [topoloss.CriticalEdges(tree.to(v.device))]
        backend = choose_backend(self.backend, v)
        if backend in HOLD_A_MATRIX:
            needed_by = f"backend={backend!r} holds"
            dtype = dtype_of_keys(v.dtype, order, v.device)
            self._check_size(len(v), dtype, needed_by, "use backend='numba' or 'triton'")
        return [topoloss.CriticalEdges(spanning_tree_of_features(v, order, backend))]

    def from_matrix(self, values: Float[Tensor, "n n"]) -> list[topoloss.CriticalEdges]:
        self._refuse_group("a matrix of all edge values")
        tree = spanning_tree_of_matrix(values, choose_backend(self.backend, values))
        return [topoloss.CriticalEdges(tree)]

    def from_edges(
        self, n: int, edges: Int[Tensor, "e 2"], values: Float[Tensor, " e"]
    ) -> list[topoloss.CriticalEdges]:
        self._refuse_group("listed edges")
        return [topoloss.CriticalEdges(spanning_forest(n, edges, values))]

    def check_matrix(self, n: int, dtype: torch.dtype) -> None:
        self._check_size(n, dtype, "a filtration without an order needs", "give it an order")

    def _refuse_group(self, given: str) -> None:
        if self.processes is not None:
            raise topoloss.OptionError(
                f"{given} cannot be shared out to the processes of a group; "
                f"{GIVE_AN_ORDER}, or leave group= out."
            )

    def _check_size(self, n: int, dtype: torch.dtype, needed_by: str, remedy: str) -> None:
        if n > self.max_vertices:
            # Half precision is widened, and the reference compares in float64.
            least = torch.float64 if self.backend == "reference" else torch.float32
            size = n * n * torch.promote_types(dtype, least).itemsize / 2**30
            raise topoloss.TooLargeError(
                f"{needed_by} a matrix of {n} x {n} keys, {size:.1f} GiB, for {n} vertices, and "
                f"max_vertices is {self.max_vertices}. To avoid it, {remedy}; or take a fraction "
                "of the neurons (attach(..., fraction=0.1)), channels as units "
                "(units='channel'), or raise topoloss.persistence('mst', max_vertices=...)."
            )

    def extra_repr(self) -> str:
        return f"backend={self.backend!r}" + (f", {self.processes}" if self.processes else "")


def _sharing(group: Any, backend: str) -> topoloss.Processes:
    if backend not in ("auto", "numba"):
        raise topoloss.OptionError(
            f"backend={backend!r} was given together with a group, which searches with numba; "
            "leave backend= out."
        )
    return topoloss.Processes(group)
