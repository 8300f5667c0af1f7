"""Single linkage lays a spanning tree in a row, where its bottlenecks are running maxima."""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from topoloss_plugins.compiling import compiled

from topoloss_mst.backends.numba_backend.edges import join

# Columns that are looked at together.
CHUNK = 32


@compiled
def linkage(tree, ascending):
    """Lay the vertices of a spanning tree in a row by single linkage.

    Parameters
    ----------
    tree : ndarray of int64, shape (n - 1, 2)
    ascending : ndarray of int64, shape (n - 1,)
        Its edges from the lightest to the heaviest. How ties are broken does not change the key
        of any bottleneck.

    Returns
    -------
    vertex : ndarray of int64, shape (n,)
        The vertex at each position of the row.
    gap : ndarray of int64, shape (n,)
        ``gap[p]`` is the rank of the edge that joined the two stretches which meet between
        positions p and p + 1. The heaviest edge on the tree's path between positions p < q is
        of rank ``max(gap[p:q])``. The last is -1.
    """
    n = len(tree) + 1
    component = np.arange(n)
    last = np.arange(n)
    following = np.full(n, -1)
    rank_after = np.full(n, -1)
    for rank in range(n - 1):
        e = ascending[rank]
        a, b = join(component, tree[e, 0], tree[e, 1])
        following[last[a]] = b
        rank_after[last[a]] = rank
        last[a] = last[b]
    vertex = np.empty(n, np.int64)
    gap = np.empty(n, np.int64)
    u = 0
    for p in range(n):
        vertex[p], gap[p] = u, rank_after[u]
        u = following[u]
    return vertex, gap


def chunk_highest(at: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The highest value in each chunk of positions."""
    return np.maximum.reduceat(at, np.arange(0, len(at), CHUNK))
