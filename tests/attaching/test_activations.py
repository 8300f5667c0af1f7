"""The elementwise activation after a layer: module, function or formula, in place or not."""

import pytest
import torch
import torch.nn.functional as F
from attaching.helpers import (
    Between,
    Module,
    StraightThrough,
    assert_layers,
    assert_observes,
    batch,
    with_between,
)
from torch import Tensor, nn

import topoloss

MODULES = [
    *(nn.CELU(), nn.ELU(), nn.GELU(), nn.GELU("tanh"), nn.Hardshrink(), nn.Hardsigmoid()),
    *(nn.Hardswish(), nn.Hardtanh(), nn.LeakyReLU(0.3), nn.LogSigmoid(), nn.Mish(), nn.ReLU()),
    *(nn.ReLU6(), nn.SELU(), nn.Sigmoid(), nn.SiLU(), nn.Softplus(2.0), nn.Softshrink()),
    *(nn.Softsign(), nn.Tanh(), nn.Tanhshrink(), nn.Threshold(0.1, -2.0), nn.Identity()),
    *(nn.ReLU(inplace=True), nn.SiLU(inplace=True), nn.LeakyReLU(0.3, inplace=True)),
    *(nn.Mish(inplace=True), nn.Hardswish(inplace=True), nn.Threshold(0.1, -2.0, inplace=True)),
    *(nn.CELU(inplace=True), nn.ELU(inplace=True), nn.SELU(inplace=True)),
    *(nn.Hardsigmoid(inplace=True), nn.Hardtanh(inplace=True), nn.ReLU6(inplace=True)),
]
FUNCTIONS = {
    "F.relu": F.relu,
    "F.relu(input=)": lambda h: F.relu(input=h),
    "F.relu(inplace=True)": lambda h: F.relu(h, inplace=True),
    "F.relu(True)": lambda h: F.relu(h, True),
    "F.relu_": F.relu_,
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "tensor.relu()": lambda h: h.relu(),
    "tensor.relu_()": lambda h: h.relu_(),
    "torch.tanh": torch.tanh,
    "tensor.tanh_()": lambda h: h.tanh_(),
    "torch.sigmoid": torch.sigmoid,
    "torch.special.expit": torch.special.expit,
    "F.gelu(approximate=)": lambda h: F.gelu(h, approximate="tanh"),
    "F.leaky_relu_": lambda h: F.leaky_relu_(h, 0.2),
    "F.elu_": F.elu_,
    "F.threshold_": lambda h: F.threshold_(h, 0.1, -1.0),
    "F.hardtanh(positional)": lambda h: F.hardtanh(h, -0.5, 0.5),
    "torch.clamp(min=)": lambda h: torch.clamp(h, min=0),
    "tensor.clamp_min": lambda h: h.clamp_min(0.1),
    "power": lambda h: h**2,
    "torch.sin": torch.sin,
    "tensor.abs_()": lambda h: h.abs_(),
    "tensor.clamp_(min=)": lambda h: h.clamp_(min=0),
    "tensor.copysign_": lambda h: h.copysign_(torch.ones(())),
    "torch.arctan": torch.arctan,
    "torch.asinh": torch.asinh,
    # A copy, or a view in which nothing is moved.
    "clone": lambda h: h.clone().relu(),
    "contiguous": lambda h: h.contiguous().relu(),
    "view": lambda h: h.view(h.shape).relu(),
    "reshape": lambda h: h.reshape(h.shape).relu(),
    "all of it": lambda h: h[...].relu(),
}
FORMULAS = {
    "x * sigmoid(x)": lambda h: h * torch.sigmoid(h),
    "sigmoid(x) * x": lambda h: torch.sigmoid(h) * h,
    "x.mul(x.sigmoid())": lambda h: h.mul(h.sigmoid()),
    "x *= sigmoid(x)": lambda h: h.clone().mul_(torch.sigmoid(h)),
    "x * tanh(softplus(x))": lambda h: h * torch.tanh(F.softplus(h)),
    "x / (1 + |x|)": lambda h: h / (1 + h.abs()),
    "relu(x) + x": lambda h: F.relu(h) + h,
    "relu(x) - 0.1 relu(-x)": lambda h: F.relu(h) - 0.1 * F.relu(-h),
    "max(0, x)": lambda h: torch.maximum(torch.zeros_like(h), h),
    "torch.max": lambda h: torch.max(h, torch.zeros_like(h)),
    "x * sigmoid(1.702 x)": lambda h: h * torch.sigmoid(1.702 * h),
    "gelu by tanh": lambda h: (
        0.5 * h * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (h + 0.044715 * torch.pow(h, 3.0))))
    ),
    "where": lambda h: torch.where(h > 0, h, 0.1 * h),
    "where with a number": lambda h: torch.where(h > 0, h, -0.5),
    "x * (x > 0)": lambda h: h * (h > 0),
    "masked_fill": lambda h: h.masked_fill(h < 0, 0.0),
    "masked_fill_": lambda h: h.masked_fill_(h < 0, 0.0),
    "1 / (1 + exp(-x))": lambda h: 1 / (1 + torch.exp(-h)),
    "relu(x)^2": lambda h: torch.square(F.relu(h)),
}


