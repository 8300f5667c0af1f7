"""Ways to one T1 forward and backward, and the matrix product that bounds them."""

from __future__ import annotations

from collections.abc import Callable

import gph
import numpy as np
import torch
from torch import Tensor

import topoloss


def gram_product(x: Tensor) -> Callable[[], Tensor]:
    """The product of the normalised neurons alone, forward: the physical limit."""
    filtration = topoloss.filtration("correlation")
    v = filtration.vertices(x).detach()
    return lambda: v @ v.T


def topoloss_t1(x: Tensor) -> Callable[[], Tensor]:
    """Forward and backward of ``topoloss.regulariser("t1")``."""
    regulariser = topoloss.regulariser("t1")
    return lambda: _step(regulariser, x)


def paper_t1(x: Tensor) -> Callable[[], Tensor]:
    """Forward and backward the paper's way: the differentiable matrix of all
    dissimilarities, giotto-ph with generators, and a gather."""
    return lambda: _step(_paper_value, x)


def _paper_value(x: Tensor) -> Tensor:
    distances = 1 - torch.corrcoef(x.T).abs()
    array = distances.detach().numpy()
    # giotto-ph asks for a symmetric matrix with a zero diagonal and no negative rounding.
    array = np.maximum(array, array.T).clip(min=0)
    np.fill_diagonal(array, 0)
    found = gph.ripser_parallel(
        array, metric="precomputed", maxdim=0, n_threads=2, return_generators=True
    )
    edges = torch.from_numpy(found["gens"][0][:, 1:]).long()
    return -distances[edges[:, 0], edges[:, 1]].sum()


def _step(value_of: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x.grad = None
    value = value_of(x)
    value.backward()
    return value.detach()
