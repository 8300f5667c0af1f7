"""Boruvka's algorithm on the float32 values of all pairs.

Here a key of 32 bits and a vertex fit the 64 bits that an atomic minimum works on:
``lightest[u]`` is the least ``key << 32 | w`` of the pairs of u and vertices w of other components.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from topoloss_mst.backends.triton_backend.kernels.components import climb, forget, hook, is_idle
from topoloss_mst.backends.triton_backend.kernels.ordering import (
    ascending,
    code_of,
    lower,
)
from topoloss_mst.backends.triton_backend.kernels.triangle import place_of

_NO_PAIR = tl.constexpr(2**63 - 1)
_NO_VALUE = tl.constexpr(2**31 - 1)


@triton.jit
def _products(v, d, rows, columns, SIDE: tl.constexpr, DEPTH: tl.constexpr):
    """``sum_k v[row, k] * v[column, k]`` in float32, without rounding the factors."""
    dot = tl.zeros((SIDE, SIDE), tl.float32)
    for start in range(0, d, DEPTH):
        k = start + tl.arange(0, DEPTH)[None, :]
        left = tl.load(v + rows[:, None] * d + k, mask=k < d, other=0.0)
        right = tl.load(v + columns[:, None] * d + k, mask=k < d, other=0.0)
        dot = tl.dot(left, tl.trans(right), dot, input_precision="ieee")
    return dot


@triton.jit
def fill_values(
    v, half_squares, values, n, d,
    ORDER: tl.constexpr, SIDE: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """``values[p, i, j]`` for ``i > j``: ``-|a.b|``, ``-a.b``, or ``(a.a + b.b) / 2 - a.b``.

    One program multiplies one tile of the lower triangle.
    """
    element = tl.program_id(1).to(tl.int64)
    row, column = place_of(tl.program_id(0), tl.cdiv(n, SIDE))
    rows = row.to(tl.int64) * SIDE + tl.arange(0, SIDE)
    columns = column.to(tl.int64) * SIDE + tl.arange(0, SIDE)
    below = (rows[:, None] > columns[None, :]) & (rows < n)[:, None]
    place = (element * n + rows[:, None]) * n + columns[None, :]
    # Rows and columns from n on load the last vertex; their values are not stored.
    rows = tl.minimum(rows, n - 1)
    columns = tl.minimum(columns, n - 1)
    dot = _products(v + element * n * d, d, rows, columns, SIDE, DEPTH)
    if ORDER == "abs_dot_descending":
        tile = -tl.abs(dot)
    elif ORDER == "dot_descending":
        tile = -dot
    else:
        half_squares += element * n
        of_rows, of_columns = tl.load(half_squares + rows), tl.load(half_squares + columns)
        tile = (of_rows[:, None] + of_columns[None, :]) - dot
    tl.store(values + place, tile, mask=below)


@triton.jit
def start_pairs(lightest, n, BLOCK: tl.constexpr):
    u = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(lightest + tl.program_id(1).to(tl.int64) * n + u, _NO_PAIR, mask=u < n)


@triton.jit(do_not_specialize=["round"])
def offer_values(
    values, stride_element, stride_row, stride_column, component, lightest, joined, round, rounds,
    n, SIDE: tl.constexpr,
):  # fmt: skip
    """``lightest[u] = min over w, component[w] != component[u], of (values[u, w], w)``.

    Only the lower triangle is read, without the diagonal. Programs share its tiles.
    """
    element = tl.program_id(1).to(tl.int64)
    if is_idle(joined + element * (rounds + 1), round, n):
        return
    component += element * n
    lightest += element * n
    values += element * stride_element
    blocks = tl.cdiv(n, SIDE)
    for tile in range(tl.program_id(0), blocks * (blocks + 1) // 2, tl.num_programs(0)):
        row, column = place_of(tile, blocks)
        rows = row.to(tl.int64) * SIDE + tl.arange(0, SIDE)
        columns = column.to(tl.int64) * SIDE + tl.arange(0, SIDE)
        of_rows = tl.load(component + tl.minimum(rows, n - 1))
        of_columns = tl.load(component + tl.minimum(columns, n - 1))
        least = tl.minimum(tl.min(of_rows, 0), tl.min(of_columns, 0))
        if least != tl.maximum(tl.max(of_rows, 0), tl.max(of_columns, 0)):
            leaving = of_rows[:, None] != of_columns[None, :]
            leaving &= (rows[:, None] > columns[None, :]) & (rows < n)[:, None]
            place = rows[:, None] * stride_row + columns[None, :] * stride_column
            key = ascending(tl.load(values + place, mask=leaving, other=0.0).to(tl.float32))
            key = tl.where(leaving, key, _NO_VALUE)
            # Both ends read the same value: computed twice, it might round differently, and
            # components that choose by it could close a cycle.
            _offer(lightest, rows, key, columns[None, :], 1)
            _offer(lightest, columns, key, rows[:, None], 0)


@triton.jit
def _offer(lightest, vertices, key, other, AXIS: tl.constexpr):
    """Lower each vertex's lightest pair to ``(min key, lowest other end of that key)``."""
    least = tl.min(key, AXIS)
    other = tl.where(key == tl.expand_dims(least, AXIS), other.to(tl.int32), _NO_VALUE)
    pair = (least.to(tl.int64) << 32) | tl.min(other, AXIS).to(tl.int64)
    lower(lightest + vertices, pair, least != _NO_VALUE)


@triton.jit(do_not_specialize=["round"])
def merge_components(
    component, lightest, lightest_key, lightest_edge, parent, tree, joined, round, rounds, n,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Everything in a round but the offers, by one program for each element.

    Barriers instead of launches separate its steps.
    """
    element = tl.program_id(0).to(tl.int64)
    joined += element * (rounds + 1)
    found = tl.load(joined + round)
    if is_idle(joined, round, n):
        tl.store(joined + round + 1, found)
        return
    component += element * n
    lightest += element * n
    lightest_key += element * n
    lightest_edge += element * n
    parent += element * n
    tree += element * n
    for start in range(0, n, BLOCK):
        u = start + tl.arange(0, BLOCK)
        pair, c = _pair_of(lightest, component, u, n)
        lower(lightest_key + c, pair >> 32, pair != _NO_PAIR)
    tl.debug_barrier()
    for start in range(0, n, BLOCK):
        u = start + tl.arange(0, BLOCK)
        pair, c = _pair_of(lightest, component, u, n)
        # Bypass the L1 cache, which may hold the number from before the atomic minimum.
        least = tl.load(lightest_key + c, cache_modifier=".cg")
        chosen = (pair != _NO_PAIR) & (pair >> 32 == least)
        lower(lightest_edge + c, code_of(u, (pair & 0xFFFFFFFF).to(tl.int32), n), chosen)
    tl.debug_barrier()
    for start in range(0, n, BLOCK):
        u = start + tl.arange(0, BLOCK)
        found += hook(component, lightest_edge, parent, tree, u, u < n, n)
    tl.store(joined + round + 1, found)
    tl.debug_barrier()
    for start in range(0, n, BLOCK):
        u = start + tl.arange(0, BLOCK)
        climb(component, parent, u, u < n)
        forget(lightest_key, lightest_edge, u, u < n)
        tl.store(lightest + u, _NO_PAIR, mask=u < n)


@triton.jit
def _pair_of(lightest, component, u, n):
    pair = tl.load(lightest + u, mask=u < n, other=_NO_PAIR)
    return pair, tl.load(component + u, mask=u < n, other=0)
