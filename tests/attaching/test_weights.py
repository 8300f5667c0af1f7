"""Regularisers of weights and of parameters, which `attach` hands what they ask for."""

import pytest
import torch
import torch.nn.functional as F
from attaching.helpers import Net, batch, gradients, hooks
from torch import nn

import topoloss


class Tied(nn.Module):
    """An embedding whose weight is also that of the last layer, and a frozen layer."""

    def __init__(self):
        super().__init__()
        self.tokens, self.fc = nn.Embedding(10, 4), nn.Linear(4, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.head = nn.Linear(4, 10)
        self.head.weight = self.tokens.weight

    def forward(self, tokens):
        return self.head(self.frozen(F.relu(self.fc(self.tokens(tokens)))))


@pytest.mark.parametrize("make", [Net, Tied])
@pytest.mark.parametrize(("name", "power"), [("l1", 1), ("l2", 2)])
def test_a_norm_of_the_parameters_needs_no_forward_pass(name, power, make):
    model = make()
    penalty = topoloss.attach(model, name)
    assert hooks(model) == []
    counted = {id(p): p for p in model.parameters() if p.requires_grad}.values()
    assert len(counted) == {Net: 6, Tied: 4}[make]
    for _ in range(2):
        expected = sum(p.abs().pow(power).sum() for p in counted)
        torch.testing.assert_close(penalty(), expected)
        torch.testing.assert_close(gradients(penalty(), model), gradients(expected, model))
        with torch.no_grad():
            model.fc.weight.mul_(3) if make is Tied else model.first.weight.mul_(3)


def test_a_norm_of_the_parameters_has_neither_neurons_nor_diagrams():
    model = Net()
    penalty = topoloss.attach(model, "l2")
    with pytest.raises(topoloss.TopolossError, match="no persistence diagrams"):
        penalty.diagrams()
    for ask in (lambda: penalty.neurons, penalty.activations):
        with pytest.raises(topoloss.TopolossError, match="parameters"):
            ask()
    penalty.remove()
    with pytest.raises(topoloss.AttachmentError, match="was removed"):
        penalty()


def test_parameters_that_are_frozen_or_replaced_later_are_those_that_count():
    model = Net()
    penalty = topoloss.attach(model, "l1")
    model.first.requires_grad_(False)
    model.last = nn.Linear(6, 2)
    counted = [*model.second.parameters(), *model.last.parameters()]
    torch.testing.assert_close(penalty(), sum(p.abs().sum() for p in counted))


def test_the_penalty_none_is_zero():
    model = Net()
    penalty = topoloss.attach(model, "none")
    assert penalty().item() == 0
    (model(batch(4)).sum() + penalty()).backward()


class KeepsWeights(topoloss.Regulariser):
    """Notes the weights that it was given."""

    source = "weights"

    def __init__(self):
        super().__init__()
        self.given = {}

    def of_layers(self, layers):
        self.given = dict(layers)
        return torch.stack([w.square().sum() for w in layers.values()]).sum()


def weights_of(model, *inputs, **options):
    """The weights that a regulariser is given, by layer, and the sum of their squares."""
    penalty = topoloss.attach(model, KeepsWeights(), **options)
    model(*inputs)
    value = penalty()
    penalty.remove()
    return penalty.regulariser.given, value


def test_weights_have_their_outputs_first():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    given, value = weights_of(model, batch(4))
    torch.testing.assert_close(given, {"0": model[0].weight, "2": model[2].weight})
    expected = model[0].weight.square().sum() + model[2].weight.square().sum()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradients(value, model), gradients(expected, model))


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_weights_of_convolutions_have_outputs_then_inputs(axes):
    conv = getattr(nn, f"Conv{axes}d")(2, 4, 3)
    transposed = getattr(nn, f"ConvTranspose{axes}d")(4, 3, 2)
    given, _ = weights_of(nn.Sequential(conv, nn.ReLU(), transposed), batch(2, *[5] * axes))
    torch.testing.assert_close(given, {"0": conv.weight, "2": transposed.weight.transpose(0, 1)})
    assert given["2"].shape[:2] == (3, 4)


