import pytest
import torch
from torch import nn

import topoloss
from topoloss.compare.data import Dataset, load
from topoloss.compare.networks import build
from topoloss.compare.paper.networks import NETWORKS, protocol
from topoloss.compare.records import Protocol


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


def neurons(network, x, **choice):
    torch.manual_seed(0)  # the same dropout in every pass
    with topoloss.attach(network, "t1", **choice) as penalty:
        network(x)
        return {layer: index.tolist() for layer, index in penalty.neurons.items()}


@pytest.mark.parametrize("name", ["net0", "net1", "net2"])
def test_networks_have_the_papers_number_of_neurons(name):
    digits = load("digits")
    found = neurons(build(name, digits), digits.x[:32])
    assert sum(map(len, found.values())) == 1010


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


@pytest.mark.parametrize("name", NETWORKS)
def test_both_rules_for_layers_take_the_same_neurons(name):
    """The paper's networks have no norms, so its rule is the default of attach."""
    images = torch.rand(4, 3, 32, 32)
    network = build(name, IMAGES)
    by_default, by_paper = (
        neurons(network, images, layers=layers, fraction=0.005) for layers in ("auto", "trainable")
    )
    assert by_default == by_paper
    assert len(by_default) == sum(isinstance(m, (nn.Linear, nn.Conv2d)) for m in network)


def test_vggs_are_trained_on_a_sample_of_their_neurons():
    """As the paper's were: SGD without Nesterov at 0.001, and 0.5% of each layer but the last."""
    settings = protocol("vgg512")
    assert settings == Protocol(learning_rate=0.001, decay=1.0, nesterov=False, fraction=0.005)
    network = build("vgg256", IMAGES)
    found = neurons(network, IMAGES.x, fraction=settings.fraction)
    sizes = [64 * 32 * 32] * 2 + [128 * 16 * 16] * 2 + [256 * 8 * 8] * 2
    expected = [int(0.005 * n) for n in sizes]
    assert [len(index) for index in found.values()] == [*expected, 4]


def test_a_users_own_network_is_trained_like_networks_0_to_2():
    assert protocol("my_module:network") == protocol("net0") == Protocol()
