"""Kernels of Boruvka's algorithm on the complete graph of each element of a batch.

Edges are compared by (key, lower index, higher index). Keys are int32 numbers in the order of
the float32 values they stand for, so a key and a vertex fit the 64 bits that an atomic minimum
works on. Arrays of vertices are (batch, n), and offsets into any array are int64.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

# Above all keys, as NaN is mapped elsewhere, and above all pairs of a key and a vertex.
NO_KEY = tl.constexpr(2**31 - 1)
NO_EDGE = tl.constexpr(2**63 - 1)


@triton.jit
def _ascending(value):
    """Map float32 to int32 of the same order: -0.0 and 0.0 to one key, NaN to the lowest.

    ``bits`` if the sign bit is clear, ``bits ^ 0x7fffffff`` if it is set. NaN sorts
    before every number, so a tree contains any NaN there is and the loss becomes NaN.
    """
    bits = value.to(tl.int32, bitcast=True)
    key = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    key = tl.where(value == 0, 0, key)
    return tl.where(value != value, -(2**31), key).to(tl.int32)


@triton.jit
def _tile(n, SIDE: tl.constexpr):
    """Problem, row vertices and column vertices of this program's tile of the lower triangle.

    With R blocks of vertices, rows a and R - 1 - a of the triangle are R + 1 tiles together, so
    that the triangle folds to a rectangle of that width, in which a program finds its tile by
    integer division.
    """
    blocks = tl.cdiv(n, SIDE)
    tiles = (blocks * (blocks + 1).to(tl.int64) // 2).to(tl.int32)
    element = tl.program_id(0) // tiles
    place = tl.program_id(0) % tiles
    upper = place // (blocks + 1)
    across = place % (blocks + 1)
    longer = across < blocks - upper
    row = tl.where(longer, blocks - 1 - upper, upper)
    column = tl.where(longer, across, across - (blocks - upper))
    side = tl.arange(0, SIDE)
    return (
        element.to(tl.int64),
        row.to(tl.int64) * SIDE + side,
        column.to(tl.int64) * SIDE + side,
    )


@triton.jit
def _products(v, d, rows, columns, SIDE: tl.constexpr, DEPTH: tl.constexpr):
    """``sum_k v[row, k] * v[column, k]`` in float32, unrounded factors."""
    dot = tl.zeros((SIDE, SIDE), tl.float32)
    for start in range(0, d, DEPTH):
        k = start + tl.arange(0, DEPTH)[None, :]
        left = tl.load(v + rows[:, None] * d + k, mask=k < d, other=0.0)
        right = tl.load(v + columns[:, None] * d + k, mask=k < d, other=0.0)
        dot = tl.dot(left, tl.trans(right), dot, input_precision="ieee")
    return dot


@triton.jit
def _values(
    v, half_squares, element, rows, columns, n, d,
    ORDER: tl.constexpr, SIDE: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Ascending values of a tile: ``-|a.b|``, ``-a.b``, or ``(a.a + b.b) / 2 - a.b``."""
    # Vertices beyond the last stand for the last one; no pair of theirs is looked at.
    rows = tl.minimum(rows, n - 1)
    columns = tl.minimum(columns, n - 1)
    dot = _products(v + element * n * d, d, rows, columns, SIDE, DEPTH)
    if ORDER == "abs_dot_descending":
        values = -tl.abs(dot)
    elif ORDER == "dot_descending":
        values = -dot
    else:
        half_squares += element * n
        of_rows, of_columns = tl.load(half_squares + rows), tl.load(half_squares + columns)
        values = (of_rows[:, None] + of_columns[None, :]) - dot
    return values


@triton.jit
def _lower(target, value, mask):
    """Atomic minimum where `mask`, skipped where a plain read shows that it changes nothing."""
    # What is read may be out of date, but then it is higher than what stands there by now.
    seen = tl.load(target, mask=mask, other=0)
    tl.atomic_min(target, value, mask=mask & (value < seen), sem="relaxed")


@triton.jit
def _offer(lightest, vertices, key, other, valid, AXIS: tl.constexpr):
    """Lower each vertex's lightest edge to ``(min key, lowest other end of that key)``."""
    key = tl.where(valid, key, NO_KEY)
    least = tl.min(key, AXIS)
    other = tl.where(key == tl.expand_dims(least, AXIS), other.to(tl.int32), NO_KEY)
    edge = (least.to(tl.int64) << 32) | tl.min(other, AXIS).to(tl.int64)
    _lower(lightest + vertices, edge, least != NO_KEY)