@pytest.mark.parametrize("make", [nn.Conv2d, nn.ConvTranspose2d])
def test_a_grouped_convolution_is_an_error_that_names_it(make):
    model = nn.Sequential(nn.Conv2d(2, 4, 3), make(4, 8, 3, groups=2))
    with pytest.raises(topoloss.AttachmentError, match="module '1' is a convolution of 2 groups"):
        weights_of(model, batch(2, 7, 7))
    given, _ = weights_of(model, batch(2, 7, 7), layers="0")
    torch.testing.assert_close(given, {"0": model[0].weight})


class Conv1D(nn.Module):
    """A linear map as GPT-2 writes it, with its weight the other way round."""

    def __init__(self, features_in, features_out):
        super().__init__()
        self.features_out = features_out
        self.weight = nn.Parameter(torch.randn(features_in, features_out))
        self.bias = nn.Parameter(torch.randn(features_out))

    def forward(self, x):
        shape = (*x.shape[:-1], self.features_out)
        return torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight).view(shape)


@pytest.mark.parametrize("sizes", [(4, 8), (4, 4)])
def test_weights_that_are_stored_the_other_way_round_are_turned(sizes):
    model = nn.Sequential(Conv1D(*sizes), nn.GELU(), nn.Linear(sizes[1], 3))
    given, _ = weights_of(model, batch(5, 4))
    torch.testing.assert_close(given, {"0": model[0].weight.t(), "2": model[2].weight})


def test_a_convolution_that_has_the_name_of_such_a_layer_is_not_turned():
    model = nn.Sequential(type("Conv1D", (nn.Conv1d,), {})(4, 8, 3), nn.Tanh())
    given, _ = weights_of(model, batch(4, 5))
    torch.testing.assert_close(given, {"0": model[0].weight})


CONVOLUTIONS = {
    "two convolutions": (nn.Conv1d(4, 4, 1), nn.Conv1d(4, 4, 1)),
    "two that are transposed": (nn.ConvTranspose1d(4, 4, 1), nn.ConvTranspose1d(4, 4, 1)),
    "one and its transpose": (nn.Conv1d(4, 4, 1), nn.ConvTranspose1d(4, 4, 1)),
    "a layer and its transpose": (nn.Linear(5, 5), Conv1D(5, 5)),
}


@pytest.mark.parametrize("modules", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_a_weight_that_modules_share_counts_once(modules):
    first, second = modules
    second.weight = first.weight
    given, value = weights_of(nn.Sequential(first, nn.ReLU(), second), batch(4, 5))
    assert list(given) == ["0"]
    torch.testing.assert_close(value, first.weight.square().sum())


class BagOfWords(nn.Module):
    """An embedding that sums, and a norm whose scale has two axes: neither is a linear map."""

    def __init__(self, norm):
        super().__init__()
        self.words, self.hidden = nn.EmbeddingBag(10, 4), nn.Linear(4, 6)
        self.norm, self.head = norm((2, 3)), nn.Linear(6, 3)

    def forward(self, words):
        h = self.norm(self.hidden(self.words(words)).unflatten(1, (2, 3)))
        return self.head(h.flatten(1))


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_weights_of_embeddings_and_of_norms_are_no_linear_maps(norm):
    model = BagOfWords(norm)
    words = torch.randint(0, 10, (5, 3))
    given, _ = weights_of(model, words)
    torch.testing.assert_close(given, {"hidden": model.hidden.weight, "head": model.head.weight})
    for name in ("words", "norm"):
        with pytest.raises(topoloss.AttachmentError, match=f"'{name}' .* has no weight matrix"):
            weights_of(model, words, layers=["hidden", name])


def test_a_bilinear_layer_is_an_error_that_names_it():
    class Products(nn.Module):
        def __init__(self):
            super().__init__()
            self.products, self.head = nn.Bilinear(4, 4, 5), nn.Linear(5, 3)

        def forward(self, x):
            return self.head(self.products(x, x))

    with pytest.raises(topoloss.AttachmentError, match=r"'products' .*Bilinear.* no weight matrix"):
        weights_of(Products(), batch(4))


def several_maps():
    lstm = nn.LSTM(4, 3, num_layers=2, bidirectional=True, proj_size=2)
    yield lstm, [n for n, p in lstm.named_parameters() if p.ndim == 2]
    yield nn.GRU(4, 3), ["weight_ih_l0", "weight_hh_l0"]
    yield nn.RNNCell(4, 3), ["weight_ih", "weight_hh"]
    yield nn.MultiheadAttention(4, 2, add_bias_kv=True), ["in_proj_weight", "out_proj"]
    projections = ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj"]
    yield nn.MultiheadAttention(4, 2, kdim=3, vdim=2), projections


@pytest.mark.parametrize(("module", "names"), list(several_maps()), ids=lambda x: type(x).__name__)
def test_a_module_of_several_linear_maps_gives_each_by_name(module, names):
    penalty = topoloss.attach(nn.ModuleDict({"part": module}), KeepsWeights())
    value = penalty()
    expected = {
        f"part.{name}": module.out_proj.weight if name == "out_proj" else getattr(module, name)
        for name in names
    }
    torch.testing.assert_close(penalty.regulariser.given, expected)
    matrices = [p for p in module.parameters() if sum(n > 1 for n in p.shape) == 2]
    torch.testing.assert_close(value, sum(p.square().sum() for p in matrices))


class Positions(nn.Module):
    """Two parameters that no module holds as its weight."""

    def __init__(self):
        super().__init__()
        self.positions = nn.Parameter(torch.randn(1, 6, 4))
        self.token = nn.Parameter(torch.randn(1, 1, 4))
        self.fc = torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))

    def forward(self, x):
        return self.fc(x + self.positions + self.token)


