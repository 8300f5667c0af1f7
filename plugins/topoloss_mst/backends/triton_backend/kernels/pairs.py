"""Boruvka's algorithm on listed pairs, by keys in float64."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from topoloss_mst.backends.triton_backend.kernels.components import is_idle
from topoloss_mst.backends.triton_backend.kernels.ordering import NO_KEY, ascending, lower


@triton.jit
def exact_key(sums, ORDER: tl.constexpr, DROP_ZEROS: tl.constexpr):
    """Key of a dot product or squared distance; NO_KEY if it is zero and zeros are dropped."""
    if ORDER == "abs_dot_descending":
        value = -tl.abs(sums)
    elif ORDER == "dot_descending":
        value = -sums
    else:
        value = sums
    key = ascending(value)
    if DROP_ZEROS:
        key = tl.where(value == 0, NO_KEY, key)
    return key


@triton.jit
def listed(counts, capacity, heavy_capacity):
    """How many pairs are listed: none where a list has overflowed, as all tiles are heavy then."""
    count = tl.load(counts)
    overflowed = (count > capacity) | (tl.load(counts + 1) > heavy_capacity)
    return tl.where(overflowed, 0, count)


@triton.jit
def fill_keys(
    v, pairs, keys, counts, n, d, capacity, heavy_capacity,
    ORDER: tl.constexpr, DROP_ZEROS: tl.constexpr, BLOCK: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """``keys[e]`` = the key of the pair ``pairs[e]``."""
    element = tl.program_id(1).to(tl.int64)
    v += element * n * d
    count = listed(counts + element * 2, capacity, heavy_capacity)
    for first in range(tl.program_id(0) * BLOCK, count, tl.num_programs(0) * BLOCK):
        e = first + tl.arange(0, BLOCK)
        code = tl.load(pairs + element * capacity + e, mask=e < count, other=0)
        i, j = code // n, code % n
        sums = tl.zeros((BLOCK,), tl.float64)
        for start in range(0, d, DEPTH):
            k = start + tl.arange(0, DEPTH)[None, :]
            a = tl.load(v + i[:, None] * d + k, mask=k < d, other=0.0).to(tl.float64)
            b = tl.load(v + j[:, None] * d + k, mask=k < d, other=0.0).to(tl.float64)
            if ORDER == "sq_dist_ascending":
                difference = a - b
                sums += tl.sum(difference * difference, 1)
            else:
                sums += tl.sum(a * b, 1)
        key = exact_key(sums, ORDER, DROP_ZEROS)
        tl.store(keys + element * capacity + e, key, mask=e < count)


@triton.jit(do_not_specialize=["round"])
def offer_pairs(
    pairs, keys, counts, component, lightest_key, lightest_edge, joined, round, rounds, n,
    capacity, heavy_capacity, EDGES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Offer each pair's key, or if EDGES its edge, to both components that it joins."""
    element = tl.program_id(1).to(tl.int64)
    if is_idle(joined + element * (rounds + 1), round, n):
        return
    component += element * n
    lightest_key += element * n
    lightest_edge += element * n
    count = listed(counts + element * 2, capacity, heavy_capacity)
    for first in range(tl.program_id(0) * BLOCK, count, tl.num_programs(0) * BLOCK):
        e = first + tl.arange(0, BLOCK)
        code = tl.load(pairs + element * capacity + e, mask=e < count, other=0)
        key = tl.load(keys + element * capacity + e, mask=e < count, other=NO_KEY)
        i, j = tl.load(component + code // n), tl.load(component + code % n)
        leaves = (i != j) & (key != NO_KEY)
        if EDGES:
            lower(lightest_edge + i, code, leaves & (key == tl.load(lightest_key + i)))
            lower(lightest_edge + j, code, leaves & (key == tl.load(lightest_key + j)))
        else:
            lower(lightest_key + i, key, leaves)
            lower(lightest_key + j, key, leaves)
