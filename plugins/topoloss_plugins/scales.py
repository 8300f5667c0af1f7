"""Scales to divide by before numbers are squared, so that nothing under- or overflows."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["power_of_two"]


def power_of_two(x: Tensor) -> Tensor:
    """The largest power of two that is at most x, for each x > 0; 1/2 for 0.

    Dividing or multiplying by it rounds nothing, so equal numbers stay equal.
    """
    exponent = torch.frexp(x.detach()).exponent
    return torch.ldexp(torch.ones_like(x), exponent - 1)
