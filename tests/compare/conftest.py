import pytest
import torch
from torch import nn

from topoloss.compare.data import Dataset, split
from topoloss.compare.training import Outcome

QUICK_EPOCHS = 3


@pytest.fixture
def blobs():
    """Three well separated classes of 20 points in the plane."""
    generator = torch.Generator().manual_seed(1)
    y = torch.arange(3).repeat(20)
    x = 4 * nn.functional.one_hot(y, 3)[:, :2] + torch.randn(60, 2, generator=generator)
    return Dataset(x.float(), y, train=30, validation=15)


@pytest.fixture
def blob_split(blobs):
    return split(blobs, seed=0)


@pytest.fixture
def small_network():
    def make():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(2, 12), nn.ReLU(), nn.Linear(12, 3))

    return make


@pytest.fixture
def outcome():
    """An outcome with given accuracies and otherwise plain values."""

    def make(test, validation, **changes):
        plain = {
            "epochs": 10,
            "seconds": 1.0,
            "diverged": False,
            "deaths_before": [0.1, 0.5],
            "deaths_after": [0.2, 0.9],
        }
        return Outcome(test, validation, **(plain | changes))

    return make
