"""Losses that are right, each in a way of its own."""

import torch

import topoloss


class Largest(topoloss.Loss):
    """Only the largest death that counts."""

    def forward(self, diagrams):
        d = diagrams[0]
        return -torch.cat((0 * d.deaths.sum()[None], d.weights * d.deaths)).amax()


class LastDeath(topoloss.Loss):
    """The same, of one point: deaths come sorted, so the last that counts is the largest."""

    def forward(self, diagrams):
        d = diagrams[0]
        if len(d.deaths) == 0:
            return d.deaths.sum()
        last = (d.weights > 0).cumsum(0).argmax()
        return -(d.weights * d.deaths).index_select(0, last[None])[0]


class OnlyLoops(topoloss.Loss):
    """Dimension 1 alone, and 0 where there is none."""

    def forward(self, diagrams):
        value = 0 * diagrams[0].deaths.sum()
        for d in diagrams[1:]:
            value = value + (d.weights * d.lifetimes).sum()
        return value


class NeedsLoops(topoloss.Loss):
    """A clear error where there is no dimension 1."""

    def forward(self, diagrams):
        if len(diagrams) < 2:
            raise topoloss.InputError("no diagram of dimension 1 was given; use ripser.")
        d = diagrams[1]
        return (d.weights * d.lifetimes).sum() + 0 * diagrams[0].deaths.sum()


class UpToALimit(topoloss.Loss):
    """Lifetimes count up to a limit, below which the loss grows with the scale."""

    def forward(self, diagrams):
        return sum((d.weights * d.lifetimes.clamp(max=1000)).sum() for d in diagrams)


class StopGradient(topoloss.Loss):
    """Deaths weighed by themselves, as constants."""

    surrogate_gradient = True

    def forward(self, diagrams):
        d = diagrams[0]
        return (d.weights * d.deaths * d.deaths.detach()).sum()


UNUSUAL = (
    Largest,
    LastDeath,
    OnlyLoops,
    NeedsLoops,
    UpToALimit,
    StopGradient,
)
