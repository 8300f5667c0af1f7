"""Linear CKA of successive layers: how much each layer repeats the one before, for topoloss."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor

import topoloss

__all__ = ["CKA"]


class CKA(topoloss.Regulariser):
    """Mean linear CKA of successive layers, in [0, 1].

    Linear CKA is the cosine between the similarity matrices of two layers. The similarity matrix
    of a layer is ``x @ x.T``, where each neuron is centred. Linear CKA is 1 for layers that differ
    by a rotation and a scale.

    Notes
    -----
    **Constants.** A layer of constant neurons has CKA 0 with every other, and a zero gradient.

    **Precision.** Half-precision activations are promoted to float32.

    **Complexity.** Memory is quadratic in the samples.

    References
    ----------
    Kornblith, Norouzi, Lee, Hinton, "Similarity of neural network representations revisited",
    ICML (2019), section 3.

    Examples
    --------
    >>> import torch, topoloss
    >>> x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> cka = topoloss.regulariser("cka")
    >>> cka.of_layers({"first": x, "turned": 5 - 2 * x.flip(1)}).round(decimals=2)
    tensor(1.)
    >>> cka.of_layers({"first": x, "second": x[:, :1] * x[:, 1:]}).round(decimals=2)
    tensor(0.4700)
    """

    def of_layers(self, layers: Mapping[str, Tensor]) -> Tensor:
        shapes = [tuple(x.shape) for x in layers.values()]
        if len(shapes) < 2 or len({samples for samples, _ in shapes}) > 1:
            raise topoloss.InputError(
                f"layers of shapes {shapes} were given; expected at least two layers (samples, "
                "neurons) with the same number of samples. Choose them with layers=."
            )
        similarities = [self._similarities(x) for x in layers.values()]
        return torch.stack([(a * b).sum() for a, b in pairwise(similarities)]).mean()

    def _similarities(self, x: Tensor) -> Tensor:
        """Return the similarity matrix of the samples, of norm 1, or 0 for constant neurons."""
        x, _ = self.guard(x)  # raises for NaN and infinity
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        x = x - x[:1]  # makes constants exactly 0; subtracting a rounded mean might not
        x = x - x.mean(0)
        # Divide by the largest entry, so that products neither underflow nor overflow.
        largest = x.detach().abs().amax()
        constant = largest == 0
        x = x / torch.where(constant, 1, largest)
        with torch.autocast(x.device.type, enabled=False):
            products = x @ x.T
        norm = torch.where(constant, 1, torch.where(constant, 1, products).norm())
        return torch.where(constant, 0, products / norm)


@topoloss.hookimpl
def topoloss_regularisers() -> dict[str, type[CKA]]:
    return {"cka": CKA}
