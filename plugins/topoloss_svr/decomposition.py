"""The singular value decomposition, with a finite gradient where singular values repeat."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from topoloss_plugins.scales import power_of_two
from torch import Tensor

import topoloss

__all__ = ["Spectrum", "check_weight", "spectrum", "spectrum_of"]

# Number of rows or columns that are converted to float64 at a time.
_BLOCK = 1024


class Spectrum(NamedTuple):
    """Singular triplets of a matrix (outputs, inputs), the largest first.

    Attributes
    ----------
    left : Tensor, shape (outputs, k)
    values : Tensor, shape (k,)
        k is the smaller of outputs and inputs.
    right : Tensor, shape (inputs, k)
    live : Tensor of bool, shape (k,)
        Whether the singular value is larger than its rounding error.
    """

    left: Float[Tensor, "outputs k"]
    values: Float[Tensor, " k"]
    right: Float[Tensor, "inputs k"]
    live: Bool[Tensor, " k"]


def check_weight(name: str, w: object) -> None:
    """Raise an `InputError` that names the layer, unless this is a weight."""
    expected = "expected floating-point numbers (outputs, inputs, ...), at least one of each"
    if not isinstance(w, Tensor):
        raise topoloss.InputError(
            f"layer {name!r} is something of type {type(w).__name__}; {expected}."
        )
    if w.ndim < 2 or 0 in w.shape or not w.is_floating_point():
        raise topoloss.InputError(
            f"layer {name!r} has a weight of shape {tuple(w.shape)} and {w.dtype}; {expected}."
        )
    if w.layout != torch.strided or w.is_meta:
        what = "no values (meta)" if w.is_meta else f"the layout {w.layout}"
        raise topoloss.InputError(f"layer {name!r} has a weight of {what}; expected a dense one.")


def spectrum_of(name: str, weight: Float[Tensor, "outputs inputs *kernel"]) -> Spectrum:
    """Decompose a weight, as a matrix (outputs, inputs of one patch), in at least float32."""
    if not torch.compiler.is_compiling():
        topoloss.outside(partial(_check_finite, name), weight.detach())
    return spectrum(weight.flatten(1).to(torch.promote_types(weight.dtype, torch.float32)))


def _check_finite(name: str, weight: Tensor) -> tuple[()]:
    if not torch.isfinite(weight).all():
        raise topoloss.NonFiniteError(
            f"the weight of layer {name!r} has no singular values, as it holds NaN or infinity; "
            "lower the learning rate or the penalty's weight."
        )
    return ()


def spectrum(matrix: Float[Tensor, "outputs inputs"]) -> Spectrum:
    """Decompose a matrix, differentiably."""
    unit = power_of_two(matrix.detach().abs().amax())
    left, values, right = _Decomposition.apply(matrix / unit)  # type: ignore[no-untyped-call]
    live = values.detach() > _rounding(matrix.shape, values.detach())
    return Spectrum(left, values * unit, right, live)


class _Decomposition(torch.autograd.Function):
    """U, S and V; gradient terms of singular values that are equal up to rounding are 0."""

    generate_vmap_rule = True

    @staticmethod
    def forward(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # _by_products needs a wider dtype: MPS lacks float64, and float64 has no wider one.
        if matrix.dtype == torch.float32 and matrix.device.type != "mps":
            return _by_products(matrix)
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        return left, values, right.mT

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor, Tensor]
    ) -> None:
        ctx.save_for_backward(*output)

    @staticmethod
    def backward(ctx: Any, of_left: Tensor, of_values: Tensor, of_right: Tensor) -> Tensor:
        u, s, v = ctx.saved_tensors
        rounding = _rounding((len(u), len(v)), s.detach())
        gaps = s - s[:, None]
        repeated = gaps.detach().abs() <= rounding
        inverse_gaps = torch.where(
            repeated, 0, 1 / torch.where(repeated, 1, gaps * (s + s[:, None]))
        )
        zero = s.detach() <= rounding
        inverse = torch.where(zero, 0, 1 / torch.where(zero, 1, s))
        in_left, in_right = u.mT @ of_left, v.mT @ of_right
        inner = (in_left - in_left.mT) * inverse_gaps * s
        inner = inner + s[:, None] * (in_right - in_right.mT) * inverse_gaps
        # Gradients on the longer side may point outside the span of its singular vectors.
        left_rest, right_rest = of_left - u @ in_left, of_right - v @ in_right
        outer = (left_rest * inverse) @ v.mT + u @ (right_rest * inverse).mT
        gradient: Tensor = outer.add(u @ (inner + torch.diag(of_values)) @ v.mT)
        return gradient


def _by_products(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Decompose a float32 matrix by its Gram matrix in float64, which is much faster than an SVD.

    Squaring halves the number of correct digits, but float64 has more than twice as many digits as
    float32, so the error is below that of an SVD in float32. If a singular value is 0 up to
    rounding, its vector on the longer side is 0.
    """
    rows, columns = matrix.shape
    if rows > columns:
        right, values, left = _by_products(matrix.mT)
        return left, values, right
    squares, vectors = torch.linalg.eigh(_products(matrix))
    values = squares.flip(0).clamp(min=0).sqrt().to(matrix.dtype)
    left = vectors.flip(1)
    zero = values <= _rounding(matrix.shape, values)
    right = torch.where(zero, 0, _unit_images(matrix, left))
    return left.to(matrix.dtype), values, right


def _unit_images(matrix: Tensor, vectors: Tensor) -> Tensor:
    """Return the columns of ``matrix.mT @ vectors``, computed in float64, divided by their norms.

    In float32 short columns would lose digits, and the columns would not be orthogonal.
    """
    parts, squares = [], torch.zeros_like(vectors[0])
    for first in range(0, matrix.shape[1], _BLOCK):
        part = matrix[:, first : first + _BLOCK].double().mT @ vectors
        squares = squares + part.square().sum(0)
        parts.append(part.to(matrix.dtype))
    inverse = torch.where(squares == 0, 1, squares).rsqrt()
    return torch.cat(parts) * inverse.to(matrix.dtype)


def _products(matrix: Tensor) -> Tensor:
    """Return ``matrix @ matrix.mT`` in float64; only blocks of the lower triangle are filled."""
    rows = len(matrix)
    blocks = [matrix[first : first + _BLOCK].double() for first in range(0, rows, _BLOCK)]
    wide = []
    for k, block in enumerate(blocks):
        strip = torch.cat([block @ other.mT for other in blocks[: k + 1]], 1)
        wide.append(torch.nn.functional.pad(strip, (0, rows - strip.shape[1])))
    return torch.cat(wide)


def _rounding(shape: tuple[int, ...], values: Tensor) -> Tensor:
    """Return the error that rounding may cause in singular values."""
    largest = values.amax()
    return max(shape) * torch.finfo(values.dtype).eps * largest
