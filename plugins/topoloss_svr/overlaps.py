"""How much the singular vectors of two consecutive layers overlap, and when that is significant."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from topoloss_plugins.constants import constant
from torch import Tensor

import topoloss
from topoloss_svr.decomposition import Spectrum, check_weight, spectrum_of

__all__ = ["MOST_SIGMA", "overlaps", "overlaps_of", "positions", "significance_threshold"]

# Beyond more standard deviations the tail probability is below the smallest normal float64.
MOST_SIGMA = 37


def overlaps(
    first: Float[Tensor, "outputs inputs *kernel"],
    second: Float[Tensor, "later inputs2 *kernel2"],
) -> Float[Tensor, "n m"]:
    r"""Return the squared overlaps a of spectral neurons of two consecutive layers.

    Between fully connected layers :math:`a = (V_2^T U_1)^2` elementwise, with the right singular
    vectors of the second layer and the left ones of the first. A convolution is decomposed as a
    matrix of its output channels and the inputs of one patch; its right singular vectors then
    have an axis of positions, and a is the sum of squares over them. The inputs of a fully
    connected layer that follows a convolution are flattened channels and positions.

    Parameters
    ----------
    first, second : Tensor, shape (outputs, inputs, ...)
        Weights.

    Returns
    -------
    Tensor, shape (spectral neurons of the second, of the first)
        In [0, 1], differentiable; unchanged if a weight is multiplied by a positive number.

    Raises
    ------
    InputError
        If the definition does not cover the two layers.

    Notes
    -----
    A layer has as many spectral neurons as the smaller of its outputs and inputs. One whose
    singular value is 0 up to rounding has no direction of its own: it overlaps with nothing, and
    its gradient is 0. Where singular values are equal up to rounding, only the space that their
    singular vectors span is determined. Then a is computed from the vectors that the decomposition
    returns, and the gradient leaves out rotations within that space.

    Examples
    --------
    >>> import torch
    >>> from topoloss_svr import overlaps
    >>> first, second = torch.diag(torch.tensor([3.0, 2.0])), torch.tensor([[3.0, 4.0]])
    >>> overlaps(first, second)  # (3/5)^2 and (4/5)^2
    tensor([[0.3600, 0.6400]])
    """
    check_weight("first", first)
    check_weight("second", second)
    count = positions("second", second, "first", first)
    return overlaps_of(spectrum_of("first", first), spectrum_of("second", second), count)


def overlaps_of(first: Spectrum, second: Spectrum, count: int) -> Float[Tensor, "n m"]:
    """Return the squared overlaps of two decomposed layers, the second of `count` positions."""
    dtype = torch.promote_types(first.left.dtype, second.right.dtype)
    writes, reads = first.left.to(dtype), second.right.to(dtype)
    by_position = reads.reshape(len(writes), count, -1)
    # One position at a time: all of them at once would take `count` times the memory.
    total = torch.zeros((), dtype=dtype, device=reads.device)
    for position in range(count):
        total = total + (by_position[:, position].mT @ writes).square()
    # Rounding may give more than 1, which becomes 1 without losing its gradient.
    total = total - (total.detach() - 1).clamp(min=0)
    return torch.where(second.live[:, None] & first.live, total, 0)


def positions(name: str, second: Tensor, before: str, first: Tensor) -> int:
    """Return at how many positions the second layer sees each output of the first.

    Raises
    ------
    InputError
        If the definition does not cover the second layer, which the message names, after the
        first.
    """
    channels, inputs = first.shape[0], second.shape[1]
    if first.ndim == 2 and second.ndim > 2:
        raise topoloss.InputError(
            f"layer {name!r} is a convolution after the fully connected layer {before!r}, which "
            "the singular value representation does not define; expected a fully connected layer."
        )
    flattened = first.ndim > 2 and second.ndim == 2
    if inputs != channels and not (flattened and inputs % channels == 0):
        multiple = "a multiple of " if flattened else ""
        raise topoloss.InputError(
            f"layer {name!r} has {inputs} inputs and follows layer {before!r} of {channels} "
            f"outputs; expected {multiple}{channels}. Grouped convolutions, skip connections and "
            "reshapes between layers are not defined for the singular value representation."
        )
    return inputs // channels if flattened else second[0, 0].numel()


def significance_threshold(channels: int, positions: int = 1, *, sigma: float = 3.0) -> float:
    r"""Return the overlap that random layers exceed as rarely as a normal variable exceeds sigma.

    For independent, uniformly distributed directions, channels times positions times a
    approximately follows a :math:`\chi^2` distribution with `positions` degrees of freedom.

    Parameters
    ----------
    channels : int
        Outputs of the first layer, or its output channels.
    positions : int
        1 for a fully connected layer, the size of the kernel for a convolution, and the number of
        pixels for a fully connected layer after a convolution.
    sigma : float
        One-sided, from 0 to 37; random layers exceed 3 sigma in 0.13% of cases.

    Returns
    -------
    float
        It may exceed 1, which no overlap does: with few channels nothing is significant.

    Notes
    -----
    The exact distribution of a is Beta(positions / 2, (channels - 1) positions / 2). The
    :math:`\chi^2` distribution is its limit for many channels; with few channels the threshold is a
    little too high. Each overlap is tested alone, without a correction for multiple tests.

    Examples
    --------
    >>> from topoloss_svr import significance_threshold
    >>> round(1000 * significance_threshold(1000), 3)  # the 99.865th percentile of chi^2
    10.273
    """
    topoloss.check_number("channels", channels, whole=True, least=1)
    topoloss.check_number("positions", positions, whole=True, least=1)
    topoloss.check_number("sigma", sigma, least=0, most=MOST_SIGMA)
    tail = math.erfc(sigma / math.sqrt(2)) / 2
    return constant(_chi_squared_quantile, positions, tail) / (channels * positions)


def _chi_squared_quantile(degrees: int, tail: float) -> float:
    """What a chi-squared variable exceeds with the probability `tail`."""
    half = torch.tensor(degrees / 2, dtype=torch.float64)

    def above(quantile: float) -> float:
        return float(torch.special.gammaincc(half, torch.full_like(half, quantile / 2)))

    low, high = 0.0, 1.0
    while above(high) > tail:
        low, high = high, 2 * high
    # Each step halves the interval, and a double has 53 bits.
    for _ in range(64):
        middle = (low + high) / 2
        low, high = (middle, high) if above(middle) > tail else (low, middle)
    return high
