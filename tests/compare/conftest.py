import uuid

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
def own_module(tmp_path, monkeypatch):
    """Write a module of the user's and return its name; each is imported once."""

    def write(code):
        name = f"own_{uuid.uuid4().hex}"
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        return name

    return write


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