def test_parameters_that_may_be_no_weights_are_told_once_by_name():
    penalty = topoloss.attach(Positions(), KeepsWeights())
    with pytest.warns(
        topoloss.AttachmentWarning, match=r"left out: 'positions' .*\(1, 6, 4\)"
    ) as w:
        penalty()
    assert len(w) == 1
    assert w[0].filename == __file__
    penalty()
    assert list(penalty.regulariser.given) == ["fc"]
    topoloss.attach(Positions(), KeepsWeights(), layers="fc")()


def test_the_weights_of_chosen_layers_only():
    model = Net()
    given, _ = weights_of(model, batch(4), layers=["first", "last"])
    torch.testing.assert_close(given, {"first": model.first.weight, "last": model.last.weight})


# Chains of layers.


class Chain(KeepsWeights):
    structure = "chain"


class ActivationChain(Chain):
    source = "activations"


def plain_network():
    return nn.Sequential(
        *(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.5)),
        *(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3), nn.LogSoftmax(1)),
    )


class Skips(nn.Module):
    """One layer's output is added to that of the next."""

    def __init__(self):
        super().__init__()
        self.stem, self.block, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        h = F.relu(self.stem(x))
        return self.head(h + F.relu(self.block(h)))


class Forks(nn.Module):
    """Two layers have the same input."""

    def __init__(self):
        super().__init__()
        self.stem, self.left, self.right = nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        h = F.relu(self.stem(x))
        return self.left(h), self.right(h)


class Backwards(nn.Module):
    """A chain whose modules are held in the reverse of the order in which they run."""

    def __init__(self):
        super().__init__()
        self.last, self.first = nn.Linear(5, 3), nn.Linear(4, 5)

    def forward(self, x):
        return self.last(F.relu(self.first(x)))


CHAINS = {
    "poolings between layers": (plain_network, (2, 6, 6), ["0", "6", "8"]),
    "activations between layers": (Net, (4,), ["first", "second", "last"]),
    "held in another order": (Backwards, (4,), ["first", "last"]),
}


@pytest.mark.parametrize("regulariser", [Chain, ActivationChain])
@pytest.mark.parametrize(("make", "shape", "names"), CHAINS.values(), ids=CHAINS)
def test_the_layers_of_a_chain_come_in_the_order_of_the_pass(make, shape, names, regulariser):
    model = make()
    penalty = topoloss.attach(model, regulariser())
    for _ in range(2):
        model(batch(*shape))
        penalty()
        given = penalty.regulariser.given
        assert list(given) == names
        if regulariser is Chain:
            expected = {name: model.get_submodule(name).weight for name in names}
            torch.testing.assert_close(given, expected)


@pytest.mark.parametrize("regulariser", [Chain, ActivationChain])
@pytest.mark.parametrize(("make", "offenders"), [(Skips, "'head'|'block'"), (Forks, "'right'")])
def test_a_model_that_is_no_chain_is_an_error_that_names_where(make, offenders, regulariser):
    model, x = make(), batch(4)
    penalty = topoloss.attach(model, regulariser())
    model(x)
    with pytest.raises(topoloss.AttachmentError, match=offenders) as caught:
        penalty()
    assert "chain" in str(caught.value)
