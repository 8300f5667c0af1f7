"""Adaptive structured noise: its covariance by hand, and where it is added."""

import copy

import copying
import pytest
import torch
from topoloss_structured_noise import StructuredNoise, correlated, structured_noise
from torch import nn

import topoloss


def test_noise_by_hand():
    """Less its mean the batch is (-1, 2) and (1, -2); sqrt(2) of the second, by sqrt(2) samples.

    The diagonal adds sqrt(1e-3) times numbers of each neuron's own.
    """
    x = torch.tensor([[1.0, 5.0], [3.0, 1.0]])
    shared = torch.tensor([[0.0, 2**0.5], [2**0.5, 2**0.5]])
    own = torch.tensor([[1.0, 0.0], [0.0, -2.0]])
    expected = torch.tensor([[1.0 + 1e-3**0.5, -2.0], [0.0, -2 * 1e-3**0.5]])
    torch.testing.assert_close(correlated(x, shared, own), expected)


def test_the_covariance_of_the_noise_is_that_of_the_batch_and_a_thousandth():
    """The noise is linear in the numbers, so its covariance is a product of the linear map."""
    x = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    eye = torch.eye(7 + 4, dtype=torch.float64)
    linear = correlated(x, eye[:, :7], eye[:, 7:])
    expected = torch.cov(x.T, correction=0) + 1e-3 * torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(linear.T @ linear, expected)


def test_the_layer_multiplies_by_one_plus_the_noise_in_training_only():
    x = torch.randn(6, 3, 2, dtype=torch.float64, requires_grad=True)
    layer = StructuredNoise(variance=0.25)
    torch.manual_seed(5)
    noisy = layer(x)
    torch.manual_seed(5)
    shared, own = torch.randn(6, 6, dtype=x.dtype), torch.randn(6, 6, dtype=x.dtype)
    factor = 1 + 0.5 * correlated(x.detach().flatten(1), shared, own).reshape(x.shape)
    torch.testing.assert_close(noisy, x * factor)
    (gradient,) = torch.autograd.grad(noisy.sum(), x)
    torch.testing.assert_close(gradient, factor)  # the noise is a constant
    assert layer.eval()(x) is x
    assert StructuredNoise(variance=0)(x) is x


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays(dtype):
    assert StructuredNoise()(torch.ones(4, 3, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_noise_under_autocast_is_that_without(dtype):
    torch.manual_seed(0)
    x, shared, own = torch.randn(8, 5), torch.randn(8, 8), torch.randn(8, 5)
    x[:, 0] *= 1e3  # its mean square is above what float16 holds
    expected = correlated(x, shared, own)
    with torch.autocast("cpu", dtype):
        found = correlated(x, shared, own)
        torch.manual_seed(1)
        noisy = StructuredNoise()(x)
    assert torch.equal(found, expected)
    torch.manual_seed(1)
    assert torch.equal(noisy, StructuredNoise()(x))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_so(bad):
    x = torch.ones(4, 3)
    x[1, 2] = bad
    noisy = StructuredNoise()(x)
    assert not noisy[1, 2].isfinite()
    assert noisy[:, :2].isfinite().all()


def test_noise_of_large_activations_does_not_overflow():
    """Each of 1,024 samples adds 2**118: one too many for float32, and 2**123 divided by 32."""
    x = torch.tensor([2.0**118, -(2.0**118)]).repeat(512)[:, None]
    found = correlated(x, x.T / 2.0**118, torch.zeros(1, 1))
    assert found.item() == 2.0**123


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))


def test_attached_it_is_the_network_with_layers_of_it_until_it_is_removed():
    model, x = network(), torch.randn(8, 4)
    layers = copy.deepcopy(model)
    by_layers = nn.Sequential(
        *layers[:2], StructuredNoise(0.3), *layers[2:4], StructuredNoise(0.3), layers[4]
    )
    plain = model(x)
    with structured_noise(model, 0.3) as noise:
        assert noise.layers == ("1", "3")
        assert noise() == 0
        torch.manual_seed(1)
        attached = model(x)
        torch.manual_seed(1)
        assert torch.equal(attached, by_layers(x))
        assert torch.equal(model.eval()(x), plain)
        model.train()
    assert torch.equal(model(x), plain)
    assert all(not module._forward_hooks for module in model)


@pytest.mark.parametrize(
    "activation",
    [
        *(nn.ReLU, nn.ReLU6, nn.PReLU, nn.SELU, nn.CELU, nn.Mish, nn.Hardswish, nn.Hardtanh),
        *(nn.Hardsigmoid, nn.Softplus, nn.Softsign, nn.RReLU, nn.LogSigmoid, nn.Tanhshrink),
    ],
)
def test_every_elementwise_activation_is_found(activation):
    model = nn.Sequential(nn.Linear(4, 6), activation(), nn.Linear(6, 5), nn.ReLU())
    with structured_noise(model) as noise:
        assert noise.layers == ("1", "3")


def varies(model, x):
    return not torch.equal(model(x), model(x))


def test_a_copy_of_the_model_alone_has_no_noise():
    model, x = network(), torch.randn(8, 4)
    with structured_noise(model):
        alone = copy.deepcopy(model)
        assert varies(model, x)
        assert not varies(alone, x)


@pytest.mark.parametrize("copied", copying.WAYS)
def test_model_and_noise_are_copied_together(copied):
    model, x = network(), torch.randn(8, 4)
    with structured_noise(model) as noise:
        other, its = copied((model, noise))
        assert varies(other, x)
        its.remove()
        assert not varies(other, x)
        assert varies(model, x)
        removed, _ = copied((other, its))
        assert not varies(removed, x)


def test_a_compiled_model_has_noise_in_training_alone():
    model, x = network(), torch.randn(8, 4)
    with structured_noise(model):
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        assert varies(compiled, x)
        assert not varies(compiled.eval(), x)


def test_a_module_that_puts_out_no_tensor_is_named():
    model = nn.Sequential(nn.LSTM(4, 3))
    with (
        structured_noise(model, layers=["0"]),
        pytest.raises(topoloss.InputError, match="a LSTM returned something of type tuple"),
    ):
        model(torch.ones(2, 4))


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: StructuredNoise(variance=-1), "variance >= 0"),
        (lambda: StructuredNoise()(torch.ones(3).long()), "expected"),
        (lambda: structured_noise(None), "expected a Module"),
        (lambda: StructuredNoise()(None), "something of type NoneType"),
        (lambda: structured_noise(nn.Linear(2, 2)), "no activation that is a module"),
        (lambda: structured_noise(network(), layers=["1", "1"]), "each once"),
        (lambda: structured_noise(network(), layers=1), "a list"),
        (lambda: correlated(torch.ones(4, 3), torch.ones(2, 3), torch.ones(2, 3)), "draws, samp"),
        (lambda: structured_noise(network(), layers=["7"]), "at least one name"),
        (lambda: structured_noise(network(), layers="1"), "a list"),
    ],
)
def test_wrong_uses_are_errors_of_the_library(use, message):
    with pytest.raises(topoloss.TopolossError, match=message):
        use()
