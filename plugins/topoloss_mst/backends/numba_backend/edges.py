"""Edges in the order (key, lower index, higher index): exact keys, spanning trees."""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from topoloss_plugins.compiling import compiled, part, part_that_sums

ABS_DOT, DOT, SQ_DIST = range(3)
ORDERS = {"abs_dot_descending": ABS_DOT, "dot_descending": DOT, "sq_dist_ascending": SQ_DIST}


@part_that_sums
def exact_key(a, b, order):
    """Ascending key of the edge between two vertices, in float64."""
    total = 0.0
    if order == SQ_DIST:
        for k in range(len(a)):
            difference = np.float64(a[k]) - np.float64(b[k])
            total += difference * difference
        return total
    for k in range(len(a)):
        total += np.float64(a[k]) * np.float64(b[k])
    return -abs(total) if order == ABS_DOT else -total


@compiled
def exact_keys(v, edges, order):
    keys = np.empty(len(edges))
    for e in range(len(edges)):
        keys[e] = exact_key(v[edges[e, 0]], v[edges[e, 1]], order)
    return keys


def norms(v: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Norms of vertices (batch, n, d), rounded up."""
    batch, n, d = v.shape
    each = np.arange(batch * n)
    squares = -exact_keys(v.reshape(-1, d), np.stack((each, each), 1), DOT)
    found: npt.NDArray[np.float64] = np.sqrt(squares) * (1 + (d + 4) * 2.0**-52)
    return found.reshape(batch, n)


@compiled
def minimum_forest(n, edges, keys):
    """Boruvka's algorithm: mark the edges that make up the minimum spanning forest."""
    component = np.arange(n)
    lightest = np.empty(n, np.int64)
    chosen = np.zeros(len(edges), np.bool_)
    leaving = np.arange(len(edges))
    while len(leaving):
        lightest.fill(-1)
        for e in leaving:
            for end in range(2):
                c = component[edges[e, end]]
                f = lightest[c]
                if f < 0 or before(
                    keys[e], edges[e, 0], edges[e, 1], keys[f], edges[f, 0], edges[f, 1]
                ):
                    lightest[c] = e
        for e in lightest:
            if e >= 0:
                # Two components may choose the same edge; a total order rules out longer cycles.
                chosen[e] = True
                join(component, edges[e, 0], edges[e, 1])
        for u in range(n):
            component[u] = component[component[u]]
        kept = 0
        for e in leaving:
            if component[edges[e, 0]] != component[edges[e, 1]]:
                leaving[kept] = e
                kept += 1
        leaving = leaving[:kept]
    return chosen


@compiled
def closed_at_zero(n, edges, keys):
    """Turn a minimum forest for |a.b| into the minimum tree, using only its negative keys.

    Components that no negative-key edge joins have dot product 0 with each other, so every edge
    between them has key 0. The first of these edges lead from vertex 0 to the lowest vertex of
    each other component.
    """
    component = np.arange(n)
    tree = np.empty((n - 1, 2), np.int64)
    count = 0
    for e in range(len(edges)):
        if keys[e] < 0:
            join(component, edges[e, 0], edges[e, 1])
            tree[count, 0], tree[count, 1] = edges[e, 0], edges[e, 1]
            count += 1
    for u in range(1, n):
        if component[u] == u:
            tree[count, 0], tree[count, 1] = 0, u
            count += 1
    return tree


@part
def before(key, i, j, other, k, m):
    """Whether the edge (i, j) of key `key` comes before the edge (k, m) of key `other`."""
    if key != other:
        return key < other
    n = max(max(i, j), max(k, m)) + 1
    return code_of(i, j, n) < code_of(k, m, n)


@part
def code_of(i, j, n):
    return min(i, j) * n + max(i, j)


@part
def join(component, i, j):
    """Join the components of i and j; each is represented by its lowest vertex."""
    a, b = _root(component, i), _root(component, j)
    a, b = min(a, b), max(a, b)
    component[b] = a
    return a, b


@part
def _root(component, u):
    while component[u] != u:
        component[u] = component[component[u]]
        u = component[u]
    return u
