"""Trees of few vertices, from the float32 values of all their pairs."""

from __future__ import annotations

import torch
import triton
from jaxtyping import Float
from torch import Tensor

from topoloss_mst.backends.triton_backend.components import Components
from topoloss_mst.backends.triton_backend.kernels import dense as kernels
from topoloss_mst.backends.triton_backend.launching import OPTIONS, programs

# The largest side of a tile; 128 would take more registers than there are.
_LARGEST_SIDE = 64


def values_of_pairs(v: Float[Tensor, "batch n d"], order: str) -> Float[Tensor, "batch n n"]:
    """Values of all pairs, in the order of the edges; only the lower triangle is filled."""
    batch, n, d = v.shape
    half_squares = None
    if order == "sq_dist_ascending":
        # Near the origin distances cancel less. Subtract a vertex, not the mean, so that small
        # integers stay integers.
        v = (v.double() - v[:, :1].double()).float()
        half_squares = v.double().square().sum(-1).div(2).float()
    values = torch.empty(batch, n, n, device=v.device)
    side = _side(n)
    depth = min(32, max(16, triton.next_power_of_2(d)))
    kernels.fill_values[(_tiles(n, side), batch)](
        v.float().contiguous(), half_squares, values, n, d, order, side, depth, num_warps=4,
        **OPTIONS,
    )  # fmt: skip
    return values


def minimum_trees(values: Float[Tensor, "batch n n"]) -> Tensor:
    """Edges (batch, n - 1, 2), in some order, for n of at least 2."""
    batch, n, _ = values.shape
    forest = Components(batch, n, values.device)
    lightest = torch.empty_like(forest.tree)
    forest.run(kernels.start_pairs, lightest)
    side = _side(n)
    grid = (min(_tiles(n, side), programs(values.device, batch)), batch)
    # One program, with as many threads as possible, takes all vertices of an element.
    block = min(4096, max(128, triton.next_power_of_2(n)))
    for round in range(forest.rounds):
        kernels.offer_values[grid](
            values, *values.stride(), forest.component, lightest, forest.joined, round,
            forest.rounds, n, side, num_warps=8, **OPTIONS,
        )  # fmt: skip
        kernels.merge_components[(batch,)](
            forest.component, lightest, forest.lightest_key, forest.lightest_edge, forest.parent,
            forest.tree, forest.joined, round, forest.rounds, n, block,
            num_warps=min(32, block // 32), **OPTIONS,
        )  # fmt: skip
    return forest.edges()


def _side(n: int) -> int:
    side: int = min(_LARGEST_SIDE, max(16, triton.next_power_of_2(n)))
    return side


def _tiles(n: int, side: int) -> int:
    blocks: int = triton.cdiv(n, side)
    return blocks * (blocks + 1) // 2
