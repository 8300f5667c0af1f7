"""Similarities in low precision, as the bits of numbers, with a rigorous error bound."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import cache

import llvmlite.binding
import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from topoloss_mst.backends.numba_backend.edges import SQ_DIST, norms
from topoloss_mst.backends.numba_backend.light import Integers, Stack

_UNIT_ROUNDOFF = {torch.bfloat16: 2.0**-8, torch.float32: 2.0**-24}
Floats = npt.NDArray[np.float64]

_TINY = torch.finfo(torch.float32).tiny

SIDE = 512
# Tiles that are held at once: 16 MiB in bfloat16, 32 in float32.
_AT_ONCE = 32
# Rows in a block, which is multiplied with all rows up to its end, and mirrored.
_ROWS = 256
# At most this many vertices, evenly spread, estimate the middle.
_ABOUT_THE_MIDDLE = 255


class Similarities:
    """Similarities of pairs, which descend as keys ascend: |a.b|, a.b, or -|a - b|^2 / 2.

    Blocks of them hold the bits of floating-point numbers. For |a.b| these are the bits of a.b, of
    which only the magnitude counts.

    Attributes
    ----------
    dtype : torch.dtype
        The dtype of the products. For distances it is float32, whatever is asked for.
    sizes : ndarray of float64, shape (batch, n)
        The vertices' norms, rounded up. For distances the origin is first moved to the middle.
    errors : ndarray of float64, shape (batch, 2)
        In each element of the batch, the similarity of vertices of sizes a and b is off by at most
        the first error times a b, or for distances times (a + b)^2 / 2, plus the second error. The
        final rounding of a similarity to bfloat16 is not included.

    Notes
    -----
    Rounding a vertex v to the products' precision changes it by some r, with |r| at most rho |v|;
    rho is measured. Then a product of two vertices is off by at most (2 rho + rho^2) |v| |w|. Sums
    of d products in float32, whatever their order, add at most 2 (d + 4) 2^-24 times the product of
    the norms of what is multiplied (Higham, "Accuracy and Stability of Numerical Algorithms",
    section 3.1). For a distance, the sum begins with -(|v|^2 / 2 + |w|^2 / 2), which adds
    |v|^2 / 2 + |w|^2 / 2 to the product of the norms, (|v| + |w|)^2 / 2 in all. The second error is
    what is lost where numbers become too small for float32.
    """

    def __init__(self, v: Float[Tensor, "batch n d"], order: int, dtype: torch.dtype) -> None:
        if order == SQ_DIST:
            # Near the origin squares are small, and so are errors. The median, as a few distant
            # vertices would move the mean.
            some = v[:, :: math.ceil(v.shape[1] / _ABOUT_THE_MIDDLE)].double()
            v = v.double() - some.median(-2, keepdim=True).values
            # The half squares would lose too much in the 8 bits of bfloat16.
            dtype = torch.float32
        self.dtype = dtype
        self._low = v.to(dtype)
        self._bits = torch.int16 if dtype == torch.bfloat16 else torch.int32
        self.sizes = norms(v.numpy())
        self.errors = _errors(v, self._low, self.sizes)
        self._half_squares: Tensor | None = None
        if order == SQ_DIST:
            self._half_squares = torch.from_numpy(self.sizes**2 / 2).float()

    def all(self) -> Integers:
        """Bits for all pairs, shape (batch, n, n)."""
        low, half = self._low, self._half_squares
        batch, n, _ = low.shape
        products = low.new_empty(batch, n, n)
        for top in range(0, n, _ROWS):
            stop = min(top + _ROWS, n)
            block = products[:, top:stop, :stop]
            halves = None if half is None else (half[:, top:stop], half[:, :stop])
            _multiply(low[:, top:stop], low[:, :stop].mT, halves, block)
            if top:
                products[:, :top, top:stop] = block[:, :, :top].mT
        return self._as_integers(products)

    def with_some(self, columns: npt.NDArray[np.int64]) -> Iterator[tuple[int, Integers]]:
        """Yield blocks of rows with these columns, of a batch of one: the first row, and bits."""
        some, half = torch.from_numpy(columns), self._half_squares
        right = self._low[:, some].mT
        n, rows = self._low.shape[1], _AT_ONCE * SIDE**2 // len(columns)
        for top in range(0, n, rows):
            left = self._low[:, top : top + rows]
            halves = None if half is None else (half[:, top : top + rows], half[:, some])
            products = left.new_empty(1, left.shape[1], len(columns))
            _multiply(left, right, halves, products)
            yield top, self._as_integers(products)[0]

    def tiles(self, vertices: npt.NDArray[np.int64]) -> Tiles:
        """Tiles of the matrix, of a batch of one, whose rows and columns are these `vertices`."""
        index = torch.from_numpy(vertices)
        half = None if self._half_squares is None else _in_tiles(self._half_squares[0], index)
        return Tiles(_in_tiles(self._low[0], index), half, self._bits)

    def _as_integers(self, products: Tensor) -> Integers:
        bits: Integers = products.view(self._bits).numpy()
        return bits


class Tiles:
    """Square tiles of a matrix product, some at a time.

    Parameters
    ----------
    low : Tensor, shape (tiles, side, d)
    half_squares : Tensor, shape (tiles, side), or None
    bits : torch.dtype
    """

    def __init__(self, low: Tensor, half_squares: Tensor | None, bits: torch.dtype) -> None:
        self._low = low
        self._half_squares = half_squares
        self._products = low.new_empty(_AT_ONCE, SIDE, SIDE)
        self._bits: Integers = self._products.view(bits).numpy()

    def __len__(self) -> int:
        """How many rows of tiles there are."""
        return len(self._low)

    def lower_triangle(self, rows: Iterable[int]) -> Iterator[Stack]:
        """Yield stacks that cover all pairs of some rows of tiles, each row from right to left.

        Each stack overwrites the one before.
        """
        half = self._half_squares
        for row in rows:
            for stop in range(row + 1, 0, -_AT_ONCE):
                first = max(0, stop - _AT_ONCE)
                left = self._low[row].expand(stop - first, -1, -1)
                halves = None if half is None else (half[row, None], half[first:stop])
                _multiply(left, self._low[first:stop].mT, halves, self._products[: stop - first])
                yield Stack(row * SIDE, first * SIDE, self._bits[: stop - first])


def fastest_dtype() -> torch.dtype:
    """Return bfloat16 where the processor has instructions to multiply it, else float32."""
    mkldnn = torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled  # type: ignore[no-untyped-call]
    return torch.bfloat16 if mkldnn and _multiplies_bfloat16() else torch.float32


@cache
def _multiplies_bfloat16() -> bool:
    return bool(llvmlite.binding.get_host_cpu_features().get("avx512bf16"))


def _multiply(
    left: Tensor, right: Tensor, half_squares: tuple[Tensor, Tensor] | None, out: Tensor
) -> None:
    """Multiply `left` by `right`, and subtract half of the squared norms of both if given."""
    if half_squares is None:
        torch.bmm(left, right, out=out)
    else:
        of_rows, of_columns = half_squares
        torch.add(-of_rows[:, :, None], of_columns[:, None], alpha=-1, out=out)
        torch.baddbmm(out, left, right, out=out)


def _in_tiles(x: Tensor, index: Tensor) -> Tensor:
    """The rows `index` of x, padded with zeros to whole tiles: (tiles, side, ...)."""
    n = len(index)
    padded = x.new_empty(math.ceil(n / SIDE) * SIDE, *x.shape[1:])
    torch.index_select(x, 0, index, out=padded[:n])
    padded[n:] = 0
    return padded.view(-1, SIDE, *x.shape[1:])


def _errors(v: Tensor, low: Tensor, sizes: Floats) -> Floats:
    """The error bounds of similarities; see the notes of `Similarities`."""
    d = v.shape[-1]
    rho = np.zeros(len(sizes))
    if low.dtype != v.dtype:
        off = norms((v - low.to(v.dtype)).numpy()) - math.sqrt(d) * _TINY
        rho = (off / np.where(sizes == 0, 1, sizes)).max(-1).clip(min=0)
    if _may_multiply_in_less():
        rho = rho + _UNIT_ROUNDOFF[torch.bfloat16] * (1 + rho)
    sums = 2 * (d + 4) * _UNIT_ROUNDOFF[torch.float32]
    errors = np.empty((len(sizes), 2))
    errors[:, 0] = 2 * rho + rho**2 + sums * (1 + rho) ** 2
    errors[:, 1] = 2 * d * _TINY * (1 + sizes.max(-1)) ** 2
    return errors


def _may_multiply_in_less() -> bool:
    """Whether PyTorch is allowed to multiply float32 in bfloat16."""
    try:
        return torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:
        # PyTorch raises this where precisions were set for single backends; they may be low then.
        return True
