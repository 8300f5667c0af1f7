"""Activations that filtrations and regularisers are checked on."""

from __future__ import annotations

import torch

from topoloss.testing import problems
from topoloss.testing.checks import Given

__all__ = ["generic", "special"]


def generic(seed: int) -> Given:
    """A small problem at which there is no tie and no kink, for finite differences."""
    return _given(problems.generic(samples=7, neurons=4, seed=seed))


def special() -> list[Given]:
    """Ties, duplicates, constants and the smallest sizes."""
    known = [
        problems.two_clusters(),
        problems.duplicated(),
        problems.constant_column(),
        problems.orthogonal(),
        problems.generic(neurons=1),
        problems.generic(neurons=2),
    ]
    zeros, ones = (torch.full((5, 3), value, dtype=torch.float64) for value in (0.0, 1.0))
    return [
        *map(_given, known),
        Given("torch.zeros(5, 3)", (zeros,)),
        Given("torch.ones(5, 3)", (ones,)),
    ]


def _given(problem: problems.Problem) -> Given:
    return Given(problem.name, (problem.activations,))
