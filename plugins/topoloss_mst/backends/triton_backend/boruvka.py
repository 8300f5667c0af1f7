"""Boruvka's algorithm as a fixed sequence of launches, without a look at their results."""

from __future__ import annotations

from typing import Any, Protocol

import torch
import triton
from torch import Tensor

from topoloss_mst.backends.triton_backend import kernels

BLOCK = 1024


class Pairs(Protocol):
    """All pairs of the n vertices of each element of a batch."""

    batch: int
    n: int
    device: torch.device

    def offer(self, component: Tensor, lightest: Tensor, joined: Tensor) -> None:
        """Lower ``lightest[p, u]`` to the least ``key << 32 | w`` of other components' w.

        Need do nothing for an element where ``joined[p]``, its edges so far, are n - 1.
        """


def minimum_trees(pairs: Pairs, block: int = BLOCK) -> Tensor:
    """Edges (batch, n - 1, 2), in some order, for n of at least 2, by programs of a block each."""
    batch, n = pairs.batch, pairs.n

    def per_vertex(dtype: torch.dtype) -> Tensor:
        return torch.empty(batch, n, dtype=dtype, device=pairs.device)

    component, parent = per_vertex(torch.int32), per_vertex(torch.int32)
    lightest, tree = per_vertex(torch.int64), per_vertex(torch.int64)
    # Of a component, at the vertex that stands for it.
    lightest_key, lightest_edge = per_vertex(torch.int32), per_vertex(torch.int64)
    joined = torch.empty(batch, dtype=torch.int32, device=pairs.device)
    edges = torch.empty(batch, n - 1, 2, dtype=torch.int64, device=pairs.device)

    def run(kernel: Any, *arrays: Tensor) -> None:
        kernel[(batch * triton.cdiv(n, block),)](*arrays, n, block, enable_fp_fusion=False)

    of_round = (lightest, lightest_key, lightest_edge)
    run(kernels.start, component, *of_round, joined)
    for _ in range(_rounds(n)):
        pairs.offer(component, lightest, joined)
        run(kernels.component_keys, component, lightest, lightest_key)
        run(kernels.component_edges, component, *of_round)
        run(kernels.hook, component, lightest_edge, parent, tree, joined)
        run(kernels.relabel, component, parent, *of_round)
    run(kernels.collect, component, tree, edges)
    return edges


def _rounds(n: int) -> int:
    """Each round joins every component to another, so that of k at most k // 2 are left."""
    return n.bit_length() - 1
