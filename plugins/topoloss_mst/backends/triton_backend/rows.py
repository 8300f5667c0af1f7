"""Vertices in float16, with bounds of the errors of their products.

Let low(v) be the float16 vector of a vertex, times the vertex's own power of two, and r the norm of
v - low(v). The dot product of two vertices a and b differs from that of low(a) and low(b) by

    |a.b - low(a).low(b)| = |(a - low(a)).b + low(a).(b - low(b))|
                         <= r_a |b| + |low(a)| r_b.

On tensor cores, products of float16 numbers are exact, but their sums are not: each of the d
additions may be off by 2^-22 times the sum of the terms' magnitudes, which is at most
``|low(a)| |low(b)|``. This is twice the loss of a sum that is truncated to float32. The operations
in float32 that follow lose less than 16 such additions. So the sum is off by at most
``accumulation * |low(a)| |low(b)|`` with ``accumulation = (d + 16) 2^-22``. With

    reach = an upper bound of |v| and |low(v)|,     slack = r + accumulation / 2 * reach,

the whole error is at most ``slack_a * reach_b + reach_a * slack_b``.

For squared distances the vertices are moved so that their mean is zero, and the similarity of two
is ``-|a - b|^2 / 2 = a.b - |a|^2 / 2 - |b|^2 / 2``. The squares in it are rounded down by more than
subtracting them in float32 can lose.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from jaxtyping import Float, Int
from torch import Tensor

from topoloss_mst.backends.triton_backend.kernels import rows as kernels
from topoloss_mst.backends.triton_backend.launching import OPTIONS, shared_memory

# Each row: the bytes of shared memory that the compiled kernels need, the number of features up to
# which all are multiplied at once, and the size of the chunks where there are more.
_DEPTHS = ((136 * 1024, 256, 128), (96 * 1024, 128, 128), (0, 64, 64))


class Rows(NamedTuple):
    """For each vertex the bounds of this module, and its vector, padded to whole chunks.

    Attributes
    ----------
    low : Tensor of float16, shape (batch, n, chunks * depth)
    scale, reach, slack, half_square : Tensor of float32, shape (batch, n)
    """

    low: Tensor
    scale: Tensor
    reach: Tensor
    slack: Tensor
    half_square: Tensor

    @property
    def depth(self) -> int:
        """How many features are multiplied at once."""
        return _depth_of(self.low.shape[-1], self.low.device)

    @property
    def chunks(self) -> int:
        return self.low.shape[-1] // self.depth

    def without(self, dead: Tensor) -> Rows:
        """The same rows, but so that no pair of a `dead` one is light."""
        return self._replace(slack=self.slack.masked_fill(dead, -torch.inf))

    def at(self, index: Int[Tensor, "batch positions"]) -> Rows:
        """The rows of some vertices of each element, in this order."""
        batch, n, padded = self.low.shape
        of_all = index + n * torch.arange(batch, device=index.device)[:, None]
        low = self.low.reshape(-1, padded).index_select(0, of_all.reshape(-1))
        return Rows(low.reshape(batch, -1, padded), *(x.gather(1, index) for x in self[1:]))


def _depth_of(d: int, device: torch.device) -> int:
    memory = shared_memory(device)
    whole, of_many = next(depths for least, *depths in _DEPTHS if memory >= least)
    return max(16, triton.next_power_of_2(d)) if d <= whole else of_many


def rows_of(v: Float[Tensor, "batch n d"], order: str) -> Rows:
    batch, n, d = v.shape
    depth = _depth_of(d, v.device)
    chunks = triton.cdiv(d, depth)
    low = torch.empty(batch, n, chunks * depth, dtype=torch.float16, device=v.device)
    numbers = [torch.empty(batch, n, device=v.device) for _ in range(4)]
    centred = order == "sq_dist_ascending"
    centre = v.mean(1) if centred else v
    block = max(1, 4096 // depth)
    kernels.convert_rows[(triton.cdiv(n, block), batch)](
        v, centre, low, *numbers, n, d, accumulation(d), centred, order == "abs_dot_descending",
        block, depth, chunks, **OPTIONS,
    )  # fmt: skip
    return Rows(low, *numbers)


def accumulation(d: int) -> float:
    """Error bound of a sum of d products in float32, relative to the product of both norms."""
    return (d + 16) * 2.0**-22
