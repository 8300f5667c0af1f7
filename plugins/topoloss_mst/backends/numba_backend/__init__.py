"""Exact spanning trees on the CPU.

Any spanning tree bounds the minimum one: a pair of vertices that it connects by lighter edges
is not in the minimum one. So a cheap tree comes first, products in low precision then show the
few pairs that it does not rule out, and these are compared exactly, in float64. The precision
of the products decides how many pairs are left over, and never which tree is found.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from topoloss_mst.backends.numba_backend.edges import ORDERS
from topoloss_mst.backends.numba_backend.prim import prims
from topoloss_mst.backends.numba_backend.trees import minimum_trees


def from_features(v: Float[Tensor, "batch n d"], order: str, start: Tensor | None = None) -> Tensor:
    tree = None if start is None else start.numpy()
    return torch.from_numpy(minimum_trees(v, ORDERS[order], tree))


def from_matrix(values: Float[Tensor, "batch n n"]) -> Tensor:
    integer = torch.int64 if values.dtype == torch.float64 else torch.int32
    # Minus zero becomes zero: the two are equal numbers of different bits.
    bits = (0 - values).contiguous().view(integer).numpy()
    return torch.from_numpy(prims(bits, True))
