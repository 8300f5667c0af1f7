"""Soft orthogonality of weights, ``orthogonality``."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

import topoloss
from topoloss_plugins.scales import power_of_two


class Orthogonality(topoloss.Regulariser):
    r"""How far the neurons' weight vectors are from orthonormal, :math:`\|W W^T - I\|_F^2`.

    The rows of W are the weights of a layer's neurons, or the filters of a convolution, flattened.
    The value is the sum over the layers.

    Notes
    -----
    The paper writes filters as columns, hence :math:`\|W^T W - I\|_F^2`: this is its soft
    orthogonality, "SO", of section 3.1, without the weight. A layer with more neurons than inputs
    cannot have orthonormal rows: its value is at least the difference of these numbers. Biases do
    not count. For complex weights, W^T is the conjugate transpose. It takes O(fan_in n^2) time and
    O(n^2) memory for n neurons.

    References
    ----------
    Bansal, Chen, Wang, "Can we gain more from orthogonality regularizations in training deep
    CNNs?", NeurIPS 2018, arXiv 1810.09102.

    Examples
    --------
    >>> import torch, topoloss
    >>> weights = {"hidden": torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])}
    >>> topoloss.regulariser("orthogonality")(weights)  # W W^T is diag(1, 4): (4 - 1)^2
    tensor(9.)
    """

    source = "weights"

    # The options of Regulariser are about activations, and this one takes weights.
    def __init__(self) -> None:
        super().__init__()

    def compute(self, weights: Mapping[str, Tensor]) -> Tensor:
        if not weights:
            raise topoloss.InputError(
                "no weights were given; expected those of at least one layer."
            )
        values = [_of_layer(w) for w in weights.values()]
        return torch.stack([value.to(values[0].device) for value in values]).sum()


def _of_layer(weight: Tensor) -> Tensor:
    rows = weight.flatten(1).to(torch.promote_types(weight.dtype, torch.float32))
    # Products of huge weights would overflow even where their sum does not.
    unit = power_of_two(torch.cat((rows.abs().flatten(), rows.new_ones(1).abs())).amax())
    products = rows / unit @ (rows / unit).mH
    identity = torch.eye(len(rows), dtype=rows.dtype, device=rows.device) / unit / unit
    off = products - identity
    return (off * off.conj()).real.sum() * unit * unit * unit * unit


@topoloss.hookimpl
def topoloss_regularisers() -> dict[str, type[topoloss.Regulariser]]:
    return {"orthogonality": Orthogonality}
