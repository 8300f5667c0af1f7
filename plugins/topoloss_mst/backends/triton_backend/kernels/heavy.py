"""Boruvka's algorithm on all pairs of some tiles, by keys in float64 that are never stored."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from topoloss_mst.backends.triton_backend.kernels.components import is_idle
from topoloss_mst.backends.triton_backend.kernels.ordering import NO_EDGE, NO_KEY, code_of, lower
from topoloss_mst.backends.triton_backend.kernels.pairs import exact_key
from topoloss_mst.backends.triton_backend.kernels.triangle import place_of


@triton.jit(do_not_specialize=["round"])
def offer_tiles(
    v, vertex, tiles, counts, component, lightest_key, lightest_edge, joined, round, rounds,
    n, d, positions, capacity, heavy_capacity,
    ORDER: tl.constexpr, DROP_ZEROS: tl.constexpr, EDGES: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, SIDE: tl.constexpr,
):  # fmt: skip
    """Offer the least key of each vertex to its component, or if EDGES the first such edge.

    The tiles are those of the list, or all of them where a list has overflowed. A program takes
    squares of them. The keys are computed again in each round.
    """
    element = tl.program_id(1).to(tl.int64)
    if is_idle(joined + element * (rounds + 1), round, n):
        return
    v += element * n * d
    vertex += element * positions
    tiles += element * heavy_capacity
    counts += element * 2
    component += element * n
    lightest_key += element * n
    lightest_edge += element * n
    down: tl.constexpr = ROWS // SIDE
    across: tl.constexpr = COLUMNS // SIDE
    heavy = tl.load(counts + 1)
    all_heavy = (tl.load(counts) > capacity) | (heavy > heavy_capacity)
    blocks = tl.cast(positions // SIDE, tl.int64)
    squares = tl.where(all_heavy, blocks * (blocks + 1) // 2, heavy * (down * across))
    for square in range(tl.program_id(0), squares, tl.num_programs(0)):
        if all_heavy:
            row, column = place_of(square, blocks)
        else:
            tile = tl.load(tiles + square // (down * across))
            part = square % (down * across)
            row = (tile >> 32) * down + part // across
            column = (tile & 0xFFFFFFFF) * across + part % across
        _offer_square(
            v, vertex, component, lightest_key, lightest_edge, row, column, n, d,
            ORDER, DROP_ZEROS, EDGES, SIDE,
        )  # fmt: skip


@triton.jit
def _offer_square(
    v, vertex, component, lightest_key, lightest_edge, row, column, n, d,
    ORDER: tl.constexpr, DROP_ZEROS: tl.constexpr, EDGES: tl.constexpr, SIDE: tl.constexpr,
):  # fmt: skip
    p = row * SIDE + tl.arange(0, SIDE)
    q = column * SIDE + tl.arange(0, SIDE)
    i, j = tl.load(vertex + p), tl.load(vertex + q)
    exists = (p < n)[:, None] & (p[:, None] > q[None, :])
    of_rows, of_columns = tl.load(component + i), tl.load(component + j)
    leaves = exists & (of_rows[:, None] != of_columns[None, :])
    if tl.max(tl.max(leaves.to(tl.int32), 1), 0) > 0:
        key = exact_key(_exact_sums(v, i, j, d, ORDER, SIDE), ORDER, DROP_ZEROS)
        key = tl.where(leaves, key, NO_KEY)
        if EDGES:
            code = code_of(i[:, None], j[None, :], n)
            _offer_edges(lightest_key, lightest_edge, of_rows, key, code, 1)
            _offer_edges(lightest_key, lightest_edge, of_columns, key, code, 0)
        else:
            _offer_keys(lightest_key, of_rows, key, 1)
            _offer_keys(lightest_key, of_columns, key, 0)


@triton.jit
def _exact_sums(v, i, j, d, ORDER: tl.constexpr, SIDE: tl.constexpr):
    sums = tl.zeros((SIDE, SIDE), tl.float64)
    for k in range(d):
        a = tl.load(v + i.to(tl.int64) * d + k).to(tl.float64)[:, None]
        b = tl.load(v + j.to(tl.int64) * d + k).to(tl.float64)[None, :]
        if ORDER == "sq_dist_ascending":
            difference = a - b
            sums += difference * difference
        else:
            sums += a * b
    return sums


@triton.jit
def _offer_keys(lightest_key, c, key, AXIS: tl.constexpr):
    least = tl.min(key, AXIS)
    lower(lightest_key + c, least, least != NO_KEY)


@triton.jit
def _offer_edges(lightest_key, lightest_edge, c, key, code, AXIS: tl.constexpr):
    chosen = (key == tl.expand_dims(tl.load(lightest_key + c), AXIS)) & (key != NO_KEY)
    first = tl.min(tl.where(chosen, code, NO_EDGE), AXIS)
    lower(lightest_edge + c, first, first != NO_EDGE)
