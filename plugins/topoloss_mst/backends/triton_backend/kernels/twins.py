"""A hash of each vertex, which identical vertices share."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def hash_rows(v, hashes, n, d, BLOCK: tl.constexpr, DEPTH: tl.constexpr):
    """``hashes[u] = sum_k bits(v[u, k]) * factor(k)``, modulo 2^64."""
    element = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.int64)
    for start in range(0, d, DEPTH):
        k = start + tl.arange(0, DEPTH)[None, :]
        mask = (rows < n)[:, None] & (k < d)
        x = tl.load(v + (element * n + rows[:, None]) * d + k, mask=mask, other=0.0)
        # Minus zero equals zero.
        bits = tl.where(x == 0, 0.0, x).to(tl.int32, bitcast=True).to(tl.int64)
        factor = (2 * k + 1).to(tl.int64) * 0x1E3779B97F4A7C15
        total += tl.sum(bits * (factor ^ (factor >> 30)), 1)
    tl.store(hashes + element * n + rows, total, mask=rows < n)
