"""For each vertex outside a sample, the vertex in it that looks nearest."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from topoloss_mst.backends.triton_backend.kernels.products import load_chunk, products


@triton.jit
def find_nearest(
    low, scale, half_square, nearest, n, sampled,
    ORDER: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    CHUNKS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """``nearest[p]`` = the most similar position before `sampled`, the first of equals.

    Similarities are those of float16 rows. A wrong choice costs time, but never changes a tree.
    """
    element = tl.program_id(1).to(tl.int64)
    low += element * n * (CHUNKS * DEPTH)
    scale += element * n
    half_square += element * n
    # Rows from n on repeat the last one, and find the same vertex.
    rows = tl.minimum(sampled + tl.program_id(0) * ROWS + tl.arange(0, ROWS), n - 1)
    left = load_chunk(low, rows, 0, CHUNKS, DEPTH)
    of_rows = tl.load(scale + rows)
    highest = tl.full((ROWS,), -float("inf"), tl.float32)
    found = tl.zeros((ROWS,), tl.int32)
    for start in range(0, sampled, COLUMNS):
        exists = start + tl.arange(0, COLUMNS) < sampled
        columns = tl.minimum(start + tl.arange(0, COLUMNS), sampled - 1)
        dot = products(left, low, rows, columns, ROWS, COLUMNS, CHUNKS, DEPTH)
        if ORDER == "abs_dot_descending":
            dot = tl.abs(dot)
        similarity = dot * tl.load(scale + columns)[None, :]
        if ORDER == "sq_dist_ascending":
            similarity = similarity * of_rows[:, None] - tl.load(half_square + columns)[None, :]
        similarity = tl.where(exists[None, :], similarity, -float("inf"))
        best = tl.max(similarity, 1)
        where = tl.where(similarity == best[:, None], columns[None, :], sampled)
        better = best > highest
        found = tl.where(better, tl.min(where, 1), found)
        highest = tl.where(better, best, highest)
    tl.store(nearest + element * n + rows, found)
