import pytest
import torch
from torch import nn

import topoloss
from topoloss.compare.data import load
from topoloss.compare.networks import build


@pytest.mark.parametrize(
    ("name", "widths", "dropouts"),
    [
        ("net0", [450, 350, 200, 10], 0),
        ("net1", [450, 350, 200, 10], 3),
        ("net2", [300, 250, 200, 150, 100, 10], 0),
    ],
)
def test_networks_have_the_papers_layers(name, widths, dropouts):
    network = build(name, load("digits"))
    assert [m.out_features for m in network if isinstance(m, nn.Linear)] == widths
    assert [m.p for m in network if isinstance(m, nn.Dropout)] == [0.5] * dropouts


@pytest.mark.parametrize("name", ["net0", "net1", "net2"])
def test_networks_have_the_papers_number_of_neurons(name):
    digits = load("digits")
    network = build(name, digits)
    penalty = topoloss.attach(network, "t1")
    network(digits.x[:32])
    assert sum(len(index) for index in penalty.neurons.values()) == 1010


def test_own_network(own_module):
    name = own_module(
        "import torch\nmake = lambda: torch.nn.Linear(64, 10)\nwrong = lambda: 1\n"
        "pair = lambda: torch.nn.LSTM(64, 10, batch_first=True)\n"
    )
    assert build(f"{name}:make", load("digits"))(torch.zeros(1, 64)).shape == (1, 10)
    with pytest.raises(topoloss.InputError, match="returned 1; expected"):
        build(f"{name}:wrong", load("digits"))
    with pytest.raises(topoloss.InputError, match="put out tuple for 2 inputs"):
        build(f"{name}:pair", load("digits"))


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ("(63, 10)", r"does not take inputs of shape \(2, 64\)"),
        ("(64, 9)", "each of the 10 classes"),
    ],
)
def test_own_network_that_does_not_fit_the_data(own_module, widths, message):
    name = own_module(f"import torch\nmake = lambda: torch.nn.Linear(*{widths})\n")
    with pytest.raises(topoloss.InputError, match=message):
        build(f"{name}:make", load("digits"))


def test_unknown_network_lists_the_known_ones():
    with pytest.raises(topoloss.UnknownNameError, match="'net0', 'net1', 'net2'"):
        build("net7", load("digits"))
