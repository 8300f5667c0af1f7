import pytest
import torch

import topoloss
from topoloss.compare.data import Dataset, load
from topoloss.compare.networks import build


def test_a_regression_wants_as_many_outputs_as_targets(own_module):
    name = own_module("import torch\nmake = lambda: torch.nn.Linear(10, 2)\n")
    with pytest.raises(
        topoloss.InputError, match=r"returned \(2, 2\).*expected a tensor with shape \(2, 1\)"
    ):
        build(f"{name}:make", load("diabetes"))


def test_a_users_own_function_must_return_a_module_that_returns_a_tensor(own_module):
    name = own_module(
        "import torch\nmake = lambda: torch.nn.Linear(64, 10)\nwrong = lambda: 1\n"
        "pair = lambda: torch.nn.LSTM(64, 10, batch_first=True)\n"
    )
    assert build(f"{name}:make", load("digits"))(torch.zeros(1, 64)).shape == (1, 10)
    with pytest.raises(topoloss.InputError, match="returned 1; expected"):
        build(f"{name}:wrong", load("digits"))
    with pytest.raises(topoloss.InputError, match="returned tuple for 2 inputs"):
        build(f"{name}:pair", load("digits"))


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ("(63, 10)", r"does not take inputs of shape \(2, 64\)"),
        ("(64, 9)", "each of the 10 classes"),
    ],
)
def test_a_users_own_network_must_fit_the_data(own_module, widths, message):
    name = own_module(f"import torch\nmake = lambda: torch.nn.Linear(*{widths})\n")
    with pytest.raises(topoloss.InputError, match=message):
        build(f"{name}:make", load("digits"))


def four(*shape, pixel_range=16.0):
    return Dataset(torch.zeros(4, *shape), torch.arange(4), 2, 1, pixel_range=pixel_range)


@pytest.mark.parametrize(("data", "channels"), [(four(64), 1), (four(3, 9, 6), 3)])
def test_the_small_convolutional_network_takes_images_or_the_pixels_of_a_square(data, channels):
    network = build("conv", data)
    assert network(data.x).shape == (4, 4)
    convolutions = [m for m in network if isinstance(m, torch.nn.Conv2d)]
    assert [(m.in_channels, m.out_channels) for m in convolutions] == [(channels, 8), (8, 16)]
    assert [m.out_features for m in network if isinstance(m, torch.nn.Linear)] == [64, 4]


@pytest.mark.parametrize("data", [four(60), four(64, 1), four(64, pixel_range=1)])
def test_the_small_convolutional_network_refuses_what_is_no_image(data):
    with pytest.raises(topoloss.InputError, match="the network 'conv' takes images"):
        build("conv", data)


def test_unknown_network_lists_the_known_ones():
    with pytest.raises(topoloss.UnknownNameError, match="there are net0, net1, net2, "):
        build("net7", load("digits"))
