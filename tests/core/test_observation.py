"""Which tensors of a model are observed, beside the same activations worked out by hand."""

import contextlib

import pytest
import torch
import torch.nn.functional as F
from spy import Spy, assert_observes, observed
from torch import nn
from torch.nn.utils import parametrizations

import topoloss


class Between(nn.Module):
    """Two layers and what stands between them: a module or a function."""

    def __init__(self, between, width=8):
        super().__init__()
        self.a = nn.Linear(4, width)
        self.between = between
        self.b = nn.Linear(width, 3)

    def forward(self, x):
        return self.b(self.between(self.a(x)))


def batch(*shape):
    return torch.randn(6, *shape)


# Activations.

MODULES = [
    *(nn.CELU(), nn.ELU(), nn.GELU(), nn.GELU("tanh"), nn.Hardshrink(), nn.Hardsigmoid()),
    *(nn.Hardswish(), nn.Hardtanh(), nn.LeakyReLU(0.3), nn.LogSigmoid(), nn.Mish(), nn.ReLU()),
    *(nn.ReLU6(), nn.SELU(), nn.Sigmoid(), nn.SiLU(), nn.Softplus(2.0), nn.Softshrink()),
    *(nn.Softsign(), nn.Tanh(), nn.Tanhshrink(), nn.Threshold(0.1, -2.0)),
    *(nn.ReLU(inplace=True), nn.SiLU(inplace=True), nn.LeakyReLU(0.3, inplace=True)),
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
}


def with_between(model, x):
    h = model.between(model.a(x))
    return {"a": h, "b": model.b(h)}


@pytest.mark.parametrize("activation", MODULES, ids=repr)
def test_an_activation_module_is_found(activation):
    assert_observes(Between(activation), with_between, batch(4))


@pytest.mark.parametrize("activation", FUNCTIONS.values(), ids=FUNCTIONS)
def test_an_activation_function_is_found(activation):
    assert_observes(Between(activation), with_between, batch(4))


@pytest.mark.parametrize("activation", [nn.PReLU(), nn.PReLU(8)], ids=repr)
def test_prelu_has_parameters_but_adds_no_neurons(activation):
    assert_observes(Between(activation), with_between, batch(4))


@pytest.mark.parametrize("inplace", [False, True])
def test_without_activations_the_modules_own_outputs_count(inplace):
    def by_hand(model, x):
        h = model.a(x)
        return {"a": h, "b": model.b(F.relu(h))}

    model = Between(nn.ReLU(inplace=inplace))
    assert_observes(model, by_hand, batch(4), after_activation=False)


def test_the_last_layer_is_taken_after_its_activation_too():
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3), nn.Sigmoid())

    def by_hand(model, x):
        h = model[1](model[0](x))
        return {"0": h, "2": model[3](model[2](h))}

    assert_observes(model, by_hand, batch(4))