@triton.jit
def _offer_both_ways(lightest, rows, columns, leaving, values):
    # The value of a pair is looked at from both ends: computed twice it might round in two
    # ways, and components that choose by it could close a cycle.
    key = _ascending(values)
    _offer(lightest, rows, key, columns[None, :], leaving, AXIS=1)
    _offer(lightest, columns, key, rows[:, None], leaving, AXIS=0)


@triton.jit
def _is_done(joined, element, n):
    return tl.load(joined + element) == n - 1


@triton.jit
def _leaving(component, rows, columns, n):
    """Which pairs of a tile join two components, each pair once."""
    of_rows = tl.load(component + tl.minimum(rows, n - 1))
    of_columns = tl.load(component + tl.minimum(columns, n - 1))
    apart = of_rows[:, None] != of_columns[None, :]
    return apart & (rows[:, None] > columns[None, :]) & (rows < n)[:, None]


@triton.jit
def _is_within(component, rows, columns, n):
    """Whether a tile lies in one component."""
    of_rows = tl.load(component + tl.minimum(rows, n - 1))
    of_columns = tl.load(component + tl.minimum(columns, n - 1))
    least = tl.minimum(tl.min(of_rows, 0), tl.min(of_columns, 0))
    return least == tl.maximum(tl.max(of_rows, 0), tl.max(of_columns, 0))


