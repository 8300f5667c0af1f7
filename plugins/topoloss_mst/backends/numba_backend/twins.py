"""Twins, which are vertices of equal features: only the lowest of them takes part in the search.

Let u be the lowest of some twins, and w another vertex. All edges between w and these twins have
the same key, and the order (key, lower index, higher index) puts the edge between w and u first. So
an edge at a vertex x that is not the lowest of its twins is the last of a cycle, with two
exceptions for each x: the edge from x to its lowest twin u, and the edge from x to the first
neighbour of u (the other end of u's first edge) in the minimum tree of the lowest twins. The
minimum tree consists of that tree and, for each x, the earlier of these two edges.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from functools import cache

import numba
import numpy as np
import numpy.typing as npt
from topoloss_plugins.compiling import compiled, part

from topoloss_mst.backends.numba_backend.edges import before, exact_key


def lowest_twins(features: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    """Return for each vertex its lowest twin, possibly itself: shape (batch, n)."""
    integers = np.int64 if features.dtype == np.float64 else np.int32
    factors = _factors(features.shape[-1])
    return np.stack([_lowest_twins(bits, factors) for bits in features.view(integers)])


@cache
def _factors(d: int) -> npt.NDArray[np.int64]:
    """Random factors of the features in hashes, so that different vertices rarely share one."""
    limits = np.iinfo(np.int64)
    return np.random.default_rng(0).integers(limits.min, limits.max, d)


@compiled
def _lowest_twins(bits, factors):
    n = len(bits)
    slots = 4
    while slots < 2 * n:
        slots *= 2
    table = np.full(slots, -1)
    lowest = np.empty(n, np.int64)
    for u in range(n):
        slot = _hash(bits[u], factors) & (slots - 1)
        while table[slot] >= 0 and not _equal(bits[table[slot]], bits[u]):
            slot = (slot + 1) & (slots - 1)
        if table[slot] < 0:
            table[slot] = u
        lowest[u] = table[slot]
    return lowest


@compiled
def with_twins(tree, representatives, lowest, v, order):
    """The minimum tree of all vertices, from that of the `representatives`, the lowest twins.

    `tree` holds edges between positions in `representatives`, which ascend.
    """
    n = len(lowest)
    found = np.empty((n - 1, 2), np.int64)
    # For each representative, the key and the other end of its first edge.
    key, neighbour = np.full(n, np.inf), np.full(n, -1)
    for e in range(len(tree)):
        a, b = representatives[tree[e, 0]], representatives[tree[e, 1]]
        found[e, 0], found[e, 1] = a, b
        between = exact_key(v[a], v[b], order)
        for u, w in ((a, b), (b, a)):
            if neighbour[u] < 0 or before(between, u, w, key[u], u, neighbour[u]):
                key[u], neighbour[u] = between, w
    count = len(tree)
    for x in range(n):
        u = lowest[x]
        if u == x:
            continue
        among = exact_key(v[u], v[u], order)
        alone = neighbour[u] < 0 or before(among, u, x, key[u], neighbour[u], x)
        found[count, 0], found[count, 1] = x, u if alone else neighbour[u]
        count += 1
    return found


@part
def _hash(row, factors):
    minus_zero = np.iinfo(row.dtype).min
    total = np.int64(0)
    for k in range(len(row)):
        total += _plain(row[k], minus_zero) * factors[k]
    # The lower half depends only on the lower bits of the features, the upper half on all.
    return total >> 32


@part
def _equal(a, b):
    minus_zero = np.iinfo(a.dtype).min
    equal = True
    for k in range(len(a)):
        equal &= _plain(a[k], minus_zero) == _plain(b[k], minus_zero)
    return equal


@numba.njit(inline="always")
def _plain(bits, minus_zero):
    """Replace minus zero by zero, which it equals."""
    return np.int64(0) if bits == minus_zero else np.int64(bits)