class Module(nn.Module):
    """A custom activation: any function, as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, h):
        return self.function(h)


HAND_WRITTEN = {
    "x * sigmoid(x)": lambda h: h * torch.sigmoid(h),
    "sigmoid(x) * x": lambda h: torch.sigmoid(h) * h,
    "x.mul(x.sigmoid())": lambda h: h.mul(h.sigmoid()),
    "x *= sigmoid(x)": lambda h: h.clone().mul_(torch.sigmoid(h)),
    "x * tanh(softplus(x))": lambda h: h * torch.tanh(F.softplus(h)),
    "x / (1 + |x|)": lambda h: h / (1 + h.abs()),
    "relu(x) + x": lambda h: F.relu(h) + h,
    "relu(x) - relu(-x)": lambda h: F.relu(h) - F.relu(-h),
    "max(x, mean)": lambda h: torch.maximum(h, h.mean(0, keepdim=True)),
    "max(0, x)": lambda h: torch.maximum(torch.zeros_like(h), h),
    "torch.max": lambda h: torch.max(h, torch.zeros_like(h)),
    "x * sigmoid(1.702 x)": lambda h: h * torch.sigmoid(1.702 * h),
    "gelu by tanh": lambda h: 0.5 * h * (1 + torch.tanh(0.8 * (h + 0.045 * h**3))),
    "where": lambda h: torch.where(h > 0, h, 0.1 * h),
    "x * (x > 0)": lambda h: h * (h > 0),
    "masked_fill": lambda h: h.masked_fill(h < 0, 0.0),
    "masked_fill_": lambda h: h.masked_fill_(h < 0, 0.0),
    "1 / (1 + exp(-x))": lambda h: 1 / (1 + torch.exp(-h)),
    "arctan": torch.arctan,
    "asinh": torch.asinh,
}


@pytest.mark.parametrize("as_module", [False, True])
@pytest.mark.parametrize("activation", HAND_WRITTEN.values(), ids=HAND_WRITTEN)
def test_a_hand_written_activation_is_refused_or_right(activation, as_module):
    """What must not happen is that the pre-activation is taken without a word."""
    between = Module(activation) if as_module else activation
    with contextlib.suppress(topoloss.AttachmentError):
        assert_observes(Between(between), with_between, batch(4))


@pytest.mark.parametrize("expression", ["x * sigmoid(x)", "relu(x) + x", "x / (1 + |x|)"])
def test_the_refusal_names_the_layer_and_the_way_out(expression):
    model = Between(HAND_WRITTEN[expression])
    topoloss.attach(model)
    with pytest.raises(topoloss.AttachmentError, match=r"'a'.*after_activation=False"):
        model(batch(4))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("unseen", ["scripted", "vmap"])
def test_an_activation_that_no_function_mode_sees_is_refused(unseen):
    scripted = torch.jit.trace(F.relu, torch.ones(2, 8), check_trace=False)
    model = Between(scripted if unseen == "scripted" else torch.vmap(F.relu))
    topoloss.attach(model)
    with pytest.raises(topoloss.AttachmentError, match="'a' goes into something that no torch"):
        model(batch(4))


def test_a_random_activation_cannot_be_applied_again():
    model = Between(nn.RReLU())
    topoloss.attach(model)
    with pytest.raises(topoloss.AttachmentError, match="rrelu"):
        model(batch(4))


def test_an_activation_of_one_branch_is_not_silently_that_of_the_layer():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 3)

        def forward(self, x):
            h = self.a(x)
            self.statistic = h.abs().mean()
            return self.b(h) + self.c(h)

    def by_hand(model, x):
        h = model.a(x)
        return {"a": h, "b": model.b(h), "c": model.c(h)}

    with contextlib.suppress(topoloss.AttachmentError):
        assert_observes(Branches(), by_hand, batch(4))


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, h):
        return h.clamp(min=0)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def test_the_gradient_of_a_custom_function_is_its_own():
    with contextlib.suppress(topoloss.AttachmentError):
        assert_observes(Between(StraightThrough.apply), with_between, batch(4))


# Later passes that differ from the first.


def assert_not_out_of_date(model, x, expected, change):
    """After a first pass and `change()`, the next pass is refused or gives `expected(x)`."""
    penalty = topoloss.attach(model, Spy(), per="layer")
    model(x)
    change()
    with contextlib.suppress(topoloss.AttachmentError):
        model(x)
        torch.testing.assert_close(observed(penalty)["a"], expected(x))


def test_an_activation_whose_constant_changes_is_not_out_of_date():
    model = Between(nn.LeakyReLU(0.1))

    def change():
        model.between.negative_slope = 0.5

    assert_not_out_of_date(model, batch(4), lambda x: F.leaky_relu(model.a(x), 0.5), change)


def test_an_activation_whose_parameter_is_replaced_is_not_out_of_date():
    model = Between(nn.PReLU())

    def change():
        model.between.weight = nn.Parameter(torch.tensor([0.9]))

    assert_not_out_of_date(
        model, batch(4), lambda x: F.prelu(model.a(x), model.between.weight), change
    )


def test_an_activation_that_depends_on_the_mode_is_not_out_of_date():
    model = Between(lambda h: F.relu(h) if model.training else torch.tanh(h))
    assert_not_out_of_date(model, batch(4), lambda x: torch.tanh(model.a(x)), model.eval)


def test_parameters_of_a_functional_call_are_those_that_count():
    model, x = Between(nn.PReLU()), batch(4)
    penalty = topoloss.attach(model, Spy(), per="layer")
    model(x)
    other = {name: 2 * p.detach() for name, p in model.named_parameters()}
    with contextlib.suppress(topoloss.AttachmentError):
        torch.func.functional_call(model, other, x)
        h = F.prelu(F.linear(x, other["a.weight"], other["a.bias"]), other["between.weight"])
        torch.testing.assert_close(observed(penalty)["a"], h)


class Unrolled(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.Linear(4, 4)

    def forward(self, x, steps):
        for _ in range(steps):
            x = torch.tanh(self.cell(x))
        return x


def test_more_calls_than_in_the_first_pass_are_refused_with_the_remedy():
    model, x = Unrolled(), batch(4)
    penalty = topoloss.attach(model, Spy(), per="layer")
    model(x, 2)
    model(x, 3)
    with pytest.raises(topoloss.AttachmentError, match=r"'cell:3'.*watch='always'"):
        penalty()
    model(x, 2)
    penalty()


def test_an_activation_module_that_is_left_out_is_told():
    class Optional(Between):
        leave_out = False

        def forward(self, x):
            h = self.a(x)
            return self.b(torch.tanh(h) if self.leave_out else self.between(h))

    model, x = Optional(nn.ReLU()), batch(4)
    penalty = topoloss.attach(model, Spy(), per="layer")
    model(x)
    model.leave_out = True
    model(x)
    with pytest.raises(topoloss.AttachmentError, match=r"\['a'\].*watch='always'"):
        penalty()


def test_a_function_of_a_parameter_is_refused_as_the_parameter_may_be_replaced():
    class Slope(Between):
        def __init__(self):
            super().__init__(None)
            self.slope = nn.Parameter(torch.tensor([0.25]))

        def forward(self, x):
            return self.b(F.prelu(self.a(x), self.slope))

    model = Slope()
    topoloss.attach(model)
    with pytest.raises(topoloss.AttachmentError, match="goes into prelu"):
        model(batch(4))


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


def test_an_activation_is_not_taken_for_that_of_a_layer_that_was_left_out():
    model, x = Routed(), batch(4)
    penalty = topoloss.attach(model, Spy(), per="layer")
    model(x, with_a=True)
    model(x, with_a=False)
    with pytest.raises(topoloss.AttachmentError, match="watch='always'"):
        penalty()


def test_a_layer_that_the_first_pass_left_out_is_not_left_out_in_silence():
    model, x = Routed(), batch(4)
    penalty = topoloss.attach(model, Spy(), per="layer")
    model(x, with_a=False)
    model(x, with_a=True)
    with pytest.raises(topoloss.AttachmentError, match="'a'"):
        penalty()


@pytest.mark.parametrize("steps", [1, 3])
def test_where_every_pass_is_watched_the_path_may_change(steps):
    model, x = Unrolled(), batch(4)
    penalty = topoloss.attach(model, Spy(), per="layer", watch="always")
    model(x, 2)
    model(x, steps)
    expected = {}
    for name in ["cell", "cell:2", "cell:3"][:steps]:
        x = expected[name] = torch.tanh(model.cell(x))
    torch.testing.assert_close(observed(penalty), expected)


@pytest.mark.parametrize("steps", [1, 3])
def test_without_activations_the_path_may_change(steps):
    model, x = Unrolled(), batch(4)
    penalty = topoloss.attach(model, Spy(), per="layer", after_activation=False)
    model(x, 2)
    model(x, steps)
    names = ["cell", "cell:2", "cell:3"]
    assert list(observed(penalty)) == names[:steps]


def test_a_layer_that_is_replaced_is_not_dropped_in_silence():
    model, x = Between(nn.ReLU()), batch(4)
    penalty = topoloss.attach(model, Spy(), per="layer")
    model(x)
    model.b = nn.Linear(8, 5)
    out = model(x)
    try:
        seen = observed(penalty)
    except topoloss.AttachmentError:
        return
    torch.testing.assert_close(seen["b"], out)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("inplace", [False, True])
def test_the_first_pass_may_be_a_validation_pass(mode, inplace):
    model, x = Between(nn.ReLU(inplace=inplace)), batch(4)
    penalty = topoloss.attach(model, Spy(), per="layer")
    with mode():
        model(x)
        first = {name: h.clone() for name, h in observed(penalty).items()}
    model(x)
    hidden = F.relu(model.a(x))
    torch.testing.assert_close(observed(penalty), {"a": hidden, "b": model.b(hidden)})
    torch.testing.assert_close(first, {"a": hidden.detach(), "b": model.b(hidden).detach()})


# Changes in place.


class Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.block = Residual(4)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(self.block(self.stem(x)).mean((2, 3)))


def resnet_by_hand(model, x):
    block = model.block
    stem = model.stem(x)
    conv1 = block.conv1(stem)
    bn1 = F.relu(block.bn1(conv1))
    conv2 = block.conv2(bn1)
    bn2 = block.bn2(conv2)  # before the addition
    fc = model.fc(F.relu(bn2 + stem).mean((2, 3)))
    return {
        "stem": stem,
        "block.conv1": conv1,
        "block.bn1": bn1,
        "block.conv2": conv2,
        "block.bn2": bn2,
        "fc": fc,
    }


@pytest.mark.parametrize("training", [True, False])
def test_a_residual_block_is_observed_before_the_addition(training):
    assert_observes(ResNet().train(training), resnet_by_hand, batch(1, 5, 5))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_residual_block_may_be_validated_first(mode):
    model, x = ResNet().eval(), batch(1, 5, 5)
    penalty = topoloss.attach(model, Spy(), per="layer")
    for context in (mode, torch.enable_grad):
        with context():
            model(x)
            seen = {name: h.clone() for name, h in observed(penalty).items()}
            expected = {name: h.flatten(1) for name, h in resnet_by_hand(model, x).items()}
            torch.testing.assert_close(seen, expected)


def test_a_change_in_place_that_came_later_is_an_error_and_not_a_wrong_value():
    class Sometimes(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.change = nn.Linear(4, 8), nn.Linear(8, 3), False

        def forward(self, x):
            h = self.a(x)
            if self.change:
                h += 1
            return self.b(h)

    model, x = Sometimes(), batch(4)
    penalty = topoloss.attach(model)
    model(x)
    model.change = True
    with pytest.raises(topoloss.AttachmentError, match=r"'a' was changed in place"):  # noqa: PT012
        model(x)
        penalty()


def test_an_output_changed_after_the_forward_pass_is_an_error():
    model, x = Between(nn.ReLU()), batch(4)
    penalty = topoloss.attach(model)
    out = model(x)
    with torch.no_grad():
        out.zero_()
    with pytest.raises(topoloss.AttachmentError, match=r"'b' was changed in place"):
        penalty()


def test_what_is_recorded_after_an_activation_is_safe_from_later_changes():
    class Adds(Between):
        def forward(self, x):
            h = F.gelu(self.a(x))
            h += 1
            return self.b(h)

    def by_hand(model, x):
        h = F.gelu(model.a(x))
        return {"a": h, "b": model.b(h + 1)}

    assert_observes(Adds(None), by_hand, batch(4))


# Kinds of models.


@pytest.mark.parametrize("training", [True, False])
def test_cnn_with_batch_norm_and_dropout(training):
    model = nn.Sequential(
        *(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.5)),
        *(nn.Flatten(), nn.Linear(16, 3)),
    ).train(training)

    def by_hand(model, x):
        conv = model[0](x)
        bn = F.relu(model[1](conv))
        return {"0": conv, "1": bn, "6": model[3:](bn)}

    assert_observes(model, by_hand, batch(2, 6, 6))


def encoder_layer_by_hand(layer, x, prefix="", axis=0):
    attention = layer.self_attn(x, x, x, need_weights=False)[0]
    norm1 = layer.norm1(x + layer.dropout1(attention))
    hidden = layer.activation(layer.linear1(norm1))
    linear2 = layer.linear2(layer.dropout(hidden))
    norm2 = layer.norm2(norm1 + layer.dropout2(linear2))
    layers = {
        "self_attn": attention,
        "norm1": norm1,
        "linear1": hidden,
        "linear2": linear2,
        "norm2": norm2,
    }
    return {prefix + name: h.movedim(axis, 0) for name, h in layers.items()}


def encoder_layer(**options):
    return nn.TransformerEncoderLayer(8, 2, 16, **options)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("axis", [0, 1])
def test_transformer_encoder_layer(training, activation, axis):
    model = encoder_layer(batch_first=axis == 0, activation=activation).train(training)
    x = torch.randn(6, 5, 8) if axis == 0 else torch.randn(5, 6, 8)
    assert_observes(model, lambda m, x: encoder_layer_by_hand(m, x, axis=axis), x, batch_dim=axis)


@pytest.mark.parametrize("training", [True, False])
def test_transformer_encoder(training):
    model = nn.TransformerEncoder(
        encoder_layer(batch_first=True), 2, norm=nn.LayerNorm(8), enable_nested_tensor=False
    ).train(training)

    def by_hand(model, x):
        first = encoder_layer_by_hand(model.layers[0], x, "layers.0.")
        second = encoder_layer_by_hand(model.layers[1], first["layers.0.norm2"], "layers.1.")
        return first | second | {"norm": model.norm(second["layers.1.norm2"])}

    assert_observes(model, by_hand, batch(5, 8))


def test_attaching_leaves_the_fused_inference_of_a_transformer_alone_in_value():
    model = nn.TransformerEncoder(encoder_layer(batch_first=True), 2, enable_nested_tensor=False)
    model, x = model.eval(), batch(5, 8)
    with torch.no_grad():
        before = model(x)
        with topoloss.attach(model, Spy(), per="layer") as penalty:
            for _ in range(2):
                torch.testing.assert_close(model(x), before)
                torch.testing.assert_close(observed(penalty)["layers.1.norm2"], before.flatten(1))


class Recurrent(nn.Module):
    def __init__(self, axis):
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.lstm = nn.LSTM(4, 5, num_layers=2, batch_first=axis == 0)
        self.head = nn.Linear(5, 3)

    def forward(self, tokens):
        return self.head(torch.tanh(self.lstm(self.embedding(tokens))[0]))


@pytest.mark.parametrize("axis", [0, 1])
def test_of_a_tuple_the_first_tensor_counts(axis):
    def by_hand(model, tokens):
        embedded = model.embedding(tokens)
        hidden = torch.tanh(model.lstm(embedded)[0])
        layers = {"embedding": embedded, "lstm": hidden, "head": model.head(hidden)}
        return {name: h.movedim(axis, 0) for name, h in layers.items()}

    tokens = torch.randint(0, 10, (6, 7))
    assert_observes(Recurrent(axis), by_hand, tokens, batch_dim=axis)


def test_a_module_that_is_called_twice_contributes_each_call():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            return self.head(torch.tanh(self.fc(F.relu(self.fc(x)))))

    def by_hand(model, x):
        once = F.relu(model.fc(x))
        twice = torch.tanh(model.fc(once))
        return {"fc": once, "fc:2": twice, "head": model.head(twice)}

    assert_observes(Shared(), by_hand, batch(4))


def test_a_module_under_two_names_counts_once():
    layer = nn.Linear(4, 4)
    model = nn.ModuleDict(
        {"one": layer, "two": layer, "net": nn.Sequential(layer, nn.Linear(4, 2))}
    )
    model.forward = lambda x: model["net"](x)
    penalty = topoloss.attach(model)
    model(batch(4))
    assert list(penalty.neurons) == ["one", "net.1"]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrised_weights_count_as_the_layers_own(wrap, bias):
    # Power iteration changes the weight in every training pass.
    model = nn.Sequential(wrap(nn.Linear(4, 8, bias=bias)), nn.ReLU(), nn.Linear(8, 3)).eval()

    def by_hand(model, x):
        h = F.relu(F.linear(x, model[0].weight, model[0].bias))
        return {"0": h, "2": model[2](h)}

    assert_observes(model, by_hand, batch(4))


def test_frozen_layers_do_not_count():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    model[0].requires_grad_(False)

    def by_hand(model, x):
        h = model[:4](x)
        return {"2": h, "4": model[4](h)}

    assert_observes(model, by_hand, batch(4))


def test_lazy_layers_may_be_attached_before_they_know_their_shape():
    model, x = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(3)), batch(4)
    penalty = topoloss.attach(model, Spy(), per="layer")
    out = model(x)
    torch.testing.assert_close(observed(penalty), {"0": F.relu(model[0](x)), "2": out})


def test_a_single_layer_is_a_model():
    assert_observes(nn.Linear(4, 3), lambda model, x: {"(model)": model(x)}, batch(4))


def test_bare_parameters_make_the_root_a_layer():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 3)
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, x):
            return self.fc(x).tanh() * self.scale

    def by_hand(model, x):
        h = model.fc(x).tanh()
        return {"fc": h, "(model)": h * model.scale}

    assert_observes(Scaled(), by_hand, batch(4))


class UsesWeight(nn.Module):
    """Its layer is never called itself."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 8)

    def forward(self, x):
        return F.linear(x, self.inner.weight, self.inner.bias)