@pytest.mark.parametrize("activation", MODULES, ids=repr)
def test_an_activation_module_is_found(activation):
    assert_observes(Between(activation), with_between, batch(4))


@pytest.mark.parametrize("activation", FUNCTIONS.values(), ids=FUNCTIONS)
def test_an_activation_function_is_found(activation):
    assert_observes(Between(activation), with_between, batch(4))


@pytest.mark.parametrize("as_module", [False, True])
@pytest.mark.parametrize("activation", FORMULAS.values(), ids=FORMULAS)
def test_an_activation_written_as_a_formula_is_found(activation, as_module):
    between = Module(activation) if as_module else activation
    assert_observes(Between(between), with_between, batch(4))


@pytest.mark.parametrize("layers", ["auto", "trainable", ["a", "b"], nn.Linear])
@pytest.mark.parametrize("activation", ["relu(x) + x", "x * sigmoid(1.702 x)", "masked_fill_"])
def test_a_formula_is_followed_however_layers_are_chosen(activation, layers):
    assert_observes(Between(FORMULAS[activation]), with_between, batch(4), layers=layers)


@pytest.mark.parametrize("layers", ["auto", "trainable"])
@pytest.mark.parametrize("activation", [nn.PReLU(), nn.PReLU(8)], ids=repr)
def test_prelu_has_parameters_but_adds_no_neurons(activation, layers):
    assert_observes(Between(activation), with_between, batch(4), layers=layers)


def test_the_slope_of_prelu_may_be_a_bare_parameter():
    class Slope(Between):
        def __init__(self):
            super().__init__(None)
            self.slope = nn.Parameter(torch.tensor([0.25]))

        def forward(self, x):
            return self.b(F.prelu(self.a(x), self.slope))

    def by_hand(model, x):
        h = F.prelu(model.a(x), model.slope)
        return {"a": h, "b": model.b(h)}

    assert_observes(Slope(), by_hand, batch(4))


@pytest.mark.parametrize("training", [True, False])
def test_a_random_activation_is_taken_as_it_was_drawn(training):
    assert_observes(Between(nn.RReLU()).train(training), with_between, batch(4))


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU(inplace=True), F.relu_, torch.tanh])
def test_with_after_activation_false_layers_are_taken_before_their_activations(activation):
    def by_hand(model, x):
        h = model.a(x)
        return {"a": h, "b": model.b(model.between(h.clone()))}

    assert_observes(Between(activation), by_hand, batch(4), after_activation=False)


def test_the_last_layer_is_taken_after_its_activation_too():
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3), nn.Sigmoid())

    def by_hand(model, x):
        h = model[1](model[0](x))
        return {"0": h, "2": model[3](model[2](h))}

    assert_observes(model, by_hand, batch(4))


