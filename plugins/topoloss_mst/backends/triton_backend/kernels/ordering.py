"""Keys as integers of the same order, and atomic minima of them."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

# Above all keys (NaN is mapped to the lowest integer) and above all edges.
NO_KEY = tl.constexpr(2**63 - 1)
NO_EDGE = tl.constexpr(2**63 - 1)


@triton.jit
def ascending(value):
    """Map float32 to int32, or float64 to int64, of the same order.

    Minus zero and zero have one key. NaN sorts before every number, so a tree contains any NaN
    there is and the loss becomes NaN.
    """
    if value.dtype == tl.float64:
        bits = value.to(tl.int64, bitcast=True)
        key = bits ^ ((bits >> 63) & 0x7FFFFFFFFFFFFFFF)
        lowest = tl.full((), -(2**63), tl.int64)
    else:
        bits = value.to(tl.int32, bitcast=True)
        key = bits ^ ((bits >> 31) & 0x7FFFFFFF)
        lowest = tl.full((), -(2**31), tl.int32)
    key = tl.where(value == 0, 0, key)
    return tl.where(value != value, lowest, key)


@triton.jit
def number(key):
    """The float64 number of a key: but for the sign of zero, `ascending` is its own inverse."""
    return (key ^ ((key >> 63) & 0x7FFFFFFFFFFFFFFF)).to(tl.float64, bitcast=True)


@triton.jit
def lower(target, value, mask):
    """Atomic minimum where `mask`, skipped where a plain read shows that it changes nothing."""
    # The value read may be out of date, but then the current one is lower still.
    seen = tl.load(target, mask=mask, other=0)
    tl.atomic_min(target, value, mask=mask & (value < seen), sem="relaxed")


@triton.jit
def code_of(i, j, n):
    """An edge as one number, in the order (lower index, higher index)."""
    return tl.minimum(i, j).to(tl.int64) * n + tl.maximum(i, j)
