"""Floating-point numbers by their bits, as integers of the same order."""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numba
import numpy as np
from topoloss_plugins.compiling import part


# Inlined early: only then are the loops around it vectorised.
@numba.njit(inline="always")
def ordered(bits, highest, signed):
    """Integer that ascends with the number, or with its magnitude if that is what counts.

    `highest` is the highest integer of the bits' type. Minus zero comes just below zero.
    """
    return bits ^ ((bits >> 63) & highest) if signed else bits & highest


@part
def lowest_integer(bound, highest, signed):
    """An integer that no ordered number that is at least `bound` is below.

    The numbers are float32 or bfloat16, and `highest` tells which. A number that was rounded to
    bfloat16 counts as it was before.
    """
    if not signed and bound <= 0:
        return np.int64(0)
    integer = np.int64(_bits(np.nextafter(np.float32(bound), np.float32(-np.inf))))
    # Minus zero, just below zero, may stand for it.
    integer = ordered(integer, 0x7FFFFFFF, True) - 1 if signed else integer
    if highest == 0x7FFFFFFF:
        return integer
    # Rounding to the nearest does not change the order. What is dropped here rounds towards 0, so
    # that of a negative bound the next lower number may be the nearest.
    return (integer >> 16) - (1 if bound < 0 else 0)


@part
def _bits(x):
    return np.float32(x).view(np.int32)
