"""Prim's algorithm on a dense matrix of similarities, given by their bits."""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from topoloss_plugins.compiling import compiled, part

from topoloss_mst.backends.numba_backend.ordered import ordered

_BLOCK = 1024
_CHUNK = 128


@compiled
def prim(similarity, signed):
    """Edges (n - 1, 2) of the maximum spanning tree, ties by (lower index, higher index).

    ``best[j]`` is the similarity of vertex j to the tree, or the highest integer once it is
    inside, and ``link[j]`` the vertex of the tree that attains it.
    """
    n = similarity.shape[0]
    limits = np.iinfo(similarity.dtype)
    best = np.full(n, limits.min, similarity.dtype)
    link = np.full(n, n, np.int32)
    block_highest = np.empty((n + _BLOCK - 1) // _BLOCK, similarity.dtype)
    tree = np.empty((n - 1, 2), np.int64)
    u = np.int32(0)
    best[u] = limits.max
    for step in range(n - 1):
        row = similarity[u]
        for k in range(len(block_highest)):
            block = slice(k * _BLOCK, (k + 1) * _BLOCK)
            block_highest[k] = _relax(row[block], best[block], link[block], u, signed)
        u = _lowest_edge_at(block_highest, best, link)
        best[u] = limits.max
        tree[step, 0], tree[step, 1] = link[u], u
    return tree


@part
def _relax(row, best, link, u, signed):
    """Update `best` with the row of vertex u, and return its highest entry outside the tree."""
    inside = np.iinfo(row.dtype).max
    highest = best.dtype.type(np.iinfo(row.dtype).min)
    lowest = highest
    for j in range(len(row)):
        s = ordered(row[j], inside, signed)
        # Both edges end in j, so the lower other end is the lexicographically lower edge.
        better = (s > best[j]) | ((s == best[j]) & (u < link[j]))
        best[j] = s if better else best[j]
        link[j] = u if better else link[j]
        outside = best[j] if best[j] < inside else lowest
        highest = outside if outside > highest else highest
    return highest


@part
def _lowest_edge_at(block_highest, best, link):
    """The vertex outside the tree whose edge comes first among those of highest similarity."""
    n = len(best)
    highest = block_highest[0]
    for k in range(1, len(block_highest)):
        highest = max(highest, block_highest[k])
    lowest = n * n
    vertex = np.int32(0)
    for k in range(len(block_highest)):
        if block_highest[k] != highest:
            continue
        for start in range(k * _BLOCK, min((k + 1) * _BLOCK, n), _CHUNK):
            chunk = best[start : start + _CHUNK]
            if not _holds(chunk, highest):
                continue
            for j in range(start, start + len(chunk)):
                if best[j] == highest:
                    edge = min(j, link[j]) * n + max(j, link[j])
                    if edge < lowest:
                        lowest, vertex = edge, np.int32(j)
    return vertex


@part
def _holds(chunk, value):
    """Whether a chunk holds the value; the loop has no early exit, so that it is vectorised."""
    found = False
    for j in range(len(chunk)):
        found |= chunk[j] == value
    return found
