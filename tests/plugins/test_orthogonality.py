"""Soft orthogonality of weights: hand-computed values, and matrices known to be orthogonal."""

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

import topoloss


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def orthogonality(*weights):
    return topoloss.regulariser("orthogonality")(dict(zip("abc", weights, strict=False)))


def test_a_hand_computed_value():
    # Products of rows: 2, 4 and 0; less the identity 1, 3 and twice 0. The second layer: 9 - 1.
    first, second = torch.tensor([[1.0, 1.0], [2**0.5, -(2**0.5)]]), torch.tensor([[3.0]])
    assert orthogonality(first.double(), second.double()).item() == pytest.approx(1 + 9 + 64)


@pytest.mark.parametrize("shape", [(4, 4), (3, 7), (7, 3), (1, 5), (5, 1)])
def test_only_as_many_neurons_as_inputs_can_be_orthonormal(shape):
    orthonormal = nn.init.orthogonal_(torch.empty(shape, dtype=torch.float64))
    least = max(shape[0] - shape[1], 0)
    assert orthogonality(orthonormal).item() == pytest.approx(least, abs=1e-12)
    assert orthogonality(orthonormal + 0.1 * randn(*shape)).item() > least


def test_filters_are_flattened():
    filters = randn(4, 3, 2, 2)
    torch.testing.assert_close(orthogonality(filters), orthogonality(filters.reshape(4, 12)))


def test_the_frobenius_norm_is_that_of_torch():
    w = randn(6, 4)
    expected = torch.linalg.matrix_norm(w @ w.T - torch.eye(6)) ** 2
    torch.testing.assert_close(orthogonality(w), expected)


def test_gradients_are_those_of_finite_differences():
    w = randn(4, 3).requires_grad_()
    assert gradcheck(orthogonality, w)
    assert gradgradcheck(orthogonality, w)


def test_half_precision_is_summed_in_float32():
    value = orthogonality(torch.full((1, 2049), 1.0).half())
    assert value.dtype == torch.float32
    assert value.item() == 2048.0**2


def test_the_dtype_does_not_depend_on_the_order_of_the_layers():
    single, double = randn(2, 3).float(), randn(3, 2)
    for weights in ((single, double), (double, single)):
        value = orthogonality(*weights)
        assert value.dtype == torch.float64
        torch.testing.assert_close(value, orthogonality(*(w.double() for w in weights)))


def test_of_complex_weights_unitary_ones_are_orthonormal():
    """The rows (1, i) and (1, -i), divided by sqrt(2); without the division off by the identity."""
    rows = torch.tensor([[1, 1j], [1, -1j]], dtype=torch.complex128)
    assert orthogonality(rows / 2**0.5).item() == pytest.approx(0, abs=1e-12)
    assert orthogonality(rows).dtype == torch.float64
    assert orthogonality(rows).item() == 2


def test_attached_it_takes_weights_and_no_biases():
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Conv1d(1, 2, 3))
    penalty = topoloss.attach(model, "orthogonality")
    expected = orthogonality(model[0].weight, model[2].weight)
    torch.testing.assert_close(penalty(), expected)
    penalty().backward()
    assert model[0].weight.grad.any()
    assert model[0].bias.grad is None


def test_no_weights_are_an_error():
    with pytest.raises(topoloss.InputError, match="no weights were given"):
        topoloss.regulariser("orthogonality")({})


def test_huge_weights_are_far_from_orthogonal_and_not_undefined():
    # The products 2^128 and -2^128 overflow float32, and infinity less infinity is NaN.
    rows = 2.0**64 * torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    assert topoloss.regulariser("orthogonality")({"hidden": rows}).item() == torch.inf