@pytest.mark.parametrize("between", [nn.Identity(), nn.ReLU(), F.relu, nn.ReLU(inplace=True)])
def test_a_layer_that_is_never_called_is_covered_by_the_module_around_it(between):
    model = Between(between)
    model.a = UsesWeight()
    assert_observes(model, with_between, batch(4))


def test_a_cover_is_observed_before_a_later_change_in_place():
    class Adds(Between):
        def forward(self, x):
            h = self.a(x)
            h += 1
            return self.b(h)

    def by_hand(model, x):
        h = model.a(x)
        return {"a": h, "b": model.b(h + 1)}

    model = Adds(None)
    model.a = UsesWeight()
    assert_observes(model, by_hand, batch(4))


def test_a_module_that_hands_on_an_output_adds_no_neurons():
    class ScalesInput(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 8)
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, x):
            return self.inner(x * self.scale)

    def by_hand(model, x):
        h = F.relu(model.a(x))
        return {"a.inner": h, "b": model.b(h)}

    model = Between(F.relu)
    model.a = ScalesInput()
    assert_observes(model, by_hand, batch(4))


def test_a_module_that_rescales_an_output_is_a_layer_of_its_own():
    class Doubles(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 8)
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, x):
            return 2.0 * self.inner(x * self.scale)

    def by_hand(model, x):
        inner = model.a.inner(x * model.a.scale)
        h = F.relu(2.0 * inner)
        return {"a.inner": inner, "a": h, "b": model.b(h)}

    model = Between(F.relu)
    model.a = Doubles()
    assert_observes(model, by_hand, batch(4))


