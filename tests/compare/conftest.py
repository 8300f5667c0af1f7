import numpy as np
import pytest
import sklearn.datasets
import torch
from torch import nn

from topoloss.compare.data import Dataset, split
from topoloss.compare.records import DEATH_BINS, Arm, Neurons, Outcome, Run, Setup

QUICK_EPOCHS = 3


@pytest.fixture
def blobs():
    """Three well separated classes of 20 points in the plane."""
    generator = torch.Generator().manual_seed(1)
    y = torch.arange(3).repeat(20)
    x = 4 * nn.functional.one_hot(y, 3)[:, :2] + torch.randn(60, 2, generator=generator)
    return Dataset(x.float(), y, train=30, validation=15)


@pytest.fixture
def openml(monkeypatch):
    """Make OpenML give so many images, as it does: bytes in rows, and labels as strings."""

    def give(n):
        def fetch(name, **options):
            pixels = {"mnist_784": 784, "CIFAR_10": 3072}[name]
            images = (np.arange(pixels) + np.arange(n)[:, None]) % 256
            return images.astype(float), np.array([str(k % 10) for k in range(n)], dtype=object)

        monkeypatch.setattr(sklearn.datasets, "fetch_openml", fetch)

    return give


@pytest.fixture
def blob_split(blobs):
    return split(blobs, seed=0)


@pytest.fixture
def small_network():
    def make():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(2, 12), nn.ReLU(), nn.Linear(12, 3))

    return make


def neurons(bin_of_all):
    counts = tuple(5 * (k == bin_of_all) for k in range(DEATH_BINS))
    death = (bin_of_all + 0.5) / DEATH_BINS
    return Neurons(counts, death, death, death, correlation=1 - death, constant=0)


@pytest.fixture
def outcome():
    """An outcome with given scores and otherwise plain values."""

    def make(test, validation, metric="accuracy", **changes):
        plain = {
            "epochs": 10,
            "seconds": 1.0,
            "diverged": False,
            "off": 0.0,
            "train_size": 600,
            "validation_size": 397,
            "test_size": 800,
            "before": neurons(bin_of_all=10),
            "after": neurons(bin_of_all=40),
        }
        return Outcome(metric, test, validation, **(plain | changes))

    return make


@pytest.fixture
def runs_of(outcome):
    """Runs of a setup from rows: regulariser, weight, seed, test score, validation score."""

    def make(setup, *rows):
        return [
            Run(setup, Arm(name, weight), seed, outcome(test, validation))
            for name, weight, seed, test, validation in rows
        ]

    return make


@pytest.fixture
def runs(runs_of):
    return runs_of(
        Setup(),
        ("none", 0.0, 0, 0.90, 0.91),
        ("none", 0.0, 1, 0.92, 0.93),
        ("t1", 0.1, 0, 0.99, 0.94),
        ("t1", 0.1, 1, 0.95, 0.97),
        ("t1", 0.01, 0, 0.93, 0.95),
        ("t1", 0.01, 1, 0.90, 0.97),
    )


@pytest.fixture
def three(runs, runs_of):
    """With a third regulariser, so that ranks can be tested."""
    return runs + runs_of(Setup(), ("l2", 0.1, 0, 0.80, 0.8), ("l2", 0.1, 1, 0.81, 0.8))
