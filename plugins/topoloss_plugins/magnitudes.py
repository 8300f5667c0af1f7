"""The sum of all |v_i . v_j|, differentiable, by blocks of rows.

Let S be the matrix of the signs of the products of distinct rows. The sum over ordered pairs is the
sum of the entries of ``v * (S @ v)``. S is constant almost everywhere, so the gradient is
``2 S @ v``, which the forward pass has already computed; the second derivative takes one more
product with S.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import hardshrink

# Products of rows in a block: 64 MiB in float32. Their signs take as much.
_AT_ONCE = 1 << 24


def sum_of_magnitudes(v: Tensor) -> Tensor:
    """Sum |v_i . v_j| over the ordered pairs of distinct rows of (n, d), unit vectors or zero.

    The gradient of |.| is 0 at 0, and so near to 0 that the sign may be due to rounding.
    """
    total: Tensor = _SumOfMagnitudes.apply(v)[0]  # type: ignore[no-untyped-call]
    return total


class _SumOfMagnitudes(torch.autograd.Function):
    """Return the sum, and half of its gradient."""

    generate_vmap_rule = True

    @staticmethod
    def forward(v: Tensor) -> tuple[Tensor, Tensor]:
        total, half_gradient = magnitudes(v, v)
        return total, half_gradient

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(inputs[0], output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, of_sum: Tensor | None, of_half: Tensor | None) -> Tensor | None:
        v, half_gradient = ctx.saved_tensors
        gradient = None if of_sum is None else 2 * of_sum * half_gradient
        if of_half is None:
            return gradient
        second: Tensor = _SignedProduct.apply(v, of_half)  # type: ignore[no-untyped-call]
        return second if gradient is None else gradient + second


class _SignedProduct(torch.autograd.Function):
    """``S @ w``; S is symmetric, and constant in v."""

    generate_vmap_rule = True

    @staticmethod
    def forward(v: Tensor, w: Tensor) -> Tensor:
        product: Tensor = magnitudes(v, w)[1]
        return product

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, of_product: Tensor) -> tuple[None, Tensor]:
        (v,) = ctx.saved_tensors
        return None, _SignedProduct.apply(v, of_product)  # type: ignore[no-untyped-call]


@torch.library.custom_op("topoloss::magnitudes", mutates_args=())
def magnitudes(v: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Sum |v_i . v_j| over the ordered pairs of distinct rows of (..., n, d), and ``S @ w``."""
    batch, (n, d) = v.shape[:-2], v.shape[-2:]
    v, w = v.reshape(-1, n, d), w.reshape(-1, n, d)
    total, product = v.new_zeros(len(v)), w.new_zeros(w.shape)
    rounding = 8 * torch.finfo(v.dtype).eps
    rows = max(1, _AT_ONCE // max(1, len(v) * n))
    for start in range(0, n, rows):
        stop = min(start + rows, n)
        # Each pair once, in the row of its higher index.
        pairs = (v[:, start:stop] @ v[:, :stop].mT).tril_(start - 1)
        signs = hardshrink(pairs, rounding).sign_()
        total += 2 * pairs.abs_().sum((-2, -1))
        product[:, start:stop].baddbmm_(signs, w[:, :stop])
        product[:, :stop].baddbmm_(signs.mT, w[:, start:stop])
        del pairs, signs  # free them before the next block is computed
    return total.reshape(batch), product.reshape(*batch, n, d)


@magnitudes.register_fake
def _(v: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    return v.new_empty(v.shape[:-2]), w.new_empty(w.shape)


@magnitudes.register_vmap
def _(info: Any, in_dims: tuple[Any, ...], v: Tensor, w: Tensor) -> Any:
    v, w = (
        x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
        for x, dim in zip((v, w), in_dims, strict=True)
    )
    return magnitudes(v, w), (0, 0)