def test_an_unused_layer_whose_model_returns_its_last_layer_adds_no_neurons():
    model = Between(nn.ReLU())
    model.unused = nn.Linear(2, 2)
    assert_observes(model, with_between, batch(4))


def test_outputs_may_be_dicts_and_inputs_keywords():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 8)
            self.weight = nn.Parameter(torch.ones(8))

        def forward(self, *, x, mask):
            h = F.relu(self.a(x * mask))
            return {"ids": [], "hidden": (h * self.weight, h), "mask": mask}

    model, x, mask = Masked(), batch(4), torch.tensor([1.0, 0, 1, 1])
    penalty = topoloss.attach(model, Spy(), per="layer")
    for scale in (1, 2):
        model(x=scale * x, mask=mask)
        h = F.relu(model.a(scale * x * mask))
        torch.testing.assert_close(observed(penalty), {"a": h, "(model)": h * model.weight})


# The choice of layers.


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.Tanh())
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.encoder(x))


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        ("head", ["head"]),
        ("encoder.0", ["encoder.0"]),
        ("encoder", ["encoder"]),
        ("encoder.[02]", ["encoder.0", "encoder.2"]),
        # The activation of a layer that is chosen as well adds nothing.
        ("encoder.*", ["encoder.0", "encoder.2"]),
        ("*", ["encoder.0", "encoder.2", "head"]),
        (nn.Linear, ["encoder.0", "encoder.2", "head"]),
        (nn.Tanh, ["encoder.3"]),
        (Named, ["(model)"]),
        (["head", nn.ReLU], ["encoder.1", "head"]),
        (("head", "head", nn.Linear), ["encoder.0", "encoder.2", "head"]),
    ],
)
def test_layers_are_chosen_by_name_glob_and_type(layers, names):
    model = Named()
    penalty = topoloss.attach(model, layers=layers)
    for _ in range(2):
        model(batch(4))
        assert list(penalty.neurons) == names


