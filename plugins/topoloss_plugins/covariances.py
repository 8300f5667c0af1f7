"""What regularisers of covariances share."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

import topoloss

__all__ = ["LayerByLayer", "centred", "covariances", "off_diagonal_squares"]


class LayerByLayer(topoloss.Regulariser):
    """A regulariser of the neurons of one layer; a network has the sum over its layers."""

    def of_layers(self, layers: Mapping[str, Tensor]) -> Tensor:
        self.check_layers(layers)
        values = [self(x) for x in layers.values()]
        return torch.stack([value.to(values[0].device) for value in values]).sum()


def centred(x: Float[Tensor, "samples n"]) -> Float[Tensor, "samples n"]:
    """Subtract each neuron's mean over the samples, in at least float32."""
    if len(x) < 2:
        raise topoloss.InputError(
            f"activations of shape {tuple(x.shape)} hold one sample; a covariance needs at least "
            "2. Use a larger batch, or drop a last batch of one (drop_last=True)."
        )
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return x - x.mean(0)


def covariances(centred: Float[Tensor, "samples n"], divisor: int) -> Float[Tensor, "n n"]:
    """Sum the products of all pairs of centred neurons, divided by a number of samples."""
    # In units near the largest magnitude nothing overflows before the covariance itself does.
    _, exponent = torch.frexp(centred.detach().abs().amax())
    unit = torch.ldexp(centred.new_ones(()), exponent)
    scaled = centred / unit
    return scaled.mT @ scaled / divisor * unit * unit


def off_diagonal_squares(matrix: Float[Tensor, "n n"]) -> Float[Tensor, ""]:
    """Sum the squares of a matrix's entries off its diagonal."""
    diagonal = torch.eye(len(matrix), dtype=torch.bool, device=matrix.device)
    return torch.where(diagonal, 0, matrix).square().sum()
