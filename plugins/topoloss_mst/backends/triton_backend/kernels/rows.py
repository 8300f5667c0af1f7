"""Vertices in float16, and how far they are from the given ones."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

# A factor that exceeds the effect of rounding to float32, and of rounding in float64 norms.
_UP = tl.constexpr(1 + 2.0**-20)


@triton.jit
def _load(v, centre, rows, exists, start, d, CENTRED: tl.constexpr, DEPTH: tl.constexpr):
    k = start + tl.arange(0, DEPTH)[None, :]
    mask = exists[:, None] & (k < d)
    x = tl.load(v + rows[:, None] * d + k, mask=mask, other=0.0).to(tl.float64)
    if CENTRED:
        x -= tl.load(centre + k, mask=mask, other=0.0).to(tl.float64)
    return x


@triton.jit
def _power_of_two(norm):
    """The highest power of two that is at most the norm, divided by 256."""
    bits = norm.to(tl.float32).to(tl.int32, bitcast=True) & 0x7F800000
    # Very short vectors get 2^-108, so that no scale underflows.
    return tl.maximum(bits - (8 << 23), 19 << 23).to(tl.float32, bitcast=True)


@triton.jit
def convert_rows(
    v, centre, low, scale, reach, slack, half_square, n, d, accumulation,
    CENTRED: tl.constexpr, ZERO_IS_DEAD: tl.constexpr,
    BLOCK: tl.constexpr, DEPTH: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """``v[u] = scale[u] * low[u] + residual``, with ``scale`` a power of two.

    ``reach[u]`` is at least |v[u]| and ``|scale low|``, ``slack[u]`` at least |residual| plus
    half of `accumulation` times `reach`, and ``half_square[u]`` at most ``|v[u]|^2 / 2``.
    If vectors of zeros are dead, their `slack` is -inf, so that none of their pairs is light.
    """
    element = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    exists = rows < n
    v += element * n * d
    centre += element * d
    squares = tl.zeros((BLOCK,), tl.float64)
    for chunk in range(CHUNKS):
        x = _load(v, centre, rows, exists, chunk * DEPTH, d, CENTRED, DEPTH)
        squares += tl.sum(x * x, 1)
    power = _power_of_two(tl.sqrt(squares))
    residuals = tl.zeros((BLOCK,), tl.float64)
    out = element * n + rows
    for chunk in range(CHUNKS):
        x = _load(v, centre, rows, exists, chunk * DEPTH, d, CENTRED, DEPTH)
        x /= power.to(tl.float64)[:, None]
        rounded = x.to(tl.float32).to(tl.float16)
        k = chunk * DEPTH + tl.arange(0, DEPTH)[None, :]
        tl.store(low + out[:, None] * (CHUNKS * DEPTH) + k, rounded, mask=exists[:, None])
        difference = x - rounded.to(tl.float64)
        residuals += tl.sum(difference * difference, 1)
    residual = tl.sqrt(residuals) * power.to(tl.float64)
    furthest = tl.sqrt(squares) + residual
    margin = (residual + accumulation / 2 * furthest) * _UP
    margin = margin.to(tl.float32)
    if ZERO_IS_DEAD:
        margin = tl.where(squares == 0, -float("inf"), margin)
    tl.store(scale + out, power, mask=exists)
    # Never zero, as its product with an infinity would be NaN.
    tl.store(reach + out, (furthest * _UP + 1e-30).to(tl.float32), mask=exists)
    tl.store(slack + out, margin, mask=exists)
    if CENTRED:
        tl.store(half_square + out, (squares / 2 / _UP).to(tl.float32), mask=exists)
