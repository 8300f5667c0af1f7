"""Light pairs of vertices, which a spanning tree does not already connect by lighter edges."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from topoloss_mst.backends.triton_backend.kernels.ordering import code_of
from topoloss_mst.backends.triton_backend.kernels.products import load_chunk, products


@triton.jit
def _levels_apart(labels, p, q, positions, LEVELS: tl.constexpr):
    """On how many levels above level 0 two positions have different labels."""
    level = tl.arange(0, LEVELS)
    place = labels + level * tl.cast(positions, tl.int64)
    apart = tl.load(place + p) != tl.load(place + q)
    return tl.sum((apart & (level > 0)).to(tl.int32), 0)


@triton.jit
def find_light_pairs(
    low, scale, reach, slack, half_square, labels, need, vertex, pairs, tiles, counts,
    n, positions, blocks, capacity, heavy_capacity, most,
    ORDER: tl.constexpr, LEVELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    STRIP: tl.constexpr, CHUNKS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Append the light pairs of a strip of tiles to `pairs`, as ``lower * n + higher``.

    A tile with more than `most` of them goes on the list `tiles` instead, as
    ``row of blocks << 32 | column of blocks``. Where there are more of either than fit, `counts`
    shows it.

    One program keeps a block of rows, and streams the blocks of columns of its strip.
    """
    element = tl.program_id(1).to(tl.int64)
    low += element * positions * (CHUNKS * DEPTH)
    scale += element * positions
    reach += element * positions
    slack += element * positions
    half_square += element * positions
    labels += element * positions * LEVELS
    need += element * positions * LEVELS
    vertex += element * positions
    pairs += element * capacity
    tiles += element * heavy_capacity
    counts += element * 2
    # Programs that run at the same time share a strip, which then stays in the cache; the
    # longest rows come first.
    block = blocks - 1 - tl.program_id(0) % blocks
    strip = tl.program_id(0) // blocks
    top = block * ROWS
    rows = top + tl.arange(0, ROWS)
    left = load_chunk(low, rows, 0, CHUNKS, DEPTH)
    scale_r, reach_r, slack_r = tl.load(scale + rows), tl.load(reach + rows), tl.load(slack + rows)
    last = tl.minimum((block + 1) * (ROWS // COLUMNS), (strip + 1) * STRIP)
    for tile in range(strip * STRIP, last):
        first = tile * COLUMNS
        columns = first + tl.arange(0, COLUMNS)
        dot = products(left, low, rows, columns, ROWS, COLUMNS, CHUNKS, DEPTH)
        if ORDER == "abs_dot_descending":
            dot = tl.abs(dot)
        # An upper bound of the similarity of each pair.
        highest = dot * (scale_r[:, None] * tl.load(scale + columns)[None, :])
        highest += slack_r[:, None] * tl.load(reach + columns)[None, :]
        highest += reach_r[:, None] * tl.load(slack + columns)[None, :]
        if ORDER == "sq_dist_ascending":
            highest -= tl.load(half_square + rows)[:, None]
            highest -= tl.load(half_square + columns)[None, :]
        # On every level the vertices of a component are side by side. So no pair of a tile is on a
        # lower level than the pair in the corner next to the diagonal, nor on a higher one than
        # the pair in the opposite corner.
        bottom = tl.minimum(top + ROWS, n) - 1
        meets = first + COLUMNS > top
        level = _levels_apart(labels, top, first + COLUMNS - 1, positions, LEVELS)
        level = tl.where(meets, 0, level)
        top_level = _levels_apart(labels, bottom, first, positions, LEVELS)
        needed = _needed(
            labels, need, rows, columns, level, top_level, positions, LEVELS, CHUNKS == 1
        )  # fmt: skip
        # Written so that NaN is light as well.
        light = (highest < needed) == 0
        if meets | (top + ROWS > n):
            light = light & (rows[:, None] > columns[None, :]) & (rows < n)[:, None]
        found = tl.sum(tl.sum(light.to(tl.int32), 1), 0)
        if found > most:
            slot = tl.atomic_add(counts + 1, 1, sem="relaxed")
            tl.store(tiles + slot, block.to(tl.int64) << 32 | tile, mask=slot < heavy_capacity)
        elif found > 0:
            # A list that has overflowed is not used, so nothing more is counted then. No branch
            # may depend on that, as the threads of a program may read different counts.
            one = tl.full((ROWS, COLUMNS), 1, tl.int32)
            seen = tl.load(counts + tl.zeros((ROWS, 1), tl.int32), volatile=True)
            light = light & (seen <= capacity)
            slot = tl.atomic_add(counts + tl.zeros_like(one), one, mask=light, sem="relaxed")
            code = code_of(tl.load(vertex + rows)[:, None], tl.load(vertex + columns)[None, :], n)
            tl.store(pairs + slot, code, mask=light & (slot < capacity))


@triton.jit
def _needed(
    labels, need, rows, columns, level, top_level, positions,
    LEVELS: tl.constexpr, UNROLLED: tl.constexpr,
):  # fmt: skip
    """The similarity that each pair needs on its own level, from `level` to `top_level`."""
    stride = tl.cast(positions, tl.int64)
    needed = _needed_on(need + level * stride, rows, columns)
    if UNROLLED:
        # The loop of the caller is pipelined only if it contains no other loop.
        for above in tl.static_range(1, LEVELS):
            if (above > level) & (above <= top_level):
                needed = _climb(labels, need, rows, columns, above * stride, needed)
    else:
        for above in range(level + 1, top_level + 1):
            needed = _climb(labels, need, rows, columns, above * stride, needed)
    return needed


@triton.jit
def _climb(labels, need, rows, columns, place, needed):
    labels += place
    apart = tl.load(labels + rows)[:, None] != tl.load(labels + columns)[None, :]
    return tl.where(apart, _needed_on(need + place, rows, columns), needed)


@triton.jit
def _needed_on(need, rows, columns):
    return tl.minimum(tl.load(need + rows)[:, None], tl.load(need + columns)[None, :])
