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

from topoloss_mst.engines.numba_engine.edges import METRICS
from topoloss_mst.engines.numba_engine.prim import prims
from topoloss_mst.engines.numba_engine.trees import minimum_trees


def from_features(
    v: Float[Tensor, "problems n d"], order: str, start: Tensor | None = None
) -> Tensor:
    tree = None if start is None else start.numpy()
    return torch.from_numpy(minimum_trees(v, METRICS[order], tree))


def from_matrix(values: Float[Tensor, "problems n n"]) -> Tensor:
    integer = torch.int64 if values.dtype == torch.float64 else torch.int32
    # Minus zero becomes zero: the two are equal numbers of different bits.
    bits = (0 - values).contiguous().view(integer).numpy()
    return torch.from_numpy(prims(bits, True))
