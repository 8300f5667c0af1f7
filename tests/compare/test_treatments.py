from itertools import pairwise

import pytest
import torch
from torch import nn

import topoloss
from topoloss.compare import setups
from topoloss.compare.data import Part, Split
from topoloss.compare.paper.protocols import setup
from topoloss.compare.records import Arm, Protocol
from topoloss.compare.training import train
from topoloss.compare.treatments import Treatment, treated


def kinds(model):
    return [type(layer).__name__ for layer in model]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))


def test_layers_stand_where_they_are_usual():
    both = treated(network(), Treatment(batch_norm=True, dropout=0.3))
    hidden = ["Linear", "BatchNorm1d", "ReLU", "Dropout"]
    assert kinds(both) == [*hidden, *hidden, "Linear"]
    assert [layer.num_features for layer in both[1::4]] == [6, 5]
    assert [layer.p for layer in both[3::4]] == [0.3, 0.3]
    images = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    normed = treated(images, Treatment(batch_norm=True))
    assert kinds(normed) == ["Conv2d", "BatchNorm2d", "ReLU", "Flatten", "Linear"]
    assert normed(torch.rand(5, 1, 4, 4)).shape == (5, 2)


def test_a_sequence_in_a_sequence_is_unpacked():
    nested = nn.Sequential(nn.Sequential(*network()[:2]), *network()[2:])
    both = treated(nested, Treatment(batch_norm=True, dropout=0.3))
    hidden = ["Linear", "BatchNorm1d", "ReLU", "Dropout"]
    assert kinds(both) == [*hidden, *hidden, "Linear"]


class Within(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.activation = nn.Linear(4, 4), nn.ReLU()

    def forward(self, x):
        return self.activation(self.layer(x))


def test_the_parameters_are_those_of_the_network():
    plain = network()
    same = treated(network(), Treatment(batch_norm=True, dropout=0.3))
    linear = [layer for layer in same if isinstance(layer, nn.Linear)]
    for layer, other in zip(plain[::2], linear, strict=True):
        assert torch.equal(layer.weight, other.weight)
    model = network()
    assert treated(model, Treatment(label_smoothing=0.1, weight_decay=1.0)) is model


@pytest.mark.parametrize(
    ("model", "treatment", "message"),
    [
        (nn.Sequential(nn.Linear(2, 2)), {"batch_norm": True}, "no hidden layer"),
        (nn.Sequential(nn.Linear(2, 2)), {"dropout": 0.5}, "no activation"),
        (nn.Linear(2, 2), {"dropout": 0.5}, "the network is a Linear"),
        (nn.Sequential(nn.ReLU(), nn.Dropout(0.1)), {"dropout": 0.5}, "dropout already"),
        (nn.Sequential(nn.BatchNorm1d(2)), {"batch_norm": True}, "batch-norm already"),
        (nn.Sequential(Within(), nn.ReLU()), {"dropout": 0.5}, "layers inside Within"),
        (nn.Sequential(Within(), nn.ReLU()), {"batch_norm": True}, "layers inside Within"),
    ],
)
def test_a_network_without_a_place_for_them_is_refused(model, treatment, message):
    with pytest.raises(topoloss.InputError, match=message):
        treated(model, Treatment(**treatment))


def test_arms_of_one_seed_begin_alike_and_train():
    """Before training, dropout changes no neuron, and BatchNorm does."""
    quick = setup("net2", "digits", max_epochs=1)
    plain, dropout, both = (
        setups.run(quick, Arm(name, weight), seed=3).outcome
        for name, weight in [("none", 0.0), ("dropout", 0.5), ("t1+batch-norm", 1e-3)]
    )
    assert dropout.before == plain.before
    assert both.before != plain.before
    assert dropout.measures.nll != plain.measures.nll


def test_structured_noise_and_rewiring_are_arms_as_dropout_is():
    """Both leave the network as it is before training, and no hook behind."""
    quick = setup("net2", "digits", max_epochs=2)
    plain, noise, sparse = (
        setups.run(quick, Arm(name, strength), seed=3).outcome
        for name, strength in [("none", 0.0), ("structured-noise", 0.5), ("rewiring", 0.2)]
    )
    assert noise.before == sparse.before == plain.before
    assert len({plain.measures.nll, noise.measures.nll, sparse.measures.nll}) == 3


def test_rewiring_moves_connections_of_a_sparse_network_after_each_epoch():
    x = torch.randn(40, 4)
    part = Part(x, (x[:, 0] > 0).long())
    model = network()
    connected = []

    def look(model, args):
        if model.training:
            connected.append([layer.weight.detach() != 0 for layer in model[::2]])

    looking = model.register_forward_pre_hook(look)
    protocol = Protocol(batch_size=10, max_epochs=3)
    train(model, Split(part, part, part), [], protocol, treatment=Treatment(rewiring=0.5))
    looking.remove()
    assert [int(layer.sum()) for layer in connected[0]] == [12, 15, 5]
    assert all(layer.sum() <= layer.numel() / 2 for layers in connected for layer in layers)
    # Connections that were added begin at 0; before the last of four batches they have a weight.
    for before, after in pairwise(connected[3::4]):
        assert not any(map(torch.equal, before, after))
    # A layer may be rewired by one treatment at a time: the first one was detached.
    train(model, Split(part, part, part), [], protocol, treatment=Treatment(rewiring=0.5))


@pytest.mark.parametrize(
    ("model", "data", "arm", "message"),
    [
        ("net1", "digits", "dropout", "dropout already"),
        ("net0", "diabetes", "label-smoothing", "targets of a regression"),
    ],
)
def test_an_arm_that_does_not_fit_is_told_before_any_run(model, data, arm, message):
    with pytest.raises(topoloss.InputError, match=message):
        setups.check_arm(setup(model, data), Arm(arm, 0.1))
    setups.check_arm(setup(model, data), Arm("input-noise", 0.1))
