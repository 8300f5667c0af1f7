"""What the shipped filtrations have to give on any activations, by numpy and scipy.

Before numpy and scipy see a column, it is shifted and scaled such that nothing overflows,
underflows or cancels in their float64. No correlation changes, and nothing is rounded that
matters: the scale is a power of two, and the shift is the column's own first entry.
"""

from typing import NamedTuple

import numpy as np
import oracles
import torch

EPS64 = 2.0**-52


class Expected(NamedTuple):
    """A matrix of dissimilarities.

    Attributes
    ----------
    matrix : ndarray, shape (n, n)
    atol : float
        Bound of the rounding error of one entry, ours and the oracle's together.
    doubtful : bool
        Rounding may decide whether a neuron is constant, so that the matrix says nothing.
    """

    matrix: np.ndarray
    atol: float
    doubtful: bool


def eps(x):
    """Of the dtype in which correlations of `x` are computed."""
    return torch.finfo(torch.promote_types(x.dtype, torch.float32)).eps


def cosine(x):
    columns, _, negligible = _scaled(x)
    matrix = oracles.MATRICES["cosine"](np.where(negligible, 0, columns))
    return Expected(matrix, _rounding(len(x), eps(x)) + _rounding(len(x), EPS64), False)


def correlation(x):
    """Pearson's, of columns that are constant by the definition in the documentation or are not."""
    samples, (columns, _, negligible) = len(x), _scaled(x)
    shifted = columns - columns[0]
    deviation, size = np.std(shifted, 0), np.sqrt(np.mean(columns**2, 0))
    relative = deviation / np.where(negligible, 1, size) / torch.finfo(x.dtype).eps
    constant = negligible | (relative <= 1)
    # The mean is off by up to a rounding for each sample. The second centring takes that error
    # out; what stays is the rounding of the entries that the error had made larger.
    norm = np.where(constant, np.inf, deviation * np.sqrt(samples))
    enlarged = (samples**1.5 * eps(x) / 2 / norm).max()
    # The mean that is left of the centred entries is orthogonal to them: only its square counts.
    mean_left = samples * eps(x) / 2 * (1 + enlarged)
    atol = _rounding(samples, eps(x)) + 2 * eps(x) * (1 + enlarged) + samples * mean_left**2
    live = _to_order_one(np.where(constant, 0, shifted))[0]
    doubtful = (~negligible & (np.abs(relative - 1) < 0.01)).any()
    oracle = _rounding(samples, EPS64) + 2 * EPS64
    return Expected(oracles.MATRICES["correlation"](live), atol + oracle, bool(doubtful))


ANGULAR = {"correlation": correlation, "cosine": cosine}


def distances(x):
    """Euclidean distances in units of a power of two near the largest entry, and this power."""
    columns, exponent = _to_order_one(oracles.as_float64(x), axis=None)
    return oracles.distances(columns), np.ldexp(1.0, exponent)


def _rounding(samples, eps):
    """Bound of the error of ``1 - |a . b|`` after vectors of `samples` entries were normalised.

    Higham, "Accuracy and Stability of Numerical Algorithms", section 3.1: half a unit of rounding
    for each entry and 3 more for each norm, and one for each entry of the product.
    """
    return (2 * (samples / 2 + 3) + samples + 1) * eps / 2


def _scaled(x):
    """Columns of largest magnitude 1/2 to 1, and which of them have no normal number."""
    a = oracles.as_float64(x)
    tiny = torch.finfo(torch.promote_types(x.dtype, torch.float32)).tiny
    return *_to_order_one(a), np.abs(a).max(0) < tiny


def _to_order_one(a, axis=0):
    largest = np.abs(a).max(axis)
    _, exponent = np.frexp(np.where(largest == 0, 1, largest))
    return np.ldexp(a, -exponent), exponent
