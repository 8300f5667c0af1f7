"""Twins, which are identical vertices: one of them is enough to search for squared distances.

The first edges of the minimum tree, of key 0, lead from the lowest of each set of twins to the
others. Every further edge at one of the others is as long as the edge of the lowest twin to the
same vertex, which comes before it.
"""

from __future__ import annotations

import torch
import triton
from jaxtyping import Float, Int
from torch import Tensor

from topoloss_mst.backends.triton_backend.kernels import twins as kernels
from topoloss_mst.backends.triton_backend.launching import OPTIONS


def lowest_twins(v: Float[Tensor, "batch n d"]) -> Int[Tensor, "batch n"]:
    """Return for each vertex its lowest twin, possibly itself.

    Twins are missed in the rare case that other vertices have the same hash. They then count as
    different vertices.
    """
    batch, n, d = v.shape
    hashes = torch.empty(batch, n, dtype=torch.int64, device=v.device)
    depth = min(64, max(16, triton.next_power_of_2(d)))
    kernels.hash_rows[(triton.cdiv(n, 64), batch)](v, hashes, n, d, 64, depth, **OPTIONS)
    vertex = torch.arange(n, device=v.device).expand(batch, n)
    hashes, order = hashes.sort(dim=1, stable=True)
    starts = torch.ones_like(hashes, dtype=torch.bool)
    starts[:, 1:] = hashes[:, 1:] != hashes[:, :-1]
    first = torch.where(starts, vertex, 0).cummax(1).values
    twin = torch.empty_like(order).scatter_(1, order, order.gather(1, first))
    of_all = twin + n * torch.arange(batch, device=v.device)[:, None]
    same = v.reshape(-1, d).index_select(0, of_all.reshape(-1)).reshape(v.shape) == v
    return torch.where(same.all(-1), twin, vertex)