def test_a_chosen_activation_module_has_the_values_of_its_layer():
    def by_hand(model, x):
        return {"encoder.1": model.encoder[:2](x), "encoder.3": model.encoder(x)}

    assert_observes(Named(), by_hand, batch(4), layers=[nn.ReLU, nn.Tanh])


def test_a_chosen_module_without_parameters_is_observed_in_both_modes():
    # In evaluation mode dropout hands on its very input.
    model, x = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3)), batch(4)
    penalty = topoloss.attach(model, layers=["0", "1"])
    model.eval()(x)
    model.train()(x)
    assert list(penalty.neurons) == ["0", "1"]


@pytest.mark.parametrize("layers", ["haed", "", "encoder.9", nn.Conv2d, ["head", "no*"]])
def test_a_pattern_that_matches_nothing_lists_what_there_is(layers):
    with pytest.raises(topoloss.AttachmentError, match=r"matches no module of Named.*encoder\.0"):
        topoloss.attach(Named(), layers=layers)


def test_a_misspelt_layer_is_told_the_nearest_name():
    with pytest.raises(topoloss.AttachmentError, match=r"Did you mean 'head'\?"):
        topoloss.attach(Named(), layers="haed")


@pytest.mark.parametrize("layers", [[], 5, [None], int, nn.Linear(2, 2), [nn.Linear(2, 2)]])
def test_layers_that_are_no_patterns_are_refused(layers):
    with pytest.raises(topoloss.OptionError, match="layers"):
        topoloss.attach(Named(), layers=layers)


