"""Ascending keys: a spanning tree depends only on the order of its edge values."""

from __future__ import annotations

import torch
from torch import Tensor

_ROWS = 256


def dtype_of_keys(dtype: torch.dtype, order: str, device: torch.device) -> torch.dtype:
    """Float64 for squared distances, except on MPS, which lacks it; else the dtype as it is."""
    return torch.float64 if order == "sq_dist_ascending" and device.type != "mps" else dtype


def ascending_keys(v: Tensor, order: str) -> Tensor:
    """Return the symmetric (n, n) matrix whose ascending order is that of the edge values.

    The matrix is new, so that backends may overwrite it.
    """
    if order == "abs_dot_descending":
        return gram(v).abs_().neg_()
    if order == "dot_descending":
        return gram(v).neg_()
    if order == "sq_dist_ascending":
        # The sum below cancels, so move the vertices, which keeps distances, and use float64.
        v = (v - v[:1]).to(dtype_of_keys(v.dtype, order, v.device))
        squares = (v * v).sum(-1)
        return gram(v).mul_(-2).add_(squares).add_(squares[:, None])
    raise ValueError(f"unknown order {order!r}")


def gram(v: Tensor) -> Tensor:
    """Return ``v @ v.T``, computed once for each pair and mirrored.

    This saves half the product. Moreover, the result is exactly symmetric, which a matrix product
    need not be, so an edge has the same key from both of its ends.
    """
    n = v.shape[0]
    product = v.new_empty(n, n)
    for start in range(0, n, _ROWS):
        stop = min(start + _ROWS, n)
        torch.mm(v[start:stop], v[:stop].T, out=product[start:stop, :stop])
        product[:start, start:stop] = product[start:stop, :start].T
        square = product[start:stop, start:stop]
        square.copy_(torch.maximum(square, square.T))
    return product
