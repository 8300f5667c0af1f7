"""Covariances, and a base class of the regularisers that use them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

import topoloss
from topoloss_plugins.scales import power_of_two

__all__ = ["LayerByLayer", "covariances", "covariances_of", "off_diagonal_squares", "variances"]


class LayerByLayer(topoloss.Regulariser):
    """A regulariser of the neurons of one layer; for a network, summed over its layers."""

    def of_layers(self, layers: Mapping[str, Tensor]) -> Tensor:
        self.check_layers(layers)
        values = [self(x) for x in layers.values()]
        return torch.stack([value.to(values[0].device) for value in values]).sum()


def covariances(x: Float[Tensor, "samples n"], *, degrees: int = 0) -> Float[Tensor, "n n"]:
    """Covariances of all pairs of neurons, divided by the number of samples less `degrees`."""
    rows, units = _centred(x)
    return rows.mT @ rows / (len(x) - degrees) * units * units[:, None]


def variances(x: Float[Tensor, "samples n"], *, degrees: int = 0) -> Float[Tensor, " n"]:
    """Variances of all neurons, divided by the number of samples less `degrees`."""
    rows, units = _centred(x)
    # One factor gets its unit back before the sum. The gradient of a huge constant neuron is then 0
    # times something finite; with both units at the end it would be 0 times infinity.
    return (rows * (rows * units)).sum(0) / (len(x) - degrees) * units


def covariances_of(
    x: Float[Tensor, "samples n"], pairs: Int[Tensor, "pairs 2"]
) -> Float[Tensor, " pairs"]:
    """Covariances of some pairs of neurons, divided by the number of samples."""
    rows, units = _centred(x)
    i, j = pairs.unbind(1)
    first, second = (rows.mT.index_select(0, ends) for ends in (i, j))
    return (first * second).mean(1) * units[i] * units[j]


def _centred(x: Tensor) -> tuple[Float[Tensor, "samples n"], Float[Tensor, " n"]]:
    """Subtract each neuron's mean over the samples, in at least float32.

    Each neuron is divided by a unit of its own, near its largest magnitude; the units are returned
    as well. So nothing overflows before a covariance itself does, and a large neuron does not cost
    a small one its digits.
    """
    if len(x) < 2:
        raise topoloss.InputError(
            f"activations of shape {tuple(x.shape)} hold one sample; a covariance needs at least "
            "2. Use a larger batch, or drop a last batch of one (drop_last=True)."
        )
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    units = power_of_two(x.abs().amax(0))
    rows = x / units
    return rows - rows.mean(0), units


def off_diagonal_squares(matrix: Float[Tensor, "n n"]) -> Float[Tensor, ""]:
    """Sum the squares of a matrix's entries off its diagonal."""
    diagonal = torch.eye(len(matrix), dtype=torch.bool, device=matrix.device)
    return torch.where(diagonal, 0, matrix).square().sum()
