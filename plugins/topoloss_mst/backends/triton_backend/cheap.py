"""A spanning tree that is light, though not the lightest: it rules out most pairs."""

from __future__ import annotations

import torch
import triton
from jaxtyping import Int
from torch import Tensor

from topoloss_mst.backends.triton_backend.kernels import nearest as kernels
from topoloss_mst.backends.triton_backend.launching import OPTIONS
from topoloss_mst.backends.triton_backend.plan import Plan
from topoloss_mst.backends.triton_backend.rows import Rows


def shuffled(n: int, device: torch.device) -> Int[Tensor, " n"]:
    """A fixed shuffle of the vertices, as neighbouring neurons are often alike."""
    index = torch.arange(n, device=device)
    # Multiplying by an odd number, modulo 2^32, maps the numbers below 2^32 one to one.
    mixed = (index * 2_654_435_761) & 0xFFFFFFFF
    mixed = ((mixed ^ (mixed >> 15)) * 2_246_822_519) & 0xFFFFFFFF
    return (mixed ^ (mixed >> 13)).argsort(stable=True)


def nearest_in_sample(
    rows: Rows, order: str, sampled: int, plan: Plan
) -> Int[Tensor, "batch others"]:
    """For each vertex after the first `sampled`, the one of those that looks nearest."""
    batch, n, _ = rows.low.shape
    nearest = torch.empty(batch, n, dtype=torch.int32, device=rows.low.device)
    kernels.find_nearest[(triton.cdiv(n - sampled, plan.rows), batch)](
        rows.low, rows.scale, rows.half_square, nearest, n, sampled,
        order, plan.rows, plan.columns, rows.chunks, rows.depth,
        num_warps=plan.warps, num_stages=plan.stages, **OPTIONS,
    )  # fmt: skip
    return nearest[:, sampled:].long()
