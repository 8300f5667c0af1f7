"""A component offered through one hook alone is found, selected by name and used."""

import pytest
import torch
from torch import nn

import topoloss
from topoloss.plugins import KINDS

LINE = torch.tensor([[0.0, 1.0, 5.0]])  # three neurons, one sample: they lie on a line


class Manhattan(topoloss.Filtration):
    def vertices(self, x):
        return x.T

    def edge_values(self, v, i, j):
        return (v[i] - v[j]).abs().sum(-1)


class Star(topoloss.Persistence):
    """Joins every vertex to the first one, whatever the values."""

    def from_matrix(self, values):
        others = torch.arange(1, len(values))
        return [topoloss.CriticalEdges(torch.stack((torch.zeros_like(others), others), 1))]


class Longest(topoloss.Loss):
    def forward(self, diagrams):
        return diagrams[0].deaths.amax()


class MeanSquare(topoloss.Regulariser):
    def compute(self, x):
        return x.square().mean()


class EveryOther(topoloss.Sampler):
    def select(self, x):
        return torch.arange(0, x.shape[1], 2)


class OffersFiltrations:
    @topoloss.hookimpl
    def topoloss_filtrations(self):
        return {"mine": Manhattan}


class OffersPersistence:
    @topoloss.hookimpl
    def topoloss_persistence(self):
        return {"mine": Star}


class OffersLosses:
    @topoloss.hookimpl
    def topoloss_losses(self):
        return {"mine": Longest}


class OffersRegularisers:
    @topoloss.hookimpl
    def topoloss_regularisers(self):
        return {"mine": MeanSquare}


class OffersSamplers:
    @topoloss.hookimpl
    def topoloss_samplers(self):
        return {"mine": EveryOther}


@pytest.mark.parametrize(
    ("kind", "plugin"),
    [
        ("filtration", OffersFiltrations()),
        ("persistence", OffersPersistence()),
        ("loss", OffersLosses()),
        ("regulariser", OffersRegularisers()),
        ("sampler", OffersSamplers()),
    ],
)
def test_a_hook_offers_its_own_kind_and_no_other(kind, plugin):
    with topoloss.registered(plugin):
        assert [k for k in KINDS if "mine" in topoloss.available(k)] == [kind]
    assert "mine" not in topoloss.available(kind)


def test_topoloss_filtrations():
    with topoloss.registered(OffersFiltrations()):
        reg = topoloss.pipeline("mine", "mst", "t1")
    # (0, 0), (1, 1), (5, 1): distances 2, 4 and 6, of which the tree has the first two.
    assert reg(torch.tensor([[0.0, 1.0, 5.0], [0.0, 1.0, 1.0]])).item() == -6


def test_topoloss_persistence():
    with topoloss.registered(OffersPersistence()):
        reg = topoloss.pipeline("euclidean", "mine", "t1")
    assert reg.diagrams(LINE)[0].deaths.tolist() == [1, 5]
    assert reg(LINE).item() == -6  # the spanning tree would give -5


def test_topoloss_losses():
    with topoloss.registered(OffersLosses()):
        reg = topoloss.pipeline("euclidean", "mst", "mine")
    assert reg(LINE).item() == 4


def test_topoloss_regularisers():
    identity = nn.Linear(2, 2, bias=False)
    nn.init.eye_(identity.weight)
    with topoloss.registered(OffersRegularisers()):
        penalty = topoloss.attach(identity, "mine")
    identity(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert penalty().item() == (1 + 4 + 9 + 16) / 4


def test_topoloss_samplers():
    model = nn.Sequential(nn.Linear(1, 4, bias=False), nn.Linear(4, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.0], [100.0], [2.0], [50.0]]))
        model[1].weight.zero_()
        model[1].bias.fill_(7.0)
    with topoloss.registered(OffersSamplers()):
        penalty = topoloss.attach(model, topoloss.pipeline("euclidean"), sampler="mine")
    model(torch.ones(1, 1))
    # 0 and 2 of the first layer, and the whole last layer, 7: deaths 2 and 5.
    assert penalty().item() == -7