def test_a_chosen_layer_that_is_not_called_is_an_error():
    model = encoder_layer(batch_first=True)
    topoloss.attach(model, layers="self_attn.out_proj")
    with pytest.raises(topoloss.AttachmentError, match=r"'self_attn\.out_proj'.*were not called"):
        model(batch(5, 8))


def test_no_trainable_parameters_are_an_error_unless_layers_are_named():
    model, x = Named().requires_grad_(False), batch(4)
    with pytest.raises(topoloss.AttachmentError, match="no trainable parameters"):
        topoloss.attach(model)
    penalty = topoloss.attach(model, Spy(), per="layer", layers="encoder.0")
    model(x)
    torch.testing.assert_close(observed(penalty)["encoder.0"], F.relu(model.encoder[0](x)))


@pytest.mark.parametrize("output", ["int", "scalar", "none"])
def test_an_output_without_floating_point_samples_is_an_error_that_names_the_layer(output):
    class Odd(nn.Module):
        def forward(self, x):
            return {"int": x.argmax(1), "scalar": x.sum(), "none": "text"}[output]

    model = nn.Sequential(nn.Linear(4, 8), Odd())
    penalty = topoloss.attach(model, layers=["0", "1"])
    with pytest.raises(topoloss.AttachmentError, match="'1'"):  # noqa: PT012
        model(batch(4))
        penalty()


