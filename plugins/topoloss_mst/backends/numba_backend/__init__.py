"""Exact spanning trees on the CPU.

Any spanning tree rules out pairs: a pair of vertices that it connects by lighter edges is not in
the minimum tree. So products in low precision, with an error bound, find the few pairs that some
spanning tree does not rule out, and these "light" pairs are compared exactly, in float64. The
precision of the products decides how many pairs are light, but never which tree is found.

- For few vertices, at most 192, the exact keys of all pairs are computed (`few`).
- Up to 2,048 vertices, the products of all pairs are held at once. They give a spanning tree, and
  then the pairs that it does not rule out (`matrix`).
- Beyond that, a spanning tree is built from a sample first. The pairs that it does not rule out are
  then found tile by tile (`light`, `search`).
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

import topoloss
from topoloss_mst.backends.numba_backend.edges import ORDERS, minimum_forest
from topoloss_mst.backends.numba_backend.prim import prim
from topoloss_mst.backends.numba_backend.share import SharedOut
from topoloss_mst.backends.numba_backend.similarities import fastest_dtype
from topoloss_mst.backends.numba_backend.trees import Plan, minimum_trees


def from_features(v: Float[Tensor, "batch n d"], order: str, plan: Plan | None = None) -> Tensor:
    return torch.from_numpy(minimum_trees(v, ORDERS[order], plan))


def from_features_shared(
    v: Float[Tensor, "batch n d"], order: str, processes: topoloss.Processes
) -> Tensor:
    """The same, where processes share the search, however few vertices there are."""
    return from_features(v, order, Plan(fastest_dtype(), dense=0, share=SharedOut(processes)))


def from_matrix(values: Float[Tensor, "batch n n"]) -> Tensor:
    integer = torch.int64 if values.dtype == torch.float64 else torch.int32
    # `prim` finds maximum trees. Minus zero becomes zero, which equals it but has other bits.
    bits = (0 - values).contiguous().view(integer).numpy()
    return torch.from_numpy(np.stack([prim(of, True) for of in bits]))


def from_edges(n: int, edges: Int[Tensor, "e 2"], values: Float[Tensor, " e"]) -> Tensor:
    """Return the ascending rows of `edges` that make up the minimum spanning forest."""
    # A self-loop would join a component to itself.
    rows = torch.nonzero(edges[:, 0] != edges[:, 1])[:, 0]
    chosen = minimum_forest(n, edges[rows].numpy(), values[rows].double().numpy())
    return rows[torch.from_numpy(chosen)]
