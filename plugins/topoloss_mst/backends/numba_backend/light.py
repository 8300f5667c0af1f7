"""Which pairs of vertices a spanning tree does not already connect by lighter edges."""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from topoloss_mst.backends.numba_backend.compiled import compiled
from topoloss_mst.backends.numba_backend.linkage import CHUNK
from topoloss_mst.backends.numba_backend.ordered import ordered

Integers = npt.NDArray[np.signedinteger]


class Stack(NamedTuple):
    """Tiles side by side: bits (tiles, side, side) of rows from `top` and columns from `left`."""

    top: int
    left: int
    tiles: Integers


@compiled
def light_pairs(stack, first, live, heaviest, linkage, lower_bound, signed, found):
    """Collect the light pairs in rows of a stack, from the row `first` on.

    ``heaviest[p]`` is the rank of the heaviest edge of the tree's path on the way left so far.

    Returns how many rows (p, q, similarity) of `found` were filled, and the row to go on from
    when there was no space for another one.
    """
    top, left, tiles = stack
    side = tiles.shape[1]
    count = 0
    for r in range(first, min(side, len(live) - top)):
        p = top + r
        if count + p - left > len(found):
            return count, r
        for t in range(len(tiles) - 1, -1, -1):
            heaviest[p], count = light_in_row(
                tiles[t, r], left + t * side, p, live, heaviest[p], linkage, lower_bound, signed,
                found, count,
            )  # fmt: skip
    return count, side


@compiled
def light_in_row(row, left, p, live, rank, linkage, lower_bound, signed, found, count):
    """Append the pairs (p, q) that may come before the heaviest edge of the tree's path.

    `row` holds the similarities of position p with the positions q from `left` on, and only
    q < p are looked at, from right to left. `rank` is that of the heaviest edge so far. A chunk
    of columns is dropped at once when none of it reaches what the rank at its far end asks for.

    Returns the rank, and how many rows of `found` are filled.
    """
    if not live[p]:
        return rank, count
    gap, chunk_gap = linkage
    highest = np.iinfo(row.dtype).max
    end = min(p - left, len(row))
    while end > 0:
        start = (end - 1) // CHUNK * CHUNK
        if end - start == CHUNK:
            rank_at_start = max(rank, chunk_gap[(left + start) // CHUNK])
            if not _reaches(row, start, lower_bound[rank_at_start], signed):
                rank, end = rank_at_start, start
                continue
        for k in range(end - 1, start - 1, -1):
            rank = max(rank, gap[left + k])
            similarity = ordered(row[k], highest, signed)
            if similarity >= lower_bound[rank] and live[left + k]:
                found[count, 0], found[count, 1], found[count, 2] = p, left + k, similarity
                count += 1
        end = start
    return rank, count


@numba.njit(inline="always")
def _reaches(row, start, bound, signed):
    highest = np.iinfo(row.dtype).max
    reached = False
    if signed:
        for k in range(start, start + CHUNK):
            reached |= ordered(row[k], highest, True) >= bound
    else:
        for k in range(start, start + CHUNK):
            reached |= ordered(row[k], highest, False) >= bound
    return reached


@compiled
def most_similar(stack, signed, columns, similarity, nearest):
    """Keep for each row the column of the highest similarity so far."""
    top, left, tiles = stack
    side = tiles.shape[1]
    highest = np.iinfo(tiles.dtype).max
    for r in range(min(side, len(nearest) - top)):
        p = top + r
        for t in range(len(tiles)):
            row = tiles[t, r]
            offset = left + t * side
            for start in range(0, min(side, columns - offset), CHUNK):
                stop = min(start + CHUNK, columns - offset)
                best = similarity[p]
                for k in range(start, stop):
                    best = max(best, ordered(row[k], highest, signed))
                if best > similarity[p]:
                    k = start
                    while ordered(row[k], highest, signed) != best:
                        k += 1
                    similarity[p], nearest[p] = best, offset + k


@compiled
def still_light(pairs, similarity, vertex, running_gap, lower_bound):
    """Mark the pairs that reach what the heaviest edge between them in a tree asks for."""
    position = np.empty_like(vertex)
    position[vertex] = np.arange(len(vertex))
    light = np.empty(len(pairs), np.bool_)
    for e in range(len(pairs)):
        p, q = position[pairs[e, 0]], position[pairs[e, 1]]
        p, q = min(p, q), max(p, q)
        k = 0
        while 2 << k <= q - p:
            k += 1
        rank = max(running_gap[k, p], running_gap[k, q - (1 << k)])
        light[e] = similarity[e] >= lower_bound[rank]
    return light
