"""Activations that filtrations and regularisers are tried on."""

from __future__ import annotations

import torch

from topoloss.testing import examples
from topoloss.testing.examples import Example

__all__ = ["LARGE", "generic", "large", "special"]

# Numbers of neurons: odd and even, a power of two, and two beyond any small block.
LARGE = (41, 64, 321, 322)


def generic(seed: int) -> Example:
    """Return few activations without ties or kinks, small enough for finite differences."""
    return examples.generic(samples=7, neurons=4, seed=seed)


def large(seed: int) -> list[Example]:
    """Return many neurons with few samples, and few neurons with many samples."""
    return [*(examples.many(n, seed=seed) for n in LARGE), examples.many(6, 130, seed)]


def special() -> list[Example]:
    """Return ties, duplicates, constants and the smallest sizes."""
    zeros, ones = (torch.full((5, 3), value, dtype=torch.float64) for value in (0.0, 1.0))
    return [
        examples.two_clusters(),
        examples.duplicated(),
        examples.constant_column(),
        examples.orthogonal(),
        examples.generic(neurons=1),
        examples.generic(neurons=2),
        Example("torch.zeros(5, 3)", (zeros,)),
        Example("torch.ones(5, 3)", (ones,)),
    ]
