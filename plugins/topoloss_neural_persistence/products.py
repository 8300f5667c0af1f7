"""The product of matrices with the maximum in place of sums, and the minimum of products."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["max_min_product"]


def max_min_product(a: Float[Tensor, "n h"], b: Float[Tensor, "h m"]) -> Float[Tensor, "n m"]:
    """Return ``max over k of min(a[i, k], b[k, j])``, on the CPU, in the memory of the result.

    Examples
    --------
    >>> import torch
    >>> from topoloss_neural_persistence.products import max_min_product
    >>> max_min_product(torch.tensor([[1.0, 5.0]]), torch.tensor([[3.0, 4.0], [2.0, 9.0]]))
    tensor([[2., 5.]])
    """
    from topoloss_neural_persistence.loops import product

    return torch.from_numpy(product(a.contiguous().numpy(), b.contiguous().numpy()))
