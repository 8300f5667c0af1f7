"""The components that rounds of Boruvka's algorithm join, and the edges that join them."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from topoloss_mst.backends.triton_backend.kernels import components as kernels
from topoloss_mst.backends.triton_backend.launching import OPTIONS

# Vertices that a program looks at together.
BLOCK = 1024


class Components:
    """The components of each element of a batch; at first, each vertex is one.

    Attributes
    ----------
    component, parent : Tensor of int32, shape (batch, n)
    lightest_key, lightest_edge, tree : Tensor of int64, shape (batch, n)
    joined : Tensor of int32, shape (batch, rounds + 1)
    rounds : int
        Each round joins every component to another, so at most k // 2 of k are left.
    """

    def __init__(self, batch: int, n: int, device: torch.device, block: int = BLOCK) -> None:
        def per_vertex(dtype: torch.dtype) -> Tensor:
            return torch.empty(batch, n, dtype=dtype, device=device)

        self.batch, self.n, self.device = batch, n, device
        self.rounds = n.bit_length() - 1
        self.component, self.parent = per_vertex(torch.int32), per_vertex(torch.int32)
        self.lightest_key, self.lightest_edge = per_vertex(torch.int64), per_vertex(torch.int64)
        self.tree = per_vertex(torch.int64)
        self.joined = torch.empty(batch, self.rounds + 1, dtype=torch.int32, device=device)
        self._block = block
        lightest = (self.lightest_key, self.lightest_edge)
        self.run(kernels.start_components, self.component, *lightest, self.joined, self.rounds)

    def run(self, kernel: Any, *arguments: Any) -> None:
        """Launch a kernel whose programs take a block of vertices each."""
        grid = (triton.cdiv(self.n, self._block), self.batch)
        kernel[grid](*arguments, self.n, self._block, **OPTIONS)

    def hook(self, round: int) -> None:
        self.run(
            kernels.hook_components, self.component, self.lightest_edge, self.parent, self.tree,
            self.joined, round, self.rounds,
        )  # fmt: skip

    def relabel(self, round: int) -> None:
        self.run(
            kernels.relabel_components, self.component, self.lightest_key, self.lightest_edge,
            self.parent, self.joined, round, self.rounds,
        )  # fmt: skip

    def close_at_zero(self) -> None:
        """Connect components whose vertices all have dot product 0 with those of others.

        All edges between them have key 0, and the first of these lead from vertex 0 to the lowest
        vertex of each other component.
        """
        self.run(kernels.find_lowest, self.component, self.lightest_edge)
        self.run(kernels.connect_lowest, self.component, self.lightest_edge, self.tree)

    def edges(self) -> Tensor:
        """Edges (batch, n - 1, 2) of the trees, once all is joined."""
        edges = torch.empty(self.batch, self.n - 1, 2, dtype=torch.int64, device=self.device)
        self.run(kernels.collect_edges, self.component, self.tree, edges)
        return edges
