"""Bits of floating-point numbers turned into integers of the same order."""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numba
import numpy as np
from topoloss_plugins.compiling import part


# Inlined early: only then are the loops around it vectorised.
@numba.njit(inline="always")
def ordered(bits, highest, signed):
    """Integer that ascends with the number if `signed`, else with its magnitude.

    `highest` is the highest integer of the bits' type. Minus zero comes just below zero.
    """
    return bits ^ ((bits >> 63) & highest) if signed else bits & highest


@part
def lowest_integer(bound, highest, signed):
    """A lower bound of `ordered` for all numbers that are at least `bound`.

    `highest` tells whether the numbers are float32 or bfloat16. Those in bfloat16 were at least
    `bound` before they were rounded.
    """
    if not signed and bound <= 0:
        return np.int64(0)
    integer = np.int64(_bits(np.nextafter(np.float32(bound), np.float32(-np.inf))))
    # A number that is zero may be stored as minus zero, just below zero.
    integer = ordered(integer, 0x7FFFFFFF, True) - 1 if signed else integer
    if highest == 0x7FFFFFFF:
        return integer
    # Rounding to nearest keeps the order. Dropping bits here rounds towards 0, so the number that a
    # negative bound would be rounded to may be one lower.
    return (integer >> 16) - (1 if bound < 0 else 0)


@part
def _bits(x):
    return np.float32(x).view(np.int32)