BETWEEN_LAYER_AND_ACTIVATION = {
    "identity": nn.Identity(),
    "dropout": nn.Dropout(0.5),
    "identities": nn.Sequential(nn.Identity(), nn.Dropout(0.5), nn.Identity()),
    "scale": Module(lambda h: 0.5 * h + 1),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(
    "first", BETWEEN_LAYER_AND_ACTIVATION.values(), ids=BETWEEN_LAYER_AND_ACTIVATION
)
def test_an_activation_behind_something_else_is_found(first, inplace, training):
    model = Between(nn.Sequential(first, nn.ReLU(inplace=inplace))).train(training)
    assert_observes(model, with_between, batch(4))


class ChannelsLast(nn.Module):
    """A convolution, whose output is copied into another order in memory before its activation."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3).to(memory_format=torch.channels_last)

    def forward(self, x):
        h = self.conv(x.to(memory_format=torch.channels_last))
        assert not h.is_contiguous()
        return F.relu(h.contiguous())


def test_an_activation_behind_a_copy_in_another_order_is_found():
    assert_observes(ChannelsLast(), lambda model, x: {"conv": model(x)}, batch(2, 6, 7))


def test_a_layer_ends_before_it_is_transposed_even_if_it_is_square():
    """Its entries are elsewhere then: what was a neuron may be a sample."""

    def by_hand(model, x):
        h = model.a(x)
        return {"a": h, "b": model.b(model.between(h))}

    between = Between(lambda h: h.T.relu().T, width=6)
    assert_observes(between, by_hand, batch(4, samples=6))


class OtherInTraining(nn.Module):
    """An activation in evaluation, a softmax in training."""

    def forward(self, h):
        return torch.softmax(h, 1) if self.training else StraightThrough.apply(h)


def test_a_module_is_an_activation_in_one_mode_alone():
    model, x = nn.Sequential(nn.Linear(4, 8), OtherInTraining(), nn.Linear(8, 3)), batch(4)
    with topoloss.observe(model) as seen:
        for training in (False, True, False):
            out = model.train(training)(x)
            first = model[0](x)
            assert_layers(seen, {"0": first if training else first.relu(), "2": out})


@pytest.mark.parametrize("training", [True, False])
def test_a_layer_is_taken_before_the_dropout_that_nothing_follows(training):
    def by_hand(model, x):
        h = model.a(x)
        return {"a": h, "b": model.b(model.between(h))}

    assert_observes(Between(nn.Dropout(0.5)).train(training), by_hand, batch(4))


def before_dropout(model, x):
    """The layers of a `Between` whose first layer is taken before the dropout at the end."""
    h = model.between[0](model.a(x))
    return {"a": h, "b": model.b(model.between[1](h))}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", FORMULAS.values(), ids=FORMULAS)
def test_a_layer_is_taken_after_its_activation_and_before_the_dropout(activation, training):
    model = Between(nn.Sequential(Module(activation), nn.Dropout(0.5))).train(training)
    assert_observes(model, before_dropout, batch(4))


PLAIN = {
    "scaled": lambda h: h * 1.7,
    "divided": lambda h: h / 2,
    "shifted and scaled": lambda h: 0.5 * h + 1,
    "cast": lambda h: h.double().float(),
    "in place": lambda h: h.mul_(2),
    "copied": lambda h: h.clone(),
    "viewed": lambda h: h.view(len(h), -1),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activated", [False, True])
@pytest.mark.parametrize("plain", PLAIN.values(), ids=PLAIN)
def test_a_layer_that_is_scaled_before_dropout_is_followed(plain, activated, training):
    def between(h):
        return plain(F.leaky_relu(h) if activated else h)

    model = Between(nn.Sequential(Module(between), nn.Dropout(0.5))).train(training)
    assert_observes(model, before_dropout, batch(4))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("plain", PLAIN.values(), ids=PLAIN)
def test_a_layer_ends_before_the_first_of_two_dropouts_with_a_scale_between(plain, training):
    layers = (Module(plain), nn.Dropout(0.5), Module(lambda h: 3 * h), nn.Dropout(0.5))

    def by_hand(model, x):
        h = model.between[0](model.a(x))
        return {"a": h, "b": model.b(model.between[1:](h))}

    assert_observes(Between(nn.Sequential(*layers)).train(training), by_hand, batch(4))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("plain", PLAIN.values(), ids=PLAIN)
def test_an_activation_behind_a_scale_and_dropout_is_found(plain, training):
    model = Between(nn.Sequential(Module(plain), nn.Dropout(0.5), nn.ReLU())).train(training)
    assert_observes(model, with_between, batch(4))


ENDS = {
    "softmax": lambda h: torch.softmax(h, 1),
    "log-softmax": lambda h: F.log_softmax(h, 1),
    "maximum with the mean": lambda h: torch.maximum(h, h.mean(0, keepdim=True)),
    "minus the mean": lambda h: h - h.mean(1, keepdim=True),
    "minus the largest": lambda h: h - h.max(1, keepdim=True).values,
    "minus the smallest": lambda h: h - torch.min(h, dim=1, keepdim=True)[0],
    "over the largest of all": lambda h: h / h.max(),
    "cumulated": lambda h: h.cumsum(1),
    "another order": lambda h: h.flip(1),
}


@pytest.mark.parametrize("as_module", [False, True])
@pytest.mark.parametrize("what", ENDS.values(), ids=ENDS)
def test_a_layer_ends_before_what_joins_its_neurons(what, as_module):
    def by_hand(model, x):
        h = model.a(x)
        return {"a": h, "b": model.b(model.between(h))}

    assert_observes(Between(Module(what) if as_module else what), by_hand, batch(4))


def test_what_a_function_does_depends_on_its_arguments():
    """The same function moves nothing with one index, and swaps two neurons with another."""
    between = Between(lambda h: h[...].relu()[:, [1, 0, 2, 3, 4, 5, 6, 7]].tanh())

    def by_hand(model, x):
        return {"a": model.a(x).relu(), "b": model(x)}

    assert_observes(between, by_hand, batch(4))


OTHER_SHAPES = {
    "the largest of each channel": lambda h: h.max(2)[0],
    "the smallest of each channel": lambda h: torch.min(h, 2).values,
    "distances from centres": lambda h: torch.exp(-((h - torch.linspace(-1, 1, 5)) ** 2)),
    "several scales": lambda h: (h[None] * torch.arange(1.0, 6).view(5, 1, 1, 1)).sum(0),
}


@pytest.mark.parametrize("what", OTHER_SHAPES.values(), ids=OTHER_SHAPES)
@pytest.mark.parametrize("as_module", [False, True])
def test_a_layer_ends_before_what_has_another_shape(what, as_module):
    """Where entries are joined, or one becomes several."""
    function = Module(what) if as_module else what

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv1d(4, 8, 1)

        def forward(self, x):
            return function(self.a(x)).tanh()

    model, x = Model(), batch(4, 1)
    with topoloss.observe(model) as seen:
        model(x)
        torch.testing.assert_close(seen.activations()["a"], model.a(x).flatten(1))


def test_a_layer_that_is_used_beside_its_activation_is_taken_before_it():
    class Both(Between):
        def forward(self, x):
            h = self.a(x)
            return self.b(F.relu(h)), h

    def by_hand(model, x):
        h = model.a(x)
        return {"a": h, "b": model.b(F.relu(h))}

    assert_observes(Both(None), by_hand, batch(4))


def test_a_layer_ends_before_branches_of_which_the_model_puts_one_out():
    """They meet again, but not all that is made of the layer passes through that point."""

    class Branches(Between):
        def forward(self, x):
            h = self.a(x)
            u = F.relu(h)
            return u, self.b(u + h)

    def by_hand(model, x):
        h = model.a(x)
        return {"a": h, "b": model.b(F.relu(h) + h)}

    assert_observes(Branches(None), by_hand, batch(4))


def test_a_gate_ends_both_layers_that_it_joins():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate, self.up, self.down = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 4)

        def forward(self, x):
            return self.down(F.silu(self.gate(x)) * self.up(x))

    def by_hand(model, x):
        gate, up = F.silu(model.gate(x)), model.up(x)
        return {"gate": gate, "up": up, "down": model.down(gate * up)}

    assert_observes(Gated(), by_hand, batch(4))
    assert_observes(Gated(), by_hand, batch(5, 4))


def test_a_gate_of_halves_ends_the_layer_before_it_is_split():
    def by_hand(model, x):
        h = model[0](x)
        return {"0": h, "2": model[2](model[1](h))}

    assert_observes(nn.Sequential(nn.Linear(4, 8), nn.GLU(), nn.Linear(4, 3)), by_hand, batch(4))


# What torch's function modes don't see; of a custom function they see the values alone.


def swish(h: Tensor) -> Tensor:
    return h * torch.sigmoid(h)


def scripted():
    return torch.jit.script(swish)


UNSEEN = {
    "scripted": scripted,
    "traced": lambda: torch.jit.trace(F.relu, torch.ones(2, 8), check_trace=False),
    "vmap": lambda: torch.vmap(F.relu),
    "autograd": lambda: StraightThrough.apply,
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("make", UNSEEN.values(), ids=UNSEEN)
def test_an_unseen_activation_is_found_where_it_is_a_module(make):
    model, x = Between(Module(make())), batch(4)
    with topoloss.observe(model) as seen:
        for _ in range(3):
            model(x)
            assert_layers(seen, with_between(model, x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("make", UNSEEN.values(), ids=UNSEEN)
def test_a_layer_ends_at_an_unseen_activation_before_dropout(make):
    model, x = nn.Sequential(nn.Linear(4, 8), Module(make()), nn.Dropout(), nn.Tanh()), batch(4)
    with topoloss.observe(model) as seen:
        for _ in range(3):
            model(x)
            assert_layers(seen, {"0": model[:2](x)})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["scripted", "traced", "vmap"])
def test_an_unseen_activation_in_the_midst_of_a_model_is_told(kind):
    """The error stands for what must not happen: other neurons, taken without a word."""
    model = Between(UNSEEN[kind]())
    seen = topoloss.observe(model)
    model(batch(4))
    # The message depends on whether the layer's output is freed before its result is used.
    told = "layer 'a' (goes into something that no torch function mode sees|could not be followed)"
    with pytest.raises(topoloss.AttachmentError, match=told):
        seen.activations()


def test_a_custom_function_in_the_midst_of_a_model_is_an_activation():
    assert_observes(Between(StraightThrough.apply), with_between, batch(4))


def test_the_gradient_of_a_custom_function_is_its_own():
    assert_observes(Between(Module(StraightThrough.apply)), with_between, batch(4))


DETACHED = {
    "detach": lambda h: h.relu().detach(),
    "data": lambda h: h.relu().data,
    "and more": lambda h: torch.tanh(2 * h.relu().detach()),
    "a comparison": lambda h: (h.relu() > 0.5).float(),
    "a copy": lambda h: h.relu().detach().clone(),
    "and changed in place": lambda h: h.relu().detach().clone().tanh_(),
}


@pytest.mark.parametrize("layers", ["auto", ["a", "b"]], ids=str)
@pytest.mark.parametrize("as_module", [False, True])
@pytest.mark.parametrize("between", DETACHED.values(), ids=DETACHED)
def test_a_layer_ends_before_its_gradient_is_cut(between, as_module, layers):
    """The penalty reaches the layer, though no loss does from behind."""

    def by_hand(model, x):
        return {"a": model.a(x).relu(), "b": model(x)}

    between = Module(between) if as_module else between
    assert_observes(Between(between), by_hand, batch(4), layers=layers)


STRAIGHT_THROUGH = {
    "rounded": lambda h: h + (h.round() - h).detach(),
    "a gate without a gradient": lambda h: h * h.detach().sigmoid(),
}


@pytest.mark.parametrize("between", STRAIGHT_THROUGH.values(), ids=STRAIGHT_THROUGH)
def test_a_formula_may_hold_some_of_its_values_back_from_the_gradient(between):
    assert_observes(Between(between), with_between, batch(4))


def test_without_gradients_a_layer_goes_on_over_detach():
    model, x = Between(lambda h: h.relu().detach().tanh()), batch(4)
    seen = topoloss.observe(model)
    with torch.no_grad():
        model(x)
        assert_layers(seen, with_between(model, x))
