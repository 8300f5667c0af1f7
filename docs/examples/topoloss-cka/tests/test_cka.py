"""These tests use only public names of topoloss."""

import itertools

import numpy as np
import pytest
import torch
from topoloss_cka import CKA

import topoloss
from topoloss.testing import check, parametrize_with_checks


@parametrize_with_checks("plugin", "cka")
def test_conforms(check):
    check()


def by_definition(layers):
    """Equation 5 of the paper with linear kernels: Gram matrices, centred by H on both sides."""
    grams = []
    for x in (layer.detach().numpy() for layer in layers.values()):
        h = np.eye(len(x)) - 1 / len(x)
        grams.append(h @ x @ x.T @ h)

    def hsic(a, b):
        return np.trace(a @ b)

    values = []
    for a, b in itertools.pairwise(grams):
        alike = hsic(a, a) * hsic(b, b)
        values.append(hsic(a, b) / alike**0.5 if alike > 1e-18 else 0)
    return np.mean(values)


def test_values_are_those_of_the_definition():
    check("regulariser", CKA, expected=by_definition, seed=1)


# Two neurons with all combinations of +1 and -1, and their product: no two of the three correlate.
SIGNS = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([0], [0], 1),
        ([0], [1], 0),
        ([0, 1], [2], 0),
        ([0, 1], [0], 0.5**0.5),
        ([0, 1], [1, 2], 0.5),
    ],
)
def test_values_by_hand(first, second, expected):
    """Layers of p and q of these neurons, k of them in both, have linear CKA k / sqrt(p q)."""
    layers = {"first": SIGNS[:, first], "second": 3 - 5 * SIGNS[:, second]}
    assert CKA().of_layers(layers).item() == pytest.approx(expected, abs=1e-15)


def test_only_successive_layers_are_compared():
    layers = {"a": SIGNS[:, :1], "b": SIGNS[:, 1:2], "c": SIGNS[:, 1:2]}
    assert CKA().of_layers(layers).item() == pytest.approx(0.5, abs=1e-15)


def test_training_with_it_makes_the_second_layer_say_something_new():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 5))
    penalty = topoloss.attach(model, "cka")
    x, values = torch.randn(32, 4), []
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(20):
        model(x)
        value = penalty()
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        values.append(value.item())
    assert values[-1] < 0.8 * values[0]


@pytest.mark.parametrize("shapes", [[(4, 2)], [(4, 2), (5, 2)]])
def test_other_layers_than_two_of_the_same_samples_are_refused(shapes):
    layers = {str(shape): torch.ones(shape) for shape in shapes}
    with pytest.raises(topoloss.InputError, match=r"expected at least two layers"):
        CKA().of_layers(layers)
