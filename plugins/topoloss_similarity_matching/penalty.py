"""The regulariser ``similarity-matching``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

import topoloss

__all__ = ["Activation", "SimilarityMatching"]

Activation: TypeAlias = Literal["linear", "relu", "tanh"]
Masks: TypeAlias = Mapping[str, Tensor]


class SimilarityMatching(topoloss.Regulariser):
    r"""Make similarities of samples in each layer match those in the layer before.

    Let T be the number of samples, x the inputs of a layer and r its outputs, and
    :math:`M = X^T R / T` and :math:`Q = R^T R / T`. The value of the layer is

    .. math:: -\sum c^W M^2 + \tfrac12 \sum c^L Q^2 + \tfrac2T \sum F(r)

    Where all connections c are 1, this is the cost
    :math:`\frac{1}{2T^2} \sum_{tt'} (x_t \cdot x_{t'} - r_t \cdot r_{t'})^2
    + \frac2T \sum F(r)` without the part that depends on the inputs alone. The value of layer p
    of P is multiplied by :math:`\gamma^{p - P}`.

    Parameters
    ----------
    activation : {"linear", "relu", "tanh"}
        The activation of the outputs. F is 0 for linear and rectified units; for tanh it is the
        integral of artanh(r) - r.
    gamma : float
        Above 0. Each layer counts gamma times as much as the layer before it, and the last counts
        once. With a gamma below 1 early layers count most.
    feedforward : dict of str to Tensor, shape (outputs, inputs), optional
        The connections c^W by layer, from 0 to 1. By default each output is connected to all
        inputs.
    lateral : dict of str to Tensor, shape (outputs, outputs), optional
        The connections c^L by layer, from 0 to 1. By default all outputs are connected.
    on_nonfinite, check_finite
        See :class:`topoloss.Regulariser`.

    Notes
    -----
    Each layer is compared with the one before it: :func:`topoloss.attach` gives the model's input
    first, and then the layers in the order in which they begin. In all layers but the last, Q
    counts :math:`1 + \gamma` times: once for the outputs of the layer, and :math:`\gamma` times for
    the inputs of the next layer.

    A single tensor, given without layers, counts as outputs for inputs of zero: M is 0.

    The value may be negative. Without masks, projections on principal directions give the least
    value of one linear layer: see :func:`topoloss_similarity_matching.least_similarity_cost`.

    **tanh.** F is infinite below -1 and above 1. For units that are saturated up to rounding it has
    its value at the limit, and no gradient.

    References
    ----------
    Pehlevan, Hu, Chklovskii, "A Hebbian/anti-Hebbian neural network for linear subspace learning",
    Neural Computation 27 (2015); Obeid, Ramambason, Pehlevan, "Structured and deep similarity
    matching via structured and deep Hebbian networks", NeurIPS 2019.

    Examples
    --------
    >>> import torch, topoloss
    >>> reg = topoloss.regulariser("similarity-matching")
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    >>> reg.of_layers({"(input)": x, "hidden": x[:, 1:]})  # M^2 is 4 and Q^2 is 4
    tensor(-2.)
    """

    inputs = True

    def __init__(
        self,
        *,
        activation: Activation = "linear",
        gamma: float = 1.0,
        feedforward: Masks | None = None,
        lateral: Masks | None = None,
        on_nonfinite: Literal["raise", "skip"] = "raise",
        check_finite: bool | None = None,
    ) -> None:
        super().__init__(on_nonfinite=on_nonfinite, check_finite=check_finite)
        topoloss.check_choice("activation", activation, ("linear", "relu", "tanh"))
        topoloss.check_number("gamma", gamma, above=0)
        self.activation = activation
        self.gamma = gamma
        self.feedforward = _checked_masks("feedforward", feedforward)
        self.lateral = _checked_masks("lateral", lateral)

    def compute(self, x: Float[Tensor, "samples n"]) -> Float[Tensor, ""]:
        r = _at_least_float32(x)
        return self._outputs(r, None, 1.0)

    def of_layers(self, layers: Mapping[str, Tensor]) -> Tensor:
        self.check_layers(layers)
        shapes = ", ".join(f"{name!r}: {tuple(x.shape)}" for name, x in layers.items())
        if len(layers) < 2:
            raise topoloss.InputError(
                f"{{{shapes}}} was given; expected the inputs, and after them at least one layer."
            )
        if len({len(x) for x in layers.values()}) > 1:
            raise topoloss.InputError(
                f"the layers have differing numbers of samples: {shapes}. Expected the same number "
                "in each; choose layers that share their samples."
            )
        self._check_names(list(layers)[1:])
        device = next(iter(layers.values())).device
        widths = [x.shape[1] for x in layers.values()]
        joined = torch.cat([_at_least_float32(x).to(device) for x in layers.values()], 1)
        joined, finite = self.guard(joined)
        with torch.autocast(device.type, enabled=False):
            value = self._value(dict(zip(layers, torch.split(joined, widths, 1), strict=True)))
        return value if finite is None else torch.where(finite, value, torch.zeros_like(value))

    def _value(self, layers: Mapping[str, Tensor]) -> Tensor:
        before, *names = layers
        total = []
        for behind, name in zip(range(len(names) - 1, -1, -1), names, strict=True):
            x, r = layers[before], layers[name]
            shared = (x / len(x)).mT @ r
            mask = _mask(self.feedforward, "feedforward", name, shared.mT)
            value = -_masked_squares(shared.mT, mask)
            # The outputs of every layer but the last are also the inputs of the next.
            value = value + self._outputs(r, name, 1 + self.gamma if behind else 1.0)
            total.append(value * self.gamma**-behind)
            before = name
        return torch.stack(total).sum()

    def _outputs(self, r: Tensor, name: str | None, times: float) -> Tensor:
        """Return the part of a layer's value that depends on its outputs alone."""
        among = (r / len(r)).mT @ r
        mask = None if name is None else _mask(self.lateral, "lateral", name, among)
        value = times * _masked_squares(among, mask) / 2
        return value if self.activation != "tanh" else value + 2 * _of_tanh(r).sum(1).mean()

    def _check_names(self, names: list[str]) -> None:
        for option, masks in (("feedforward", self.feedforward), ("lateral", self.lateral)):
            unknown = [name for name in masks if name not in names]
            if unknown:
                raise topoloss.InputError(
                    f"{option} holds masks of {unknown}; the layers after the input are {names}."
                )

    def extra_repr(self) -> str:
        masks = "".join(
            f", {option}={list(masks)}"
            for option, masks in (("feedforward", self.feedforward), ("lateral", self.lateral))
            if masks
        )
        return f"activation={self.activation!r}, gamma={self.gamma}{masks}"


