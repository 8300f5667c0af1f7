"""Random activations, and inputs that are hard to search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from topoloss_plugins.correlation import Correlation
from topoloss_plugins.euclidean import Euclidean
from torch import Tensor

import topoloss

SAMPLES = 256
SIZES = (1_010, 10_000, 100_000, 276_490, 1_000_000)
RANDOM = "random"


@dataclass(frozen=True)
class Input:
    """How to make activations (samples, neurons), and under which filtration they are searched."""

    filtration: Callable[[], topoloss.Filtration]
    make: Callable[[int, int, torch.Generator], Tensor]
    # Ordinary activations under the same filtration.
    ordinary: str = RANDOM

    def activations(self, samples: int, neurons: int) -> Tensor:
        """Make activations on the CPU, with a fixed seed."""
        return self.make(samples, neurons, torch.Generator().manual_seed(0))


def _normal(samples: int, neurons: int, generator: torch.Generator) -> Tensor:
    return torch.randn(samples, neurons, generator=generator)


def _duplicates(samples: int, neurons: int, generator: torch.Generator) -> Tensor:
    """100 exact copies of each neuron, at random places."""
    x = _normal(samples, max(1, neurons // 100), generator)
    return x[:, torch.randint(x.shape[1], (neurons,), generator=generator)]


def _copies(samples: int, neurons: int, generator: torch.Generator) -> Tensor:
    """100 copies of each neuron, with noise of a thousandth."""
    x = _duplicates(samples, neurons, generator)
    return x + 1e-3 * _normal(samples, neurons, generator)


def _one_hot(samples: int, neurons: int, generator: torch.Generator) -> Tensor:
    """Each neuron is active on one sample only."""
    return torch.eye(samples)[:, torch.randint(samples, (neurons,), generator=generator)]


def _rounded_copies(samples: int, neurons: int, generator: torch.Generator) -> Tensor:
    """100 multiples of each neuron, whose correlations are 1 up to rounding."""
    scales = torch.exp(torch.randn(neurons, generator=generator))
    return scales * _duplicates(samples, neurons, generator)


def _almost_constant(samples: int, neurons: int, generator: torch.Generator) -> Tensor:
    return 1 + 1e-3 * _normal(samples, neurons, generator)


def _half_dead(samples: int, neurons: int, generator: torch.Generator) -> Tensor:
    x = _normal(samples, neurons, generator)
    x[:, ::2] = 0
    return x


def _outlier(samples: int, neurons: int, generator: torch.Generator) -> Tensor:
    """One neuron's activations are 1,000 times larger than those of the others."""
    x = _normal(samples, neurons, generator)
    x[:, neurons // 2] *= 1000
    return x


def _lognormal(samples: int, neurons: int, generator: torch.Generator) -> Tensor:
    scales = torch.exp(2 * torch.randn(neurons, generator=generator))
    return scales * _normal(samples, neurons, generator)


def _cauchy(samples: int, neurons: int, generator: torch.Generator) -> Tensor:
    return _normal(samples, neurons, generator) / _normal(samples, neurons, generator)


EUCLIDEAN = "random, euclidean"
INPUTS = {
    RANDOM: Input(Correlation, _normal),
    "duplicates": Input(Correlation, _duplicates),
    "copies": Input(Correlation, _copies),
    "rounded copies": Input(Correlation, _rounded_copies),
    "almost constant": Input(Correlation, _almost_constant),
    "one-hot": Input(Correlation, _one_hot),
    "half dead": Input(Correlation, _half_dead),
    EUCLIDEAN: Input(Euclidean, _normal, EUCLIDEAN),
    "outlier, euclidean": Input(Euclidean, _outlier, EUCLIDEAN),
    "lognormal, euclidean": Input(Euclidean, _lognormal, EUCLIDEAN),
    "cauchy, euclidean": Input(Euclidean, _cauchy, EUCLIDEAN),
    "half dead, euclidean": Input(Euclidean, _half_dead, EUCLIDEAN),
}
