"""Similarities in low precision, as integers, with a rigorous bound of their error."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache

import llvmlite.binding
import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from topoloss_mst.backends.numba_backend.edges import SQ_DIST
from topoloss_mst.backends.numba_backend.light import Integers, Stack

_UNIT_ROUNDOFF = {torch.bfloat16: 2.0**-8, torch.float32: 2.0**-24}

SIDE = 512
# 16 MiB in bfloat16, 32 in float32.
_AT_ONCE = 32


class Similarities:
    """What descends as keys ascend: |a.b|, a.b, or minus half of |a - b|^2, for each pair.

    Blocks of them hold the bits of floating-point numbers, whose magnitude is what counts
    unless they are `signed`.

    Attributes
    ----------
    no_bits : ndarray, shape (0,)
        Of the blocks' type.
    margins : ndarray of float64, shape (batch,)
        No similarity that is handed out is further than this from the true one.
    """

    def __init__(self, v: Float[Tensor, "batch n d"], order: int, dtype: torch.dtype) -> None:
        left, right = _factors(v, order)
        self.margins = _error_bound(left, right, dtype)
        self._left = left.to(dtype)
        self._right = self._left if right is left else right.to(dtype)
        self._integer = torch.int16 if dtype == torch.bfloat16 else torch.int32
        self.no_bits: Integers = torch.empty(0, dtype=self._integer).numpy()

    def all(self) -> Integers:
        """Bits for all pairs, shape (batch, n, n)."""
        return (self._left @ self._right.mT).view(self._integer).numpy()

    def tiles(self, vertices: npt.NDArray[np.int64]) -> Tiles:
        """Tiles of the matrix of a batch of one; its rows and columns are these `vertices`."""
        index = torch.from_numpy(vertices)
        left = _rows(self._left.squeeze(0), index)
        right = left if self._right is self._left else _rows(self._right.squeeze(0), index)
        return Tiles(left, right, len(vertices), self._integer)


class Tiles:
    """Square tiles of a product, some at a time."""

    def __init__(self, left: Tensor, right: Tensor, n: int, integer: torch.dtype) -> None:
        self._n = n
        self._left = left
        self._right = right.reshape(-1, SIDE, right.shape[1]).mT
        self._products = left.new_empty(_AT_ONCE, SIDE, SIDE)
        self._bits: Integers = self._products.view(integer).numpy()

    def lower_triangle(self) -> Iterator[Stack]:
        """Cover all pairs, each row from the right to the left."""
        for top in range(0, self._n, SIDE):
            yield from self._row(top, top + SIDE)

    def rows(self, first: int, columns: int) -> Iterator[Stack]:
        """Cover the rows from the `first` on, and the columns before `columns`."""
        for top in range(first // SIDE * SIDE, self._n, SIDE):
            yield from self._row(top, columns)

    def _row(self, top: int, columns: int) -> Iterator[Stack]:
        """Stacks side by side, from the last to the first; each overwrites the one before."""
        stop = math.ceil(columns / SIDE)
        while stop > 0:
            first = max(0, stop - _AT_ONCE)
            rows = self._left[top : top + SIDE].expand(stop - first, -1, -1)
            torch.bmm(rows, self._right[first:stop], out=self._products[: stop - first])
            yield Stack(top, first * SIDE, self._bits[: stop - first])
            stop = first


def fastest_dtype(order: int) -> torch.dtype:
    """bfloat16 where the processor multiplies it; distances would cancel in it."""
    mkldnn = torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled  # type: ignore[no-untyped-call]
    if mkldnn and order != SQ_DIST and _multiplies_bfloat16():
        return torch.bfloat16
    return torch.float32


@cache
def _multiplies_bfloat16() -> bool:
    return bool(llvmlite.binding.get_host_cpu_features().get("avx512bf16"))


def _factors(v: Tensor, order: int) -> tuple[Tensor, Tensor]:
    """Rows whose products are the similarities."""
    if order != SQ_DIST:
        return v, v
    # Near the origin squares are small, and so is the error of the products.
    v = v.double()
    v = v - v.mean(-2, keepdim=True)
    half_square = (v * v).sum(-1, keepdim=True) / 2
    # Of all ways to split the squares between the factors this makes them shortest.
    root = half_square.amax(-2, keepdim=True).sqrt()
    root = torch.where(root == 0, 1, root).expand_as(half_square)
    share = half_square / root
    return torch.cat((v, share, root), -1), torch.cat((v, -root, -share), -1)


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """Rows `index`, and zeros up to a multiple of the side of a tile."""
    n = len(index)
    padded = x.new_empty(math.ceil(n / SIDE) * SIDE, x.shape[1])
    torch.index_select(x, 0, index, out=padded[:n])
    padded[n:] = 0
    return padded


def _error_bound(left: Tensor, right: Tensor, dtype: torch.dtype) -> npt.NDArray[np.float64]:
    """Largest error of a product: factors are rounded, then sums in float32, then the result.

    Higham, "Accuracy and Stability of Numerical Algorithms", section 3.1, for any order of
    summation; the sum of |a b| is at most the product of the norms.
    """
    d = left.shape[-1]
    factor = _UNIT_ROUNDOFF[dtype]
    if _may_multiply_in_less():
        factor = _UNIT_ROUNDOFF[torch.bfloat16]
    sums = 2 * (d + 4) * _UNIT_ROUNDOFF[torch.float32]
    relative = (1 + factor) ** 3 * (1 + sums) - 1
    longest = _longest(left)
    size = longest * (longest if right is left else _longest(right))
    underflow = d * torch.finfo(torch.float32).tiny * (1 + size)
    bound: npt.NDArray[np.float64] = (relative * size + underflow).numpy()
    return bound


def _may_multiply_in_less() -> bool:
    """Whether PyTorch is allowed to multiply float32 in bfloat16."""
    try:
        return torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:
        # It cannot tell where precisions were set for single backends; then they may be low.
        return True


def _longest(rows: Tensor) -> Tensor:
    """Upper bounds of the norms of each element's rows."""
    longest: Tensor = torch.linalg.vector_norm(rows, dim=-1).amax(-1).double()
    return longest * (1 + rows.shape[-1] * torch.finfo(rows.dtype).eps)
