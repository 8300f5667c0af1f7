"""Light pairs of vertices, which a spanning tree does not already connect by lighter edges."""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from topoloss_plugins.compiling import compiled, part

from topoloss_mst.backends.numba_backend.edges import ABS_DOT, SQ_DIST
from topoloss_mst.backends.numba_backend.linkage import CHUNK
from topoloss_mst.backends.numba_backend.ordered import lowest_integer, ordered

Integers = npt.NDArray[np.signedinteger]


class Stack(NamedTuple):
    """Tiles side by side: bits (tiles, side, side) of rows from `top` and columns from `left`."""

    top: int
    left: int
    tiles: Integers


class Bounds(NamedTuple):
    """How similar a pair must be to come before the heaviest edge of its path in a tree.

    Attributes
    ----------
    gap, chunk_gap : ndarrays of int64, shape (n,) and (chunks,)
        As from `linkage`, and the highest of each chunk of positions.
    similarity : ndarray of float64, shape (n - 1,)
        Of the tree's edges, from the lightest to the heaviest.
    size, chunk_size : ndarrays of float64, shape (n,) and (chunks,)
        Of the vertex at each position, and the largest of each chunk.
    error : ndarray of float64, shape (2,)
        As in `Similarities`.
    v : ndarray, shape (n, d)
    vertex : ndarray of int64, shape (n,)
        The vertex at each position.
    order : int
    """

    gap: npt.NDArray[np.int64]
    chunk_gap: npt.NDArray[np.int64]
    similarity: npt.NDArray[np.float64]
    size: npt.NDArray[np.float64]
    chunk_size: npt.NDArray[np.float64]
    error: npt.NDArray[np.float64]
    v: npt.NDArray[np.floating]
    vertex: npt.NDArray[np.int64]
    order: int


@part
def _lowest(bounds, rank, a, b):
    """Lowest computed similarity, for sizes a and b, whose exact one may reach the rank's edge."""
    size = (a + b) * (a + b) / 2 if bounds.order == SQ_DIST else a * b
    return bounds.similarity[rank] - bounds.error[0] * size - bounds.error[1]


@compiled
def light_in_stack(stack, first, last, heaviest, bounds, found):
    """Collect the light pairs in the rows of a stack from `first` up to, not including, `last`.

    ``heaviest[p]`` is the rank of the heaviest edge on the tree's path from position p to the
    leftmost position that was compared with it so far.

    Returns how many rows (p, q) of `found` were filled, and the row to go on from: `last`, unless
    there was no space for another row.
    """
    top, left, tiles = stack
    side = tiles.shape[1]
    # A plain 0 has another type, for which `_light_in_row` would be compiled again.
    count = np.int64(0)
    for r in range(first, min(last, len(heaviest) - top)):
        p = top + r
        if count + p - left > len(found):
            return count, r
        for t in range(len(tiles) - 1, -1, -1):
            heaviest[p], count = _light_in_row(
                tiles[t, r], left + t * side, p, heaviest[p], bounds, found, count
            )
    return count, last


@part
def _light_in_row(row, left, p, rank, bounds, found, count):
    """Append the pairs (p, q) that may come before the heaviest edge of the tree's path.

    `row` holds the similarities of position p with the positions q from `left` on, and only
    q < p are looked at, from right to left. `rank` is that of the heaviest edge so far. A chunk
    of columns is skipped as a whole when none of its similarities reaches the bound for the rank
    at its far end, which is the lowest.

    Returns the rank, and how many rows of `found` are filled.
    """
    signed = bounds.order != ABS_DOT
    highest = np.iinfo(row.dtype).max
    size = bounds.size[p]
    asked_rank, asked_size, asked = -1, -1.0, row.dtype.type(0)
    end = min(p - left, len(row))
    while end > 0:
        start = (end - 1) // CHUNK * CHUNK
        chunk = (left + start) // CHUNK
        rank_at_start = max(rank, bounds.chunk_gap[chunk])
        if rank_at_start != asked_rank or bounds.chunk_size[chunk] != asked_size:
            asked_rank, asked_size = rank_at_start, bounds.chunk_size[chunk]
            lowest = _lowest(bounds, asked_rank, size, asked_size)
            # Of the row's type: comparisons of two types are not vectorised.
            asked = row.dtype.type(lowest_integer(lowest, highest, signed))
        if end - start == CHUNK and not _reaches(row, start, asked, highest, signed):
            rank, end = rank_at_start, start
            continue
        for k in range(end - 1, start - 1, -1):
            q = left + k
            rank = max(rank, bounds.gap[q])
            integer = ordered(row[k], highest, signed)
            if integer < asked:
                continue
            if rank != asked_rank or bounds.size[q] != asked_size:
                lowest = _lowest(bounds, rank, size, bounds.size[q])
                if integer < lowest_integer(lowest, highest, signed):
                    continue
            if integer == 0 and not signed:
                v, vertex = bounds.v, bounds.vertex
                if apart(v[vertex[p]], v[vertex[q]]):
                    continue
            found[count, 0], found[count, 1] = p, q
            count += 1
        end = start
    return rank, count


@part
def apart(a, b):
    """Whether no feature is non-zero in both vertices, so that their product is exactly 0.

    Such pairs are not needed: for |a.b|, `closed_at_zero` adds the edges of key 0.
    """
    meet = False
    for k in range(len(a)):
        meet |= (a[k] != 0) & (b[k] != 0)
    return not meet


@numba.njit(inline="always")
def _reaches(row, start, bound, highest, signed):
    """Whether some number of a chunk is at least the bound; `signed` ignores their last bits.

    Joining the signs of differences is faster than joining the results of comparisons.
    """
    signs = 0
    if signed:
        # Halves, as the difference of two integers may overflow.
        for k in range(start, start + CHUNK):
            signs |= (bound >> 1) - 1 - (ordered(row[k], highest, True) >> 1)
    else:
        for k in range(start, start + CHUNK):
            signs |= bound - 1 - ordered(row[k], highest, False)
    return signs < 0


@compiled
def most_similar(rows, signed, nearest):
    """Fill in for each row the column of its highest similarity."""
    highest = np.iinfo(rows.dtype).max
    for r in range(len(rows)):
        row = rows[r]
        best = ordered(row[0], highest, signed)
        for k in range(len(row)):
            best = max(best, ordered(row[k], highest, signed))
        k = 0
        while ordered(row[k], highest, signed) != best:
            k += 1
        nearest[r] = k