def _checked_masks(option: str, masks: object) -> dict[str, Tensor]:
    if masks is None:
        return {}
    if not isinstance(masks, Mapping) or not all(
        isinstance(mask, Tensor) and mask.ndim == 2 for mask in masks.values()
    ):
        raise topoloss.OptionError(
            f"{option} of type {type(masks).__name__} was given; expected a mapping from names of "
            "layers to masks, tensors of two axes. A mapping cannot be written in a name: make "
            f"topoloss.regulariser('similarity-matching', {option}={{...}}), and pass that."
        )
    for name, mask in masks.items():
        if not ((mask >= 0) & (mask <= 1)).all():
            raise topoloss.OptionError(
                f"the mask of {option} for layer {name!r} holds numbers outside of 0 to 1; "
                "expected how much each connection counts, from 0 to 1."
            )
    return dict(masks)


def _mask(masks: Mapping[str, Tensor], option: str, name: str, like: Tensor) -> Tensor | None:
    mask = masks.get(name)
    if mask is None:
        return None
    if mask.shape != like.shape:
        raise topoloss.InputError(
            f"{option} holds a mask of shape {tuple(mask.shape)} for layer {name!r}; expected "
            f"{tuple(like.shape)}."
        )
    return mask.to(like)


def _masked_squares(x: Tensor, mask: Tensor | None) -> Tensor:
    squares = x.square()
    return squares.sum() if mask is None else (mask * squares).sum()


def _of_tanh(r: Tensor) -> Tensor:
    """The integral of artanh(r) - r from 0 to r."""
    outside = r.detach().abs() > 1
    inner = 1 - torch.finfo(r.dtype).eps
    r = r.clamp(-inner, inner)
    entropy = ((1 + r) * torch.log1p(r) + (1 - r) * torch.log1p(-r)) / 2
    return torch.where(outside, torch.inf, entropy - r.square() / 2)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
