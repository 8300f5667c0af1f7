"""Minimum spanning trees of few vertices, from the exact keys of all pairs.

Where the products take microseconds, preparing a search costs more than it saves.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from topoloss_plugins.compiling import compiled
from torch import Tensor

from topoloss_mst.backends.numba_backend.edges import exact_key
from topoloss_mst.backends.numba_backend.prim import prim
from topoloss_mst.backends.numba_backend.search import Edges
from topoloss_mst.backends.numba_backend.threads import in_threads

_MOST_VERTICES = 192
# Multiplications: as many as for 128 vertices of 256 features. Threads share larger batches.
_MOST_PRODUCTS = 1 << 22


def are_few(n: int, d: int) -> bool:
    """Whether computing the exact keys of all pairs of n vertices with d features is fastest."""
    return n <= _MOST_VERTICES and n * n * d <= _MOST_PRODUCTS


def minimum_trees_of_few(v: Float[Tensor, "batch n d"], order: int) -> Edges:
    """Edges of shape (batch, n - 1, 2)."""
    rows = v.numpy()
    batch, n, d = rows.shape
    trees = np.empty((batch, n - 1, 2), np.int64)

    def fill(thread: int, threads: int) -> None:
        for element in range(thread, batch, threads):
            trees[element] = prim(_similarities(rows[element], order).view(np.int64), True)

    products = batch * n * n * d
    in_threads(fill, min(torch.get_num_threads(), batch, 1 + products // _MOST_PRODUCTS))
    return trees


@compiled
def _similarities(v, order):
    """Minus the key of each pair: shape (n, n), 0 on the diagonal."""
    n = len(v)
    similarities = np.empty((n, n))
    for i in range(n):
        similarities[i, i] = 0
        for j in range(i):
            # Subtracting from 0 never gives minus zero, which equals zero but has other bits.
            similarities[i, j] = 0.0 - exact_key(v[i], v[j], order)
            similarities[j, i] = similarities[i, j]
    return similarities
