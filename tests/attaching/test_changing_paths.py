"""Models whose passes differ: each pass is observed as it was."""

import contextlib

import pytest
import torch
import torch.nn.functional as F
from attaching.helpers import Between, assert_layers, batch, with_between
from torch import nn

import topoloss


def assert_follows(model, x, change):
    """What is observed is right before and after a change of a `Between`."""
    with topoloss.observe(model) as seen:
        for _ in range(2):
            model(x)
            assert_layers(seen, with_between(model, x))
            change()


def test_an_activation_whose_constant_changes_is_followed():
    model = Between(nn.LeakyReLU(0.1))
    assert_follows(model, batch(4), lambda: setattr(model.between, "negative_slope", 0.5))


def test_an_activation_whose_parameter_is_replaced_is_followed():
    model = Between(nn.PReLU())

    def change():
        model.between.weight = nn.Parameter(torch.tensor([0.9]))

    assert_follows(model, batch(4), change)


def test_an_activation_that_depends_on_the_mode_is_followed():
    model = Between(lambda h: F.relu(h) if model.training else torch.tanh(h))
    assert_follows(model, batch(4), model.eval)


def test_an_activation_may_be_replaced_by_another():
    model = Between(nn.ReLU())
    assert_follows(model, batch(4), lambda: setattr(model, "between", nn.Tanh()))


def test_a_layer_may_be_replaced_by_another():
    model = Between(nn.ReLU())
    assert_follows(model, batch(4), lambda: setattr(model, "b", nn.Linear(8, 5)))


def test_a_layer_counts_in_the_passes_in_which_it_is_not_frozen():
    model, x = Between(nn.ReLU()), batch(4)
    seen = topoloss.observe(model)
    for trained in (True, False, True):
        model.a.requires_grad_(trained)
        model(x)
        layers = with_between(model, x)
        assert_layers(seen, layers if trained else {"b": layers["b"]})


def test_in_a_functional_call_the_given_parameters_count():
    model, x = Between(nn.PReLU()), batch(4)
    seen = topoloss.observe(model)
    model(x)
    other = {name: 2 * p.detach() for name, p in model.named_parameters()}
    out = torch.func.functional_call(model, other, x)
    h = F.prelu(F.linear(x, other["a.weight"], other["a.bias"]), other["between.weight"])
    assert_layers(seen, {"a": h, "b": out})


class Unrolled(nn.Module):
    """One layer that is called as often as the caller likes."""

    def __init__(self):
        super().__init__()
        self.cell = nn.Linear(4, 4)

    def forward(self, x, steps):
        for _ in range(steps):
            x = torch.tanh(self.cell(x))
        return x


@pytest.mark.parametrize("layers", ["auto", "trainable", "cell"])
@pytest.mark.parametrize("after_activation", [True, False])
def test_the_number_of_calls_may_change(after_activation, layers):
    model, given = Unrolled(), batch(4)
    seen = topoloss.observe(model, layers=layers, after_activation=after_activation)
    for steps in (2, 3, 1):
        model(given, steps)
        x, expected = given, {}
        for name in ["cell", "cell:2", "cell:3"][:steps]:
            h = model.cell(x)
            x = torch.tanh(h)
            expected[name] = x if after_activation else h
        assert_layers(seen, expected)


class Routed(nn.Module):
    """One activation module for two layers, of which a pass may leave out the first."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.act = nn.ReLU()

    def forward(self, x, with_a):
        if with_a:
            x = self.act(self.a(x))
        return self.c(self.act(self.b(x)))


@pytest.mark.parametrize("layers", ["auto", "trainable"])
@pytest.mark.parametrize("order", [(True, False, True), (False, True, False)])
def test_a_layer_may_be_left_out_of_a_pass(order, layers):
    model, x = Routed(), batch(4)
    seen = topoloss.observe(model, layers=layers)
    for with_a in order:
        model(x, with_a=with_a)
        expected, h = {}, x
        if with_a:
            h = expected["a"] = F.relu(model.a(h))
        h = expected["b"] = F.relu(model.b(h))
        assert_layers(seen, expected | {"c": model.c(h)})


def test_a_named_layer_that_a_pass_leaves_out_is_an_error_for_that_pass_alone():
    model, x = Routed(), batch(4)
    seen = topoloss.observe(model, layers=["a", "c"])
    for with_a in (True, False, True):
        model(x, with_a=with_a)
        if with_a:
            assert list(seen.activations()) == ["a", "c"]
        else:
            with pytest.raises(topoloss.AttachmentError, match="'a'"):
                seen.activations()


class Optional(Between):
    """Leaves out its activation module where it is told to."""

    leave_out = False

    def forward(self, x):
        h = self.a(x)
        return self.b(torch.tanh(h) if self.leave_out else self.between(h))


def test_an_activation_module_may_be_left_out():
    model, x = Optional(nn.ReLU()), batch(4)
    seen = topoloss.observe(model)
    for leave_out in (False, True, False):
        model.leave_out = leave_out
        model(x)
        h = (torch.tanh if leave_out else F.relu)(model.a(x))
        assert_layers(seen, {"a": h, "b": model.b(h)})


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("inplace", [False, True])
def test_the_first_pass_may_be_a_validation_pass(mode, inplace):
    model, x = Between(nn.ReLU(inplace=inplace)), batch(4)
    seen = topoloss.observe(model)
    for context in (mode, contextlib.nullcontext, mode):
        with context():
            model(x)
            assert_layers(seen, with_between(model, x))


def test_the_numbers_of_samples_and_of_positions_may_change():
    model = Between(nn.ReLU())
    seen = topoloss.observe(model)
    for shape in ((6, 4), (2, 5, 4), (5, 2, 4), (1, 4), (7, 1, 4)):
        x = torch.randn(shape)
        model(x)
        assert_layers(seen, with_between(model, x))
