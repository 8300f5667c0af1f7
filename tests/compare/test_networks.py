import pytest
import torch

import topoloss
from topoloss.compare.data import load
from topoloss.compare.networks import build


def test_a_regression_wants_as_many_outputs_as_targets(own_module):
    name = own_module("import torch\nmake = lambda: torch.nn.Linear(10, 2)\n")
    with pytest.raises(
        topoloss.InputError, match=r"returned \(2, 2\).*expected a tensor with shape \(2, 1\)"
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
    with pytest.raises(topoloss.InputError, match="returned tuple for 2 inputs"):
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
    with pytest.raises(topoloss.UnknownNameError, match="there are net0, net1, net2, "):
        build("net7", load("digits"))