@triton.jit
def offer_features(
    v, half_squares, component, lightest, joined, n, d,
    ORDER: tl.constexpr, SIDE: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """``lightest[u] = min over w, component[w] != component[u], of (key(v_u, v_w), w)``.

    One program multiplies one tile of the lower triangle, and offers each of its pairs to
    both ends.
    """
    element, rows, columns = _tile(n, SIDE)
    if _is_done(joined, element, n):
        return
    component += element * n
    if _is_within(component, rows, columns, n):
        return
    values = _values(v, half_squares, element, rows, columns, n, d, ORDER, SIDE, DEPTH)
    leaving = _leaving(component, rows, columns, n)
    _offer_both_ways(lightest + element * n, rows, columns, leaving, values)


@triton.jit
def offer_matrix(
    values, stride_element, stride_row, stride_column, component, lightest, joined, n,
    SIDE: tl.constexpr,
):  # fmt: skip
    """``lightest[u] = min over w, component[w] != component[u], of (values[u, w], w)``.

    Only the lower triangle is read, without the diagonal.
    """
    element, rows, columns = _tile(n, SIDE)
    if _is_done(joined, element, n):
        return
    component += element * n
    if _is_within(component, rows, columns, n):
        return
    leaving = _leaving(component, rows, columns, n)
    place = rows[:, None] * stride_row + columns[None, :] * stride_column
    tile = tl.load(values + element * stride_element + place, mask=leaving, other=0.0)
    _offer_both_ways(lightest + element * n, rows, columns, leaving, tile.to(tl.float32))


@triton.jit
def fill_values(
    v, half_squares, values, n, d,
    ORDER: tl.constexpr, SIDE: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """``values[p, i, j]``, ascending in ORDER of the features i and j, for ``i > j``."""
    element, rows, columns = _tile(n, SIDE)
    tile = _values(v, half_squares, element, rows, columns, n, d, ORDER, SIDE, DEPTH)
    below = (rows[:, None] > columns[None, :]) & (rows < n)[:, None]
    place = (element * n + rows[:, None]) * n + columns[None, :]
    tl.store(values + place, tile, mask=below)


@triton.jit
def _vertices(n, BLOCK: tl.constexpr):
    """Of this program: where its element begins, its vertices, and which of them exist."""
    blocks = tl.cdiv(n, BLOCK)
    element = (tl.program_id(0) // blocks).to(tl.int64)
    u = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    return element, element * n, u, u < n


@triton.jit
def _forget(lightest, lightest_key, lightest_edge, u, exists):
    tl.store(lightest + u, NO_EDGE, mask=exists)
    tl.store(lightest_key + u, NO_KEY, mask=exists)
    tl.store(lightest_edge + u, NO_EDGE, mask=exists)


@triton.jit
def start(component, lightest, lightest_key, lightest_edge, joined, n, BLOCK: tl.constexpr):
    """``component[u] = u``, and no edges yet."""
    element, first, u, exists = _vertices(n, BLOCK)
    tl.store(component + first + u, u, mask=exists)
    _forget(lightest + first, lightest_key + first, lightest_edge + first, u, exists)
    tl.store(joined + element, 0)


@triton.jit
def component_keys(component, lightest, lightest_key, n, BLOCK: tl.constexpr):
    """``lightest_key[c] = min over u in c of the key of lightest[u]``."""
    _, first, u, exists = _vertices(n, BLOCK)
    edge = tl.load(lightest + first + u, mask=exists, other=NO_EDGE)
    c = tl.load(component + first + u, mask=exists, other=0)
    _lower(lightest_key + first + c, (edge >> 32).to(tl.int32), edge != NO_EDGE)


@triton.jit
def component_edges(component, lightest, lightest_key, lightest_edge, n, BLOCK: tl.constexpr):
    """``lightest_edge[c] = min over u in c of lower * n + higher``, among the lightest keys."""
    _, first, u, exists = _vertices(n, BLOCK)
    edge = tl.load(lightest + first + u, mask=exists, other=NO_EDGE)
    c = tl.load(component + first + u, mask=exists, other=0)
    key = tl.load(lightest_key + first + c)
    other = (edge & 0xFFFFFFFF).to(tl.int32)
    code = tl.minimum(u, other).to(tl.int64) * n + tl.maximum(u, other)
    chosen = (edge != NO_EDGE) & ((edge >> 32).to(tl.int32) == key)
    _lower(lightest_edge + first + c, code, chosen)


@triton.jit
def hook(component, lightest_edge, parent, tree, joined, n, BLOCK: tl.constexpr):
    """``parent[c]`` = the component at the other end of c's edge, and ``tree[c]`` = that edge.

    Of two components that chose one edge the lower stays a root. The order of edges is total,
    so no longer cycle closes. A component that hooks is never a root again: each edge of the
    tree has the place of its own in `tree`, and one place stays empty.
    """
    element, first, u, exists = _vertices(n, BLOCK)
    component += first
    lightest_edge += first
    own = tl.load(component + u, mask=exists, other=-1)
    code = tl.load(lightest_edge + u, mask=own == u, other=NO_EDGE)
    leaves = code != NO_EDGE
    # The sum of both ends' components, less the one, is the other.
    ends = tl.load(component + code // n, mask=leaves, other=0)
    ends += tl.load(component + code % n, mask=leaves, other=0)
    other = tl.where(leaves, ends - u, 0)
    mutual = tl.load(lightest_edge + other) == code
    hooks = leaves & ((other < u) | (mutual == 0))
    tl.store(parent + first + u, tl.where(hooks, other, own), mask=exists)
    tl.store(tree + first + u, code, mask=hooks)
    tl.atomic_add(joined + element, tl.sum(hooks.to(tl.int32), 0), sem="relaxed")


@triton.jit
def relabel(
    component, parent, lightest, lightest_key, lightest_edge, n, BLOCK: tl.constexpr
):  # fmt: skip
    """``component[u]`` = the root above u, by pointer jumping; forget the round's edges.

    Parents are replaced by grandparents on the way up. Others may read either, which are both
    above.
    """
    _, first, u, exists = _vertices(n, BLOCK)
    parent += first
    above = tl.load(parent + u, mask=exists, other=0)
    beyond = tl.load(parent + above)
    while tl.max((above != beyond).to(tl.int32), 0) > 0:
        tl.store(parent + u, beyond, mask=exists)
        above = beyond
        beyond = tl.load(parent + above)
    tl.store(component + first + u, above, mask=exists)
    _forget(lightest + first, lightest_key + first, lightest_edge + first, u, exists)


@triton.jit
def collect(component, tree, edges, n, BLOCK: tl.constexpr):
    """``edges[slot] = (code // n, code % n)`` for each code of the tree, in n - 1 slots."""
    element, first, u, exists = _vertices(n, BLOCK)
    # The last root is the vertex without an edge.
    root = tl.load(component + first)
    hooked = exists & (u != root)
    code = tl.load(tree + first + u, mask=hooked, other=0)
    edges += (element * (n - 1) + u - (u > root).to(tl.int32)) * 2
    tl.store(edges, code // n, mask=hooked)
    tl.store(edges + 1, code % n, mask=hooked)
