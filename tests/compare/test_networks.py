import pytest
import torch
from torch import nn

import topoloss
from topoloss.compare.data import Dataset, load
from topoloss.compare.networks import build, protocol
from topoloss.compare.training import Protocol


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


IMAGES = Dataset(torch.zeros(4, 3, 32, 32), torch.arange(4), train=2, validation=1)


@pytest.mark.parametrize("width", [256, 512])
@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("dense", [1, 2])
def test_vggs_have_the_width_dropout_and_layers_that_they_are_called_by(width, dropout, dense):
    network = build(f"vgg{width}{'-dropout' * dropout}{'-dense2' * (dense == 2)}", IMAGES)
    convolutions = [m.out_channels for m in network if isinstance(m, nn.Conv2d)]
    assert convolutions == [width // 4] * 2 + [width // 2] * 2 + [width] * 2
    linear = [m.out_features for m in network if isinstance(m, nn.Linear)]
    assert linear == [width] * (dense - 1) + [4]
    assert any(isinstance(m, nn.Dropout) for m in network) == dropout
    assert network(IMAGES.x).shape == (4, 4)


def test_a_vgg_wants_images():
    with pytest.raises(topoloss.InputError, match=r"inputs of shape \(64,\).*takes images"):
        build("vgg256", load("digits"))


def test_vggs_are_trained_on_a_sample_of_their_neurons():
    """As the paper's were: SGD without Nesterov at 0.001, and 0.5% of each layer but the last."""
    settings = protocol("vgg512")
    assert settings == Protocol(learning_rate=0.001, decay=1.0, nesterov=False, fraction=0.005)
    network = build("vgg256", IMAGES)
    penalty = topoloss.attach(network, "t1", fraction=settings.fraction)
    network(IMAGES.x)
    sizes = [64 * 32 * 32] * 2 + [128 * 16 * 16] * 2 + [256 * 8 * 8] * 2
    expected = [int(0.005 * n) for n in sizes]
    assert [len(index) for index in penalty.neurons.values()] == [*expected, 4]


def test_a_regression_wants_as_many_outputs_as_targets(own_module):
    name = own_module("import torch\nmake = lambda: torch.nn.Linear(10, 2)\n")
    with pytest.raises(
        topoloss.InputError, match=r"put out \(2, 2\).*expected a tensor with \(2, 1\)"
    ):
        build(f"{name}:make", load("diabetes"))


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
