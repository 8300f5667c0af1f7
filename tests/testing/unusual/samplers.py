"""Samplers that are right, each in a way of its own."""

import math
from fractions import Fraction

import torch

import topoloss


class RoundsUp(topoloss.Sampler):
    def __init__(self, *, fraction=1.0):
        self.fraction = Fraction(str(fraction))

    def select(self, x):
        return torch.arange(math.ceil(self.fraction * x.shape[1]), device=x.device)


class RoundsToNearest(RoundsUp):
    def select(self, x):
        return torch.arange(round(self.fraction * x.shape[1]), device=x.device)


class RunningMean(topoloss.Sampler):
    """Remembers what it saw: a sampler may."""

    def __init__(self):
        self.seen = {}

    def select(self, x):
        largest = x.double().abs().mean(0)
        before = self.seen.get(x.shape[1], torch.zeros_like(largest))
        self.seen[x.shape[1]] = (before + largest) / 2
        return self.seen[x.shape[1]].argsort()[: x.shape[1] // 2].sort().values


UNUSUAL = (
    RoundsUp,
    RoundsToNearest,
    RunningMean,
)
