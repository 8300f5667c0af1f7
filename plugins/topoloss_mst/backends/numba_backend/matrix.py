"""Light pairs, which a spanning tree does not rule out, where all similarities are held at once.

The similarities in low precision give the tree, by Prim's algorithm. That tree need not be the
minimum one: the argument holds for any spanning tree, as it compares a pair with the exact keys of
the tree's edges. A pair that is certainly heavier than every edge on its path in the tree is the
heaviest edge of a cycle. So it is not in the minimum spanning tree.

`linkage` lays the vertices in a row, with a gap between each two neighbours. The heaviest edge on
the path between two vertices is then the heaviest gap between their positions. This module visits
the vertices in the order of that row, and passes one gap at each step. So one number for each
visited vertex is enough: the heaviest gap since its visit.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from topoloss_plugins.compiling import compiled, part

from topoloss_mst.backends.numba_backend.edges import ABS_DOT, SQ_DIST
from topoloss_mst.backends.numba_backend.light import Integers, apart
from topoloss_mst.backends.numba_backend.prim import prim
from topoloss_mst.backends.numba_backend.search import Floats, row_of

_HIGHEST = np.iinfo(np.int32).max
# The largest relative change of a number that is rounded to bfloat16.
_ROUNDED = 2.0**-8
# More than arithmetic in float32 changes a bound, relative to the vertices' sizes.
_COMPARED = 2.0**-20


class _Rows(NamedTuple):
    """Numbers kept for each vertex while others are visited, each of shape (n,).

    Attributes
    ----------
    bits, number : ndarrays of int32 and float32
        The similarities with the latest vertex; both are views of the same memory.
    path, floor : ndarrays of float32
        The lowest similarity on the path to the latest vertex, and a limit that it cannot fall
        below: infinity before a vertex is visited, minus infinity after that.
    light, eights : ndarrays of bool and int64
        Whether the pair with the latest vertex is light; both are views of the same memory, which
        is padded to a multiple of 8 bytes.
    """

    bits: npt.NDArray[np.int32]
    number: npt.NDArray[np.float32]
    path: npt.NDArray[np.float32]
    floor: npt.NDArray[np.float32]
    light: npt.NDArray[np.bool_]
    eights: npt.NDArray[np.int64]

    @classmethod
    def of(cls, n: int) -> _Rows:
        bits, eights = np.empty(n, np.int32), np.zeros((n + 7) // 8, np.int64)
        path, floor = np.full(n, np.inf, np.float32), np.full(n, np.inf, np.float32)
        return cls(bits, bits.view(np.float32), path, floor, eights.view(np.bool_), eights)


def light_pairs(
    bits: Integers, v: npt.NDArray[np.floating], order: int, sizes: Floats, error: Floats, most: int
) -> npt.NDArray[np.int64]:
    """Find the light pairs.

    All edges of the minimum tree are among them; for |a.b|, all of those with keys below 0.

    Parameters
    ----------
    bits : ndarray of int16 or int32, shape (n, n)
        Similarities in bfloat16 or float32.
    v : ndarray, shape (n, d)
    order : int
    sizes, error : ndarrays of float64, shapes (n,) and (2,)
        As in `Similarities`.
    most : int
        The search ends early once there are more pairs than this.

    Returns
    -------
    ndarray of int64, shape (pairs, 2)
    """
    n = len(v)
    row = row_of(v, prim(bits, order != ABS_DOT), order)
    gaps = row.similarity[row.gap[:-1]]
    lowest = (gaps - _COMPARED * abs(gaps)).astype(np.float32)
    rounded = _ROUNDED if bits.itemsize == 2 else 0
    margin = np.array([error[0] + _COMPARED, error[1] * (1 + _COMPARED), rounded], np.float32)
    size = (sizes * (1 + _COMPARED)).astype(np.float32)
    # Memory that is never written to takes up no space.
    found = np.empty((n * (n - 1) // 2, 2), np.int64)
    count = _light_pairs(bits, v, order, row.vertex, lowest, size, margin, most, _Rows.of(n), found)
    return found[:count]


@compiled
def _light_pairs(bits, v, order, vertex, gaps, size, margin, most, rows, found):
    """Fill in the pairs that were found, and return how many."""
    count = np.int64(0)
    for p in range(len(vertex)):
        u = vertex[p]
        if p:
            _widen(bits[u], order != ABS_DOT, rows.bits)
            _lower(rows.path, gaps[p - 1], rows.floor)
            _mark(rows.number, rows.path, size[u], size, margin, order, rows.light)
            count = _append(u, rows, v, order, found, count)
            if count > most:
                break
        rows.floor[u] = -np.inf
    return count


@part
def _widen(bits, signed, row):
    """Fill in the bits in float32, of magnitudes unless signed."""
    shift = 16 if bits.itemsize == 2 else 0
    mask = -1 if signed else _HIGHEST
    for j in range(len(bits)):
        row[j] = (bits[j] << shift) & mask


@part
def _lower(path, gap, floor):
    """Lower `path` to at most the latest gap, for the vertices visited so far."""
    for k in range(len(path)):
        lower = gap if gap < path[k] else path[k]
        path[k] = lower if lower > floor[k] else floor[k]


@part
def _mark(row, path, size_of_row, size, margin, order, light):
    """Mark the pairs that may be as similar as the heaviest edge of their path."""
    relative, absolute, rounded = margin[0], margin[1], margin[2]
    for k in range(len(row)):
        scale = size_of_row * size[k]
        if order == SQ_DIST:
            scale = (size_of_row + size[k]) * (size_of_row + size[k]) * np.float32(0.5)
        highest = row[k] + rounded * abs(row[k]) + relative * scale + absolute
        light[k] = highest >= path[k]


@part
def _append(u, rows, v, order, found, count):
    """Append the marked pairs to those found, and return how many there are."""
    for k in range(len(rows.eights)):
        if not rows.eights[k]:
            continue
        for w in range(8 * k, 8 * k + 8):
            if not rows.light[w]:
                continue
            if order != ABS_DOT or rows.bits[w] != 0 or not apart(v[u], v[w]):
                found[count, 0], found[count, 1] = u, w
                count += 1
    return count