# Units.


def convolutional():
    return nn.Sequential(
        *(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.GroupNorm(2, 4)),
        *(nn.Flatten(2), nn.Conv1d(4, 3, 5), nn.Tanh()),
    )


@pytest.mark.parametrize("units", ["unit", "channel"])
def test_units_of_a_convolution(units):
    model, x = convolutional(), batch(2, 5, 6)
    penalty = topoloss.attach(model, Spy(), per="layer", units=units)
    model(x)
    conv = model[0](x)
    bn = F.relu(model[1](conv))
    group = model[3](bn)
    layers = {"0": conv, "1": bn, "3": group, "5": torch.tanh(model[5](group.flatten(2)))}
    if units == "unit":
        expected = {name: h.flatten(1) for name, h in layers.items()}
    else:  # one column for each channel: all its samples and positions
        expected = {
            name: torch.stack([h[:, c].flatten() for c in range(h.shape[1])], 1)
            for name, h in layers.items()
        }
    torch.testing.assert_close(observed(penalty), expected)


def test_the_channels_of_tokens_and_of_vectors_stand_last():
    model, x = encoder_layer(batch_first=True), batch(5, 8)
    penalty = topoloss.attach(model.eval(), Spy(), per="layer", units="channel")
    model(x)
    expected = encoder_layer_by_hand(model, x)
    torch.testing.assert_close(
        observed(penalty), {name: h.flatten(0, 1) for name, h in expected.items()}
    )


class OwnConvolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 2, 3, 3))

    def forward(self, x):
        return F.conv2d(x, self.weight)


@pytest.mark.parametrize(
    ("model", "layers"),
    [
        (nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU()), nn.ReLU),
        (nn.Sequential(nn.Conv2d(2, 4, 3), nn.MaxPool2d(2)), "1"),
        (nn.Sequential(nn.Conv2d(2, 4, 3), nn.MaxPool2d(2), nn.PReLU(4)), nn.PReLU),
        (nn.Sequential(nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU())), "0"),
        (nn.Sequential(OwnConvolution()), None),
    ],
)
def test_the_channel_axis_is_right_or_refused(model, layers):
    """Never the width of an image in place of its channels."""
    x = batch(2, 6, 7)
    penalty = topoloss.attach(model, Spy(), per="layer", units="channel", layers=layers)
    out = model(x)
    if layers is nn.ReLU:
        out = F.relu(model[0](x))
    with contextlib.suppress(topoloss.AttachmentError):
        (seen,) = observed(penalty).values()
        torch.testing.assert_close(seen, out.movedim(1, -1).flatten(0, -2))
