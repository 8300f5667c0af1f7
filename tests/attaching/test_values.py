"""What an attachment's penalty, diagrams and neurons are."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from attaching.helpers import LAYERS, Net, batch, by_hand, gradients, penalty_by_hand
from torch import nn

import topoloss


@pytest.mark.parametrize("name", ["t1", "t2", "naive"])
def test_the_penalty_and_its_gradients_are_those_of_the_activations_by_hand(name):
    model = Net()
    penalty = topoloss.attach(model, name)
    for _ in range(3):
        x = batch(4, samples=16)
        model(x)
        value, expected = penalty(), penalty_by_hand(model, x, name)
        assert value.shape == ()
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(gradients(value, model), gradients(expected, model))


@pytest.mark.parametrize("per", [None, "network"])
def test_the_layers_stand_side_by_side(per):
    model, x = Net(), batch(4, samples=16)
    penalty = topoloss.attach(model, "t2", per=per)
    model(x)
    torch.testing.assert_close(penalty(), penalty_by_hand(model, x, "t2"))
    together = torch.cat(list(by_hand(model, x).values()), 1)
    deaths = topoloss.regulariser("t2").diagrams(together)[0].deaths
    torch.testing.assert_close(penalty.diagrams()[0].deaths, deaths)


def test_the_layers_may_be_valued_one_by_one():
    model, x = Net(), batch(4, samples=16)
    penalty = topoloss.attach(model, "t2", per="layer")
    model(x)
    reg = topoloss.regulariser("t2")
    layers = by_hand(model, x)
    expected = sum(reg(h) for h in layers.values())
    torch.testing.assert_close(penalty(), expected)
    torch.testing.assert_close(gradients(penalty(), model), gradients(expected, model))
    assert abs(expected - penalty_by_hand(model, x, "t2")) > 1e-3
    diagrams = penalty.diagrams()
    assert list(diagrams) == LAYERS
    for name, h in layers.items():
        torch.testing.assert_close(diagrams[name][0].deaths, reg.diagrams(h)[0].deaths)


def test_diagrams_neurons_and_activations_agree_with_the_penalty():
    model, x = Net(), batch(4, samples=16)
    penalty = topoloss.attach(model, "t1", fraction=0.5)
    model(x)
    deaths = penalty.diagrams()[0].deaths
    assert deaths.shape == (sum(map(len, penalty.neurons.values())) - 1,) == (4 + 3 + 3 - 1,)
    torch.testing.assert_close(penalty(), -deaths.sum())
    activations = penalty.activations()
    for name, h in by_hand(model, x).items():
        index = penalty.neurons[name]
        assert index.dtype == torch.int64
        torch.testing.assert_close(activations[name], h[:, index])
    value = topoloss.regulariser("t1")(torch.cat(list(activations.values()), 1))
    torch.testing.assert_close(penalty(), value)


def test_an_observation_takes_a_sampler_too():
    class EveryOther(topoloss.Sampler):
        def select(self, x):
            return torch.arange(0, x.shape[1], 2)

    model, x = Net(), batch(4, samples=16)
    seen = topoloss.observe(model, sampler=EveryOther())
    model(x)
    first, second, last = by_hand(model, x).values()
    expected = {"first": first[:, ::2], "second": second[:, ::2], "last": last}
    torch.testing.assert_close(seen.activations(), expected)
    largest = topoloss.observe(model, sampler="importance", fraction=0.5)
    model(x)
    ranked = first.abs().mean(0).argsort(descending=True, stable=True)[:4].sort().values
    torch.testing.assert_close(largest.neurons["first"], ranked)
    torch.testing.assert_close(largest.activations()["first"], first[:, ranked])


def test_an_attachment_is_an_observation_and_neither_is_a_module():
    model = Net()
    seen, penalty = topoloss.observe(model), topoloss.attach(model)
    assert isinstance(seen, topoloss.Observation)
    assert isinstance(penalty, topoloss.Attachment)
    assert isinstance(penalty, topoloss.Observation)
    assert not isinstance(penalty, nn.Module)
    assert not isinstance(seen, nn.Module)


def test_options_of_the_regulariser_go_through_an_instance():
    model, x = Net(), batch(4, samples=16)
    reg = topoloss.regulariser("t2", alpha=0.9, beta=0.1)
    penalty = topoloss.attach(model, reg)
    model(x)
    expected = reg(torch.cat(list(by_hand(model, x).values()), 1))
    torch.testing.assert_close(penalty(), expected)


def test_autocast_and_half_precision_are_valued_in_float32():
    model, x = Net(), batch(4, samples=16)
    penalty = topoloss.attach(model)
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            model(x)
            value, expected = penalty(), penalty_by_hand(model, x)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected)
    model.bfloat16()
    for _ in range(2):
        model(x.bfloat16())
        value = penalty()
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, penalty_by_hand(model, x.bfloat16()))
        value.backward()
        assert model.first.weight.grad.isfinite().all()


def test_under_autocast_the_activations_are_those_that_the_model_computed():
    model, x = Net(), batch(4, samples=16)
    seen = topoloss.observe(model)
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            out = model(x)
            torch.testing.assert_close(seen.activations(), by_hand(model, x))
        assert seen.activations()["last"].dtype == out.dtype == torch.bfloat16


# The regulariser decides how layers are joined.


class Consecutive(topoloss.Regulariser):
    """Sums the products of the means of consecutive layers."""

    def of_layers(self, layers):
        means = [h.mean() for h in layers.values()]
        return torch.stack([a * b for a, b in itertools.pairwise(means)]).sum()


def test_a_regulariser_may_join_the_layers_in_its_own_way():
    model, x = Net(), batch(4, samples=16)
    penalty = topoloss.attach(model, Consecutive())
    for _ in range(2):
        model(x)
        first, second, last = (h.mean() for h in by_hand(model, x).values())
        expected = first * second + second * last
        torch.testing.assert_close(penalty(), expected)
        torch.testing.assert_close(gradients(penalty(), model), gradients(expected, model))


class KeepsLayers(topoloss.Regulariser):
    """Notes which layers it was given."""

    def __init__(self):
        super().__init__()
        self.given = {}

    def of_layers(self, layers):
        self.given = dict(layers)
        return torch.stack([h.square().sum() for h in layers.values()]).sum()


class WithInputs(KeepsLayers):
    inputs = True


@pytest.mark.parametrize("make", [KeepsLayers, WithInputs])
def test_a_regulariser_may_ask_for_the_inputs_of_the_model(make):
    model, x = Net(), batch(4, samples=16)
    penalty = topoloss.attach(model, make())
    model(x)
    value = penalty()
    expected = ({"(input)": x} if make is WithInputs else {}) | by_hand(model, x)
    assert list(penalty.regulariser.given) == list(expected)
    torch.testing.assert_close(penalty.regulariser.given, expected)
    torch.testing.assert_close(value, sum(h.square().sum() for h in expected.values()))


def test_the_inputs_are_flattened_as_layers_are():
    model, x = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(36, 3)), batch(2, 5, 5)
    penalty = topoloss.attach(model, WithInputs())
    model(x)
    penalty()
    torch.testing.assert_close(penalty.regulariser.given["(input)"], x.flatten(1))


def test_the_samples_of_the_inputs_stand_first_wherever_they_were():
    model, x = nn.Linear(4, 3), torch.randn(5, 16, 4)
    penalty = topoloss.attach(model, WithInputs(), batch_dim=1)
    model(x)
    penalty()
    torch.testing.assert_close(penalty.regulariser.given["(input)"], x.transpose(0, 1).flatten(1))


class Scaled(nn.Module):
    """Takes what a dataclass or a plain object holds, numbers without samples among it."""

    def __init__(self):
        super().__init__()
        self.net = Net()

    def forward(self, given):
        return self.net(given.x.reshape(-1, 4) * given.scale)


@pytest.mark.parametrize("shape", [(16, 4), (16, 2, 2)])
def test_the_inputs_of_the_model_may_be_held_by_an_object(shape):
    given = SimpleNamespace(scale=torch.tensor(2.0), x=torch.randn(shape))
    model = Scaled()
    penalty = topoloss.attach(model, WithInputs())
    model(given)
    penalty()
    torch.testing.assert_close(penalty.regulariser.given["(input)"], given.x.flatten(1))


def test_samples_that_are_one_number_each_are_one_column():
    model, x = nn.Sequential(nn.Unflatten(0, (16, 1)), nn.Linear(1, 3)), torch.randn(16)
    penalty = topoloss.attach(model, WithInputs())
    model(x)
    penalty()
    torch.testing.assert_close(penalty.regulariser.given["(input)"], x[:, None])


def test_a_model_without_an_input_of_numbers_is_told():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3))
    penalty = topoloss.attach(model, WithInputs())
    model(torch.arange(5))
    with pytest.raises(topoloss.AttachmentError, match="no floating-point tensor with an axis"):
        penalty()
