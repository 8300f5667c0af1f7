"""Light pairs of vertices, which a spanning tree does not already connect by lighter edges."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from topoloss_mst.backends.triton_backend.forest import (
    HeavyTiles,
    Pairs,
    Source,
    Space,
    drops_zeros,
)
from topoloss_mst.backends.triton_backend.hierarchy import Hierarchy
from topoloss_mst.backends.triton_backend.kernels import light as kernels
from topoloss_mst.backends.triton_backend.launching import OPTIONS
from topoloss_mst.backends.triton_backend.plan import Plan
from topoloss_mst.backends.triton_backend.rows import Rows


def light_pairs(
    v: Tensor, rows: Rows, order: str, hierarchy: Hierarchy, plan: Plan
) -> list[Source]:
    """Find the pairs of rows, but for dead ones, that the trees of `hierarchy` do not rule out."""
    batch, n, _ = v.shape
    blocks = triton.cdiv(n, plan.rows)
    positions = blocks * plan.rows
    tiles_across = plan.rows // plan.columns
    all_tiles = tiles_across * blocks * (blocks + 1) // 2
    space = Space(plan.listed * n, min(plan.heavy * n, all_tiles))
    # In this order copies and clusters meet in few tiles. Positions from n on are never looked at.
    vertex = torch.zeros(batch, positions, dtype=torch.int64, device=v.device)
    vertex[:, :n] = hierarchy.side_by_side()
    codes, tiles = (
        torch.empty(batch, count, dtype=torch.int64, device=v.device) for count in space
    )
    counts = torch.zeros(batch, 2, dtype=torch.int32, device=v.device)
    rows, hierarchy = rows.at(vertex), hierarchy.at(vertex)
    strips = triton.cdiv(blocks * tiles_across, plan.strip)
    kernels.find_light_pairs[(blocks * strips, batch)](
        rows.low, rows.scale, rows.reach, rows.slack, rows.half_square, *hierarchy, vertex,
        codes, tiles, counts, n, positions, blocks, *space, plan.most,
        order, hierarchy.levels, plan.rows, plan.columns, plan.strip, rows.chunks, rows.depth,
        num_warps=plan.warps, num_stages=plan.stages, **OPTIONS,
    )  # fmt: skip
    return [
        Pairs(v, order, codes, counts, space, drops_zeros(order)),
        HeavyTiles(
            v, order, vertex, tiles, counts, space, (plan.rows, plan.columns), plan.side
        ),
    ]  # fmt: skip
