import numpy as np
import pytest
import torch
from scipy.sparse.csgraph import minimum_spanning_tree
from torch import nn

import topoloss
from topoloss.compare.neurons import measure
from topoloss.compare.records import Protocol


def test_neurons_by_hand(small_network, blob_split):
    """An untrained network with two dead neurons; its correlations by numpy and scipy."""
    model, x = small_network(), blob_split.validation.x
    with torch.no_grad():
        model[0].weight[:2], model[0].bias[:2] = 0.0, -1.0
        hidden = torch.relu(model[0](x))
        activations = torch.cat((hidden, model[2](hidden)), 1).double().numpy()
    live = activations.std(0) > 0
    assert live.sum() == 15 - 2
    r = np.zeros((15, 15))
    r[np.ix_(live, live)] = np.abs(np.corrcoef(activations[:, live].T))
    pairs = ~np.eye(15, dtype=bool)
    # Zeros are no edges to scipy; no two of these neurons are copies.
    tree = minimum_spanning_tree(np.where(pairs, 1 - r, 0)).data
    found = measure(model, x, Protocol())
    assert found.correlation == pytest.approx(r[pairs].mean(), rel=1e-6)
    assert (found.lowest, found.highest) == pytest.approx((tree.min(), tree.max()), abs=1e-6)
    assert found.deaths == tuple(np.histogram(tree, 50, (0, 1))[0])
    assert found.constant == (~live).sum()
    varying = np.ix_(live, live)
    assert found.varying_correlation == pytest.approx(r[varying][pairs[varying]].mean(), rel=1e-6)
    deaths_of_varying = np.sort(tree)[: live.sum() - 1]
    # Of an even number the lower one of the two in the middle; then the middle of its bin.
    lower_median = deaths_of_varying[(len(deaths_of_varying) - 1) // 2]
    assert found.varying_median == pytest.approx((np.floor(lower_median * 50) + 0.5) / 50)


@pytest.mark.parametrize(
    ("choice", "neurons"),
    [
        ({}, 12 + 3),
        ({"layers": "trainable"}, 12 + 12 + 3),
        ({"fraction": 0.5}, 6 + 3),
    ],
)
def test_the_protocol_chooses_the_neurons(choice, neurons):
    """By the paper's rule a norm is a layer of its own; the last layer is always taken whole."""
    model = nn.Sequential(nn.Linear(2, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 3))
    found = measure(model, torch.randn(16, 2), Protocol(**choice))
    assert sum(found.deaths) == neurons - 1


def test_neurons_are_measured_in_evaluation_mode_on_the_first_samples():
    batches = []
    model = nn.Sequential(nn.Linear(2, 6), nn.Dropout(0.5), nn.Linear(6, 3))
    model.register_forward_pre_hook(lambda m, args: batches.append((len(args[0]), m.training)))
    x = torch.randn(1030, 2)
    assert measure(model, x, Protocol()) == measure(model, x[:1024], Protocol())
    assert batches == [(1024, False)] * 2


def test_a_single_neuron_is_refused():
    with pytest.raises(topoloss.InputError, match="the network has one neuron"):
        measure(nn.Linear(2, 1), torch.randn(8, 2), Protocol())


def test_every_neuron_of_a_dead_network_is_constant():
    model = nn.Sequential(nn.Linear(4, 6))
    nn.init.zeros_(model[0].weight)
    found = measure(model, torch.randn(8, 4), Protocol())
    assert found.constant == 6
    assert np.isnan(found.varying_correlation)
    assert np.isnan(found.varying_median)


def test_neurons_that_vary_at_right_angles_are_not_constant():
    model = nn.Sequential(nn.Linear(3, 3, bias=False))
    nn.init.eye_(model[0].weight)
    x = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float32)
    found = measure(model, x, Protocol())
    assert found.constant == 0
    assert found.correlation == found.varying_correlation == 0
    assert found.varying_median == pytest.approx(0.99)
