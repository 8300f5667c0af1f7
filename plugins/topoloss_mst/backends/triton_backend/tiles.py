"""The pairs of all vertices, tile by tile: products of features, or entries of a matrix."""

from __future__ import annotations

import torch
import triton
from jaxtyping import Float
from torch import Tensor

from topoloss_mst.backends.triton_backend import kernels

# From so many vertices on large tiles are many enough to keep a GPU busy.
MANY = 4096


class _Tiles:
    """The launch over the lower triangle's tiles of each element of a batch."""

    def __init__(self, batch: int, n: int, device: torch.device, many: int = MANY) -> None:
        self.batch, self.n, self.device = batch, n, device
        largest = 128 if n >= many else 64
        self._side = min(largest, max(16, triton.next_power_of_2(n)))
        # Asked for neither way, fusion makes newer Tritons warn; products of tiles are fused.
        self._options = {"num_warps": 8 if self._side == 128 else 4, "enable_fp_fusion": False}
        blocks = triton.cdiv(n, self._side)
        self._grid = (batch * blocks * (blocks + 1) // 2,)


class Features(_Tiles):
    """Vertices, as float32 vectors whose products show the order of the edges."""

    def __init__(self, v: Float[Tensor, "batch n d"], order: str, many: int = MANY) -> None:
        super().__init__(v.shape[0], v.shape[1], v.device, many)
        self._order = order
        self._half_squares: Tensor | None = None
        if order == "sq_dist_ascending":
            # Near the origin distances cancel less. Unlike the mean, a vertex leaves small
            # integers what they are.
            v = (v.double() - v[:, :1].double()).float()
            self._half_squares = v.double().square().sum(-1).div(2).float()
        self._v = v.float().contiguous()
        self._depth = min(32, max(16, triton.next_power_of_2(v.shape[-1])))

    def offer(self, component: Tensor, lightest: Tensor, joined: Tensor) -> None:
        kernels.offer_features[self._grid](
            self._v, self._half_squares, component, lightest, joined, self.n, self._v.shape[-1],
            self._order, self._side, self._depth, **self._options,
        )  # fmt: skip

    def values(self) -> Float[Tensor, "batch n n"]:
        """Ascending values of all pairs; only the lower triangle is filled."""
        values = torch.empty(self.batch, self.n, self.n, device=self.device)
        kernels.fill_values[self._grid](
            self._v, self._half_squares, values, self.n, self._v.shape[-1],
            self._order, self._side, self._depth, **self._options,
        )  # fmt: skip
        return values


class Matrix(_Tiles):
    """A value for each pair, of which the lower triangle is read."""

    def __init__(self, values: Float[Tensor, "batch n n"]) -> None:
        super().__init__(values.shape[0], values.shape[1], values.device)
        self._values = values

    def offer(self, component: Tensor, lightest: Tensor, joined: Tensor) -> None:
        kernels.offer_matrix[self._grid](
            self._values, *self._values.stride(), component, lightest, joined, self.n,
            self._side, **self._options,
        )  # fmt: skip
