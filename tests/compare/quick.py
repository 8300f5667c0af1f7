"""A sweep whose runs take no time, for tests and for the processes that they start."""

from pathlib import Path

from torch import nn

from topoloss.compare.records import Arm, Protocol, Setup
from topoloss.compare.searches import Grid

TESTS = Path(__file__).parents[1]


def network():
    return nn.Sequential(nn.Linear(13, 12), nn.ReLU(), nn.Linear(12, 3))


# An epoch has three steps.
SETUP = Setup("compare.quick:network", "wine", Protocol(max_epochs=1, batch_size=32))
SEARCHES = [Grid("none", (0.0,)), Grid("l2", (1e-5, 1e-4))]
ARMS = [Arm("none", 0.0), Arm("l2", 1e-5), Arm("l2", 1e-4)]
