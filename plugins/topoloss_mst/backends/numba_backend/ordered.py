"""Floating-point numbers by their bits, as integers of the same order."""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numba
import numpy as np

from topoloss_mst.backends.numba_backend.compiled import compiled
from topoloss_mst.backends.numba_backend.edges import ABS_DOT, SQ_DIST


# Inlined early: only then are the loops around it vectorised.
@numba.njit(inline="always")
def ordered(bits, highest, signed):
    """Integer that ascends with the number, or with its magnitude if that is what counts.

    `highest` is the highest integer of the bits' type. Minus zero comes just below zero.
    """
    return bits ^ ((bits >> 63) & highest) if signed else bits & highest


@compiled
def lowest_integers(keys, order, margin, bits):
    """For each key the lowest integer that the similarity of such an edge can have.

    Integers are ordered ones of numbers as in `bits`, float32 or bfloat16, that are off by at
    most `margin`.
    """
    lowest = np.empty(len(keys), np.float32)
    for e in range(len(keys)):
        similarity = -keys[e] / 2 if order == SQ_DIST else -keys[e]
        lowest[e] = np.nextafter(np.float32(similarity - margin), np.float32(-np.inf))
    integers = lowest.view(np.int32)
    result = np.empty(len(keys), bits.dtype)
    # The upper half of the bits of float32 are those of bfloat16, rounded down.
    dropped = 32 - 8 * bits.itemsize
    for e in range(len(keys)):
        if order == ABS_DOT:
            integer = max(integers[e], 0)
        else:
            # Minus zero, just below zero, may stand for it.
            integer = ordered(integers[e], 0x7FFFFFFF, True) - 1
        result[e] = integer >> dropped
    return result
