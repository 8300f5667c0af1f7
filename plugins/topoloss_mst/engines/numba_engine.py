"""Prim's algorithm in numba on a dense matrix of similarities."""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from topoloss_mst.engines.keys import ascending_keys, gram

_BLOCK = 1024


def from_features(v: Tensor, order: str) -> Tensor:
    if order == "abs_dot_descending":
        # |.| is taken inside the search, which saves two passes over the matrix.
        return torch.from_numpy(_prim(gram(v).numpy(), True))
    return from_matrix(ascending_keys(v, order))


def from_matrix(values: Tensor) -> Tensor:
    return torch.from_numpy(_prim(values.neg().contiguous().numpy(), False))


# nnan: the operator lets no NaN through, and without it the maximum is not vectorised.
_compile = numba.njit(cache=True, nogil=True, fastmath={"nnan"})


@_compile
def _prim(similarity, absolute):
    """Maximum spanning tree of similarities, ties by (lower index, higher index).

    ``best[j]`` is the similarity of vertex j to the tree, or infinity once it is inside,
    and ``link[j]`` the vertex of the tree that attains it.
    """
    n = similarity.shape[0]
    inside = similarity.dtype.type(np.inf)
    best = np.full(n, -inside, similarity.dtype)
    link = np.full(n, n, np.int32)
    block_highest = np.empty((n + _BLOCK - 1) // _BLOCK, similarity.dtype)
    tree = np.empty((n - 1, 2), np.int64)
    u = np.int32(0)
    best[u] = inside
    for step in range(n - 1):
        row = similarity[u]
        for k in range(len(block_highest)):
            block = slice(k * _BLOCK, (k + 1) * _BLOCK)
            _relax(row[block], best[block], link[block], u, absolute)
            block_highest[k] = _highest_outside(best[block])
        u = _lowest_edge_at(block_highest.max(), block_highest, best, link)
        best[u] = inside
        tree[step, 0], tree[step, 1] = link[u], u
    return tree


@_compile
def _relax(row, best, link, u, absolute):
    for j in range(len(row)):
        s = abs(row[j]) if absolute else row[j]
        # Both edges end in j, so the lower other end is the lexicographically lower edge.
        better = (s > best[j]) | ((s == best[j]) & (u < link[j]))
        best[j] = s if better else best[j]
        link[j] = u if better else link[j]


@_compile
def _highest_outside(best):
    inside = best.dtype.type(np.inf)
    highest = -inside
    for j in range(len(best)):
        highest = max(highest, best[j] if best[j] < inside else -inside)
    return highest


@_compile
def _lowest_edge_at(highest, block_highest, best, link):
    """Vertex outside whose edge comes lexicographically first among those at `highest`."""
    n = len(best)
    lowest = n * n
    vertex = np.int32(0)
    for k in range(len(block_highest)):
        if block_highest[k] == highest:
            for j in range(k * _BLOCK, min((k + 1) * _BLOCK, n)):
                if best[j] == highest:
                    edge = min(j, link[j]) * n + max(j, link[j])
                    if edge < lowest:
                        lowest, vertex = edge, np.int32(j)
    return vertex
