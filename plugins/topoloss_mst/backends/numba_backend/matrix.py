"""Which pairs Prim's algorithm does not rule out, where the similarities of all pairs are held.

When a vertex enters the tree, its row of similarities is looked at anyway. The heaviest edge on
the tree's path from there to an earlier vertex is the heaviest of the edges by which vertices
entered since, so that one number for each vertex is enough. A pair that is certainly heavier than
the edges of its path is not in the minimum spanning tree.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from topoloss_plugins.compiling import compiled, part

from topoloss_mst.backends.numba_backend.edges import ABS_DOT, SQ_DIST, exact_key
from topoloss_mst.backends.numba_backend.light import Integers, apart
from topoloss_mst.backends.numba_backend.search import Floats

_LOWEST, _HIGHEST = np.iinfo(np.int32).min, np.iinfo(np.int32).max
_CHUNK = 128
# What a number changes by at most, relatively, when it is rounded to bfloat16.
_ROUNDED = 2.0**-8
# More than the arithmetic in float32 changes a bound by, relative to the vertices' sizes.
_COMPARED = 2.0**-20


class _Rows(NamedTuple):
    """What is kept of each vertex while others enter the tree, each of shape (n,).

    Attributes
    ----------
    bits, number : ndarrays of int32 and float32
        The similarities of the latest vertex: the same memory.
    integer : ndarray of int32
        Integers of the order of these numbers.
    inside : ndarray of int32
        The same of vertices inside; the lowest integer outside.
    best, ceiling : ndarrays of int32
        How similar a vertex is to the tree at best, as an integer, and what it is not to exceed:
        the highest integer outside, the lowest inside.
    path, floor : ndarrays of float32
        The lowest similarity on the path to the latest vertex, and what it is not to fall below:
        infinity outside, minus infinity inside.
    light, eights : ndarrays of bool and int64
        Whether the pair with the latest vertex is light: the same memory, padded.
    """

    bits: npt.NDArray[np.int32]
    number: npt.NDArray[np.float32]
    integer: npt.NDArray[np.int32]
    inside: npt.NDArray[np.int32]
    best: npt.NDArray[np.int32]
    ceiling: npt.NDArray[np.int32]
    path: npt.NDArray[np.float32]
    floor: npt.NDArray[np.float32]
    light: npt.NDArray[np.bool_]
    eights: npt.NDArray[np.int64]

    @classmethod
    def of(cls, n: int) -> _Rows:
        bits, integer, inside = np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.int32)
        best, ceiling = np.full(n, _LOWEST, np.int32), np.full(n, _HIGHEST, np.int32)
        path, floor = np.full(n, np.inf, np.float32), np.full(n, np.inf, np.float32)
        eights = np.zeros((n + 7) // 8, np.int64)
        number, light = bits.view(np.float32), eights.view(np.bool_)
        return cls(bits, number, integer, inside, best, ceiling, path, floor, light, eights)


def light_pairs(
    bits: Integers, v: npt.NDArray[np.floating], order: int, sizes: Floats, error: Floats, most: int
) -> npt.NDArray[np.int64]:
    """Pairs that no tree of lighter edges is known to connect: the minimum tree is among them.

    Parameters
    ----------
    bits : ndarray of int16 or int32, shape (n, n)
        Similarities in bfloat16 or float32.
    v : ndarray, shape (n, d)
    order : int
    sizes, error : ndarrays of float64, shapes (n,) and (2,)
        As in `Similarities`.
    most : int
        Beyond so many pairs the search ends early.

    Returns
    -------
    ndarray of int64, shape (pairs, 2)
    """
    n = len(v)
    rounded = _ROUNDED if bits.itemsize == 2 else 0
    margin = np.array([error[0] + _COMPARED, error[1] * (1 + _COMPARED), rounded], np.float32)
    size = (sizes * (1 + _COMPARED)).astype(np.float32)
    # Memory that is not written to is not taken.
    found = np.empty((n * (n - 1) // 2, 2), np.int64)
    count = _light_pairs(bits, v, order, size, margin, most, _Rows.of(n), found)
    return found[:count]


@compiled
def _light_pairs(bits, v, order, size, margin, most, rows, found):
    """Fill in the pairs that were found, and return how many."""
    count = np.int64(0)
    u = np.int64(0)
    for entered in range(len(v)):
        _widen(bits[u], order != ABS_DOT, rows.bits, rows.integer)
        if entered:
            similarity = -exact_key(v[u], v[_nearest_inside(rows)], order)
            if order == SQ_DIST:
                similarity /= 2
            _lower(rows.path, np.float32(similarity - _COMPARED * abs(similarity)), rows.floor)
            _mark(rows.number, rows.path, size[u], size, margin, order, rows.light)
            count = _append(u, rows, v, order, found, count)
            if count > most:
                break
        rows.ceiling[u], rows.floor[u] = _LOWEST, -np.inf
        u = _position(rows.best, _relax(rows.integer, rows.best, rows.ceiling))
    return count


@part
def _widen(bits, signed, row_bits, row):
    """Bits of float32, of magnitudes unless signed; and integers that ascend with the numbers."""
    shift = 16 if bits.itemsize == 2 else 0
    mask = -1 if signed else _HIGHEST
    for j in range(len(bits)):
        row_bits[j] = (bits[j] << shift) & mask
    for j in range(len(bits)):
        row[j] = row_bits[j] ^ ((row_bits[j] >> 31) & _HIGHEST)


@part
def _relax(row, best, ceiling):
    """Let a row raise what is best, and return the highest."""
    highest = np.int32(_LOWEST)
    for j in range(len(row)):
        higher = row[j] if row[j] > best[j] else best[j]
        higher = higher if higher < ceiling[j] else ceiling[j]
        best[j] = higher
        highest = higher if higher > highest else highest
    return highest


@part
def _nearest_inside(rows):
    """Which vertex inside is the most similar by this row.

    The rows of others may say otherwise, by a rounding.
    """
    row, ceiling, inside = rows.integer, rows.ceiling, rows.inside
    highest = np.int32(_LOWEST)
    for j in range(len(row)):
        inside[j] = row[j] if ceiling[j] < row[j] else np.int32(_LOWEST)
        highest = inside[j] if inside[j] > highest else highest
    return _position(inside, highest)


@part
def _position(values, value):
    """Where the value, which is there, stands first."""
    for start in range(0, len(values), _CHUNK):
        there = False
        for j in range(start, min(start + _CHUNK, len(values))):
            there |= values[j] == value
        if there:
            break
    while values[start] != value:
        start += 1
    return start


@part
def _lower(path, lowest, floor):
    """Let the latest edge lower the paths to the vertices inside."""
    for k in range(len(path)):
        lower = lowest if lowest < path[k] else path[k]
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
