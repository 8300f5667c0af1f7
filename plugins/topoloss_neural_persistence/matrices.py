"""What both regularisers share: a matrix for each layer, and the norm of a diagram."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

import topoloss

__all__ = [
    "Convolution",
    "entries",
    "largest_magnitude",
    "matrices",
    "norm_of_persistence",
    "relative_to",
]

Convolution = Literal["raise", "patch"]


def matrices(
    weights: Mapping[str, Tensor], convolution: Convolution, remedy: str
) -> dict[str, Tensor]:
    """Return the weight of each layer as a matrix (outputs, inputs), in at least float32.

    `remedy` is the advice in the error for a convolution.

    Raises
    ------
    InputError
        If there is no layer, if a value is not a weight, or for a convolution if `convolution` is
        ``"raise"``.
    NonFiniteError
        If weights hold NaN or infinity; the message names their layers.
    """
    if not isinstance(weights, Mapping):
        raise topoloss.InputError(
            f"something of type {type(weights).__name__} was given; expected a mapping from names "
            "to weights (outputs, inputs), such as {'hidden': layer.weight}."
        )
    if not weights:
        raise topoloss.InputError("no layer was given; expected the weight of at least one.")
    found = {name: _matrix(name, w, convolution, remedy) for name, w in weights.items()}
    topoloss.outside(partial(_check_finite, list(found)), *(w.detach() for w in found.values()))
    return found


def _check_finite(names: Sequence[str], *matrices: Tensor) -> tuple[()]:
    # A finite sum proves that every entry is finite; another sum may only have overflowed.
    bad = [
        name
        for name, w in zip(names, matrices, strict=True)
        if not torch.isfinite(w.sum()) and not torch.isfinite(w).all()
    ]
    if bad:
        raise topoloss.NonFiniteError(
            f"the weights of {bad} hold NaN or infinity; lower the learning rate or the penalty's "
            "weight."
        )
    return ()


def _matrix(name: str, w: Tensor, convolution: Convolution, remedy: str) -> Tensor:
    if not isinstance(w, Tensor):
        raise topoloss.InputError(
            f"layer {name!r} is something of type {type(w).__name__}; expected its weight, a "
            "tensor of shape (outputs, inputs)."
        )
    if w.ndim < 2 or 0 in w.shape or not w.is_floating_point():
        raise topoloss.InputError(
            f"layer {name!r} has a weight of shape {tuple(w.shape)} and {w.dtype}; expected "
            "floating-point numbers of shape (outputs, inputs), at least one of each."
        )
    if w.layout != torch.strided or w.is_meta:
        what = "no values (meta)" if w.is_meta else f"the layout {w.layout}"
        raise topoloss.InputError(f"layer {name!r} has a weight of {what}; expected a dense one.")
    if w.ndim > 2 and convolution == "raise":
        raise topoloss.InputError(
            f"layer {name!r} has a weight of shape {tuple(w.shape)}: a convolution, whose graph "
            f"depends on the size of its input. {remedy} Or pass its matrix to of_layers: "
            "topoloss_neural_persistence.unrolled(module, shape)."
        )
    return w.flatten(1).to(torch.promote_types(w.dtype, torch.float32))


def entries(
    matrix: Float[Tensor, "rows columns"], i: Int[Tensor, " e"], j: Int[Tensor, " e"]
) -> Float[Tensor, " e"]:
    """Return entries of a matrix; their gradient is a plain and deterministic index_add."""
    return matrix.reshape(-1).index_select(0, i * matrix.shape[1] + j)


def largest_magnitude(x: Tensor) -> Float[Tensor, ""]:
    """Return the largest magnitude, with the gradient of one entry that attains it."""
    flat = x.reshape(-1)
    ends = torch.stack((flat.detach().argmax(), flat.detach().argmin()))
    highest, lowest = flat.index_select(0, ends).abs().unbind()
    return torch.where(highest.detach() >= lowest.detach(), highest, lowest)


def relative_to(largest: Float[Tensor, ""], x: Tensor) -> Tensor:
    """Divide `x` by `largest`; if `largest` is 0, all of `x` is 0 and stays as it is."""
    return x / torch.where(largest == 0, 1, largest)


def norm_of_persistence(
    deaths: Float[Tensor, " e"], p: float, normalised: bool, essential: bool
) -> Float[Tensor, ""]:
    """Return the p-norm of 1 minus the deaths: every vertex is born at 1."""
    persistence = 1 - deaths
    if essential:
        persistence = torch.cat((persistence, persistence.new_ones(1)))
    norm: Tensor = (
        _norm_between_1_and_2(persistence, p)
        if 1 < p < 2
        else torch.linalg.vector_norm(persistence, p)
    )
    return norm / len(deaths) ** (1 / p) if normalised else norm


def _norm_between_1_and_2(x: Float[Tensor, " e"], p: float) -> Float[Tensor, ""]:
    """Leave zeros out: there the second derivative of a power below 2 is infinite.

    The heaviest edge always has persistence 0, so the infinity would be multiplied by a derivative
    of 0 and give NaN.
    """
    positive = x.detach() > 0
    powers = torch.where(positive, torch.where(positive, x, 1).pow(p), 0 * x).sum()
    some = positive.any()
    return torch.where(some, torch.where(some, powers, 1).pow(1 / p), powers)
