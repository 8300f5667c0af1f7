"""Filtrations by the angle between neurons: ``correlation``, ``signed-correlation``, ``cosine``."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

import topoloss
from topoloss_plugins.scales import power_of_two


class _UnitVectors(topoloss.Filtration):
    """Filtrations of unit vectors, in which a constant neuron is the zero vector."""

    def __init__(self, *, constant: Literal["independent", "drop"] = "independent") -> None:
        super().__init__()
        topoloss.check_choice("constant", constant, ("independent", "drop"))
        self.constant = constant

    def edge_weights(
        self, v: Float[Tensor, "n d"], i: Int[Tensor, " e"], j: Int[Tensor, " e"]
    ) -> Float[Tensor, " e"]:
        if self.constant == "independent":
            return super().edge_weights(v, i, j)
        live = (v.detach() != 0).any(-1).to(v.dtype)
        return live.index_select(0, i) * live.index_select(0, j)

    def extra_repr(self) -> str:
        return f"constant={self.constant!r}"


class _Angular(_UnitVectors):
    """``1 - |v_i . v_j|``, or an increasing function of it."""

    order = "abs_dot_descending"

    def __init__(
        self,
        *,
        constant: Literal["independent", "drop"] = "independent",
        form: Literal["linear", "squared", "root"] = "linear",
    ) -> None:
        super().__init__(constant=constant)
        topoloss.check_choice("form", form, ("linear", "squared", "root"))
        self.form = form

    def edge_values(
        self, v: Float[Tensor, "n d"], i: Int[Tensor, " e"], j: Int[Tensor, " e"]
    ) -> Float[Tensor, " e"]:
        if self.form == "root":
            return self._in_form(_one_minus_magnitude(v, i, j))
        return self._in_form(_clamp_below_zero(1 - _dot(v, i, j).abs()))

    @torch.no_grad()
    def pairwise(self, v: Float[Tensor, "n d"]) -> Float[Tensor, "n n"]:
        return self._in_form((1 - (v @ v.T).abs()).clamp(min=0))

    def _in_form(self, linear: Tensor) -> Tensor:
        if self.form == "linear":
            return linear
        squared = linear * (2 - linear)  # 1 - c^2
        if self.form == "squared":
            return squared
        # Between copies only rounding errors are left, and their direction has no meaning.
        copies = squared.detach() <= (16 * torch.finfo(squared.dtype).eps) ** 2
        return torch.where(copies, 0, torch.where(copies, 1, squared).sqrt())

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.form == "linear" else f", form={self.form!r}")


class Correlation(_Angular):
    r"""Correlation dissimilarity ``1 - |r|`` of neurons, in [0, 1].

    ``r`` is Pearson's correlation of two neurons' activations over the samples.

    Parameters
    ----------
    constant : {"independent", "drop"}
        How constant neurons count. A constant neuron correlates 0 with everything by definition;
        ``"drop"`` moreover gives its edges weight 0 in the loss, so that a loss cannot be lowered
        by making neurons constant.
    form : {"linear", "squared", "root"}
        ``1 - |r|``, ``1 - r^2`` or ``sqrt(1 - r^2)``. They ascend together, so all three have the
        same spanning tree; only the values differ. The square has a small gradient at weak
        correlations. The root is the sine of the angle between two neurons. It has a kink where
        neurons are copies, with gradient 0 there, and is steepest next to it.

    Notes
    -----
    **Constant.** A neuron is constant if its standard deviation is at most eps times its
    root mean square, where eps is that of the activations' dtype as given, or if every
    activation is smaller than the smallest normal number of the dtype used in the
    computation. It gets ``r = 0`` with everything and a zero gradient.

    **Precision.** Half-precision activations are promoted to float32 first. Each neuron
    is scaled by a power of two before it is squared, so neither tiny nor huge activations
    under- or overflow, and centred twice, which removes the rounding error of the first
    mean. The gradient of a neuron grows as its spread shrinks, and can overflow in float16.

    **Gradient.** Where ``r`` is 0 the gradient is 0 (that of ``torch.abs``). Where
    ``|r|`` is 1, up to rounding, the value is clamped at 0 and the gradient, which vanishes
    there, is passed through. Values are unchanged by ``x -> a x + b`` with a non-zero.

    **"drop" and exact zeros.** The tree may connect two neurons whose correlation is exactly
    0 through a constant neuron, as those edges have the same value; they have weight 0.

    References
    ----------
    Ballester, Casacuberta, Escalera, "Decorrelating neurons using persistence",
    PMLR 228 (2024), section 3.

    Examples
    --------
    >>> import torch, topoloss
    >>> filtration = topoloss.filtration("correlation")
    >>> x = torch.tensor([[1.0, -1.0, 3.0], [2.0, -2.0, 3.0], [3.0, -3.0, 3.0]])
    >>> filtration.pairwise(filtration.vertices(x))[0].round(decimals=6)
    tensor([0., 0., 1.])
    """

    def vertices(self, x: Float[Tensor, "samples n"]) -> Float[Tensor, "n d"]:
        """Centre and normalise each neuron; a constant one becomes the zero vector.

        Parameters
        ----------
        x : Tensor, shape (samples, n)
            At least two samples; with two, every correlation is 1 or -1.

        Returns
        -------
        Tensor, shape (n, samples)
        """
        return _centred_unit_rows(x)


class OneMinusDot(topoloss.Filtration):
    """``1 - v_i . v_j`` of unit vectors."""

    order = "dot_descending"

    def edge_values(
        self, v: Float[Tensor, "n d"], i: Int[Tensor, " e"], j: Int[Tensor, " e"]
    ) -> Float[Tensor, " e"]:
        return _clamp_below_zero(1 - _dot(v, i, j))

    @torch.no_grad()
    def pairwise(self, v: Float[Tensor, "n d"]) -> Float[Tensor, "n n"]:
        return (1 - v @ v.T).clamp(min=0)


class SignedCorrelation(_UnitVectors, OneMinusDot):
    """Signed correlation dissimilarity ``1 - r`` of neurons, in [0, 2].

    Neurons with correlation -1 are the farthest apart, whereas ``correlation`` treats them as
    copies.

    Parameters
    ----------
    constant : {"independent", "drop"}
        As for ``correlation``: ``r`` of a constant neuron is 0, so its edges have the value 1.

    Notes
    -----
    Constant neurons and precision are as for ``correlation``. The value has no kink, and the
    gradient vanishes where ``r`` is 1 or -1. Values are unchanged by ``x -> a x + b`` with a
    positive.

    Examples
    --------
    >>> import torch, topoloss
    >>> filtration = topoloss.filtration("signed-correlation")
    >>> x = torch.tensor([[1.0, -1.0, 3.0], [2.0, -2.0, 3.0], [3.0, -3.0, 3.0]])
    >>> filtration.pairwise(filtration.vertices(x))[0].round(decimals=6)
    tensor([0., 2., 1.])
    """

    def vertices(self, x: Float[Tensor, "samples n"]) -> Float[Tensor, "n d"]:
        """Centre and normalise each neuron; a constant one becomes the zero vector."""
        return _centred_unit_rows(x)


class Cosine(_Angular):
    """Cosine dissimilarity ``1 - |cos|`` of neurons, in [0, 1]: correlation without centring.

    Parameters
    ----------
    constant : {"independent", "drop"}
        As for ``correlation``, for neurons that are zero in every sample.
    form : {"linear", "squared", "root"}
        ``1 - |cos|``, ``1 - cos^2`` or ``sqrt(1 - cos^2)``; as for ``correlation``.

    Examples
    --------
    >>> import torch, topoloss
    >>> filtration = topoloss.filtration("cosine")
    >>> v = filtration.vertices(torch.tensor([[1.0, 1.0], [0.0, 1.0]]))
    >>> filtration.edge_values(v, torch.tensor([0]), torch.tensor([1]))
    tensor([0.2929])
    """

    def vertices(self, x: Float[Tensor, "samples n"]) -> Float[Tensor, "n d"]:
        """Normalise each neuron; a zero one stays the zero vector. Shape (n, samples)."""
        rows, negligible = _scaled_rows(x)
        return _unit_rows(rows, _squares(rows), negligible)


def _centred_unit_rows(x: Float[Tensor, "samples n"]) -> Float[Tensor, "n d"]:
    return _unit_rows(*centred_rows(x))


def centred_rows(
    x: Float[Tensor, "samples n"],
) -> tuple[Float[Tensor, "n samples"], Float[Tensor, " n"], Bool[Tensor, " n"]]:
    """Return each neuron's centred row, its sum of squares, and whether the neuron is constant.

    Rows are scaled as `_scaled_rows` does.
    """
    if x.shape[0] < 2:
        raise topoloss.InputError(
            f"{x.shape[1]} vertices of one value each were given; a correlation needs at least 2 "
            "values of each, and is informative from 3. If neurons are the vertices, the batch "
            "holds one sample: use a larger batch, or drop a last batch of one (drop_last=True). "
            "If samples are the vertices, the layer has one neuron: choose one that has more."
        )
    rows, negligible = _scaled_rows(x)
    centred = rows - rows.mean(-1, keepdim=True)
    # The mean that is left is a rounding error; autograd treats it as a constant.
    centred = centred - centred.detach().mean(-1, keepdim=True)
    squares = _squares(centred)
    eps = torch.finfo(x.dtype).eps
    constant = negligible | (squares.detach() <= eps**2 * _squares(rows.detach()))
    return centred, squares, constant


def _dot(v: Tensor, i: Tensor, j: Tensor) -> Tensor:
    # index_select: its backward is a plain index_add, several times faster than that of v[i].
    return (v.index_select(0, i) * v.index_select(0, j)).sum(-1)


def _one_minus_magnitude(v: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """``1 - |v_i . v_j|`` of unit vectors, to all digits even where it is small."""
    first, second = v.index_select(0, i), v.index_select(0, j)
    dot = (first * second).sum(-1)
    sign = torch.where(dot.detach() < 0, -1, 1)[:, None]
    half_of_squared_distance = (first - sign * second).square().sum(-1) / 2
    return torch.where(dot.detach().abs() > 0.5, half_of_squared_distance, 1 - dot.abs())


def _scaled_rows(x: Tensor) -> tuple[Float[Tensor, "n samples"], Bool[Tensor, " n"]]:
    """Scale rows to a largest magnitude near 1, in at least float32, and mark negligible ones.

    The scale is a power of two, so that nothing is rounded. Autograd treats it as a constant, as
    unit vectors do not depend on it.
    """
    # This slice holds all of x. Its gradient has the memory layout of x; that of a transpose has
    # not, which slows the rest of the backward pass.
    x = x.narrow(0, 0, x.shape[0])
    rows = x.T.to(torch.promote_types(x.dtype, torch.float32)).contiguous()
    largest = rows.detach().abs().amax(-1)
    negligible = largest < torch.finfo(rows.dtype).tiny
    return rows / power_of_two(torch.where(negligible, 1, largest))[:, None], negligible


def _unit_rows(
    rows: Float[Tensor, "n d"], squares: Float[Tensor, " n"], zero: Bool[Tensor, " n"]
) -> Float[Tensor, "n d"]:
    """Scale rows to norm 1; those marked `zero` become 0, with a zero gradient."""
    # Guard before the division: masking a NaN after it would still make the gradient NaN.
    inverse_norm = torch.where(zero, 0, 1 / torch.where(zero, 1, squares).sqrt())
    return rows * inverse_norm[:, None]


def _squares(rows: Tensor) -> Tensor:
    return (rows * rows).sum(-1)


def _clamp_below_zero(values: Tensor) -> Tensor:
    """Clamp values that rounding made negative at 0, keeping their gradient."""
    return values - values.detach().clamp(max=0)


@topoloss.hookimpl
def topoloss_filtrations() -> dict[str, type[topoloss.Filtration]]:
    return {
        "correlation": Correlation,
        "signed-correlation": SignedCorrelation,
        "cosine": Cosine,
    }
