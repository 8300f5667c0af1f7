"""What counts as a layer by default, and what it is called, in models of every make."""

import pytest
import torch
import torch.nn.functional as F
from attaching.helpers import Between, assert_layers, assert_observes, batch, with_between
from torch import nn
from torch.nn.utils import parametrizations

import topoloss


def test_a_model_may_be_a_single_layer():
    assert_observes(nn.Linear(4, 3), lambda model, x: {"(model)": model(x)}, batch(4))


def test_embeddings_and_norms_by_themselves_are_no_layers():
    model = nn.Sequential(nn.Embedding(10, 4), nn.LayerNorm(4), nn.Linear(4, 3))
    tokens = torch.randint(0, 10, (6, 5))
    assert_observes(model, lambda model, x: {"2": model(x)}, tokens)


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
    seen = topoloss.observe(model)
    model(batch(4))
    assert list(seen.neurons) == ["one", "net.1"]


@pytest.mark.parametrize("layers", ["auto", "trainable"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrised_weights_count_as_the_layers_own(wrap, bias, layers):
    # Power iteration changes the weight in every training pass.
    model = nn.Sequential(wrap(nn.Linear(4, 8, bias=bias)), nn.ReLU(), nn.Linear(8, 3)).eval()

    def by_hand(model, x):
        h = F.relu(F.linear(x, model[0].weight, model[0].bias))
        return {"0": h, "2": model[2](h)}

    assert_observes(model, by_hand, batch(4), layers=layers)


def test_frozen_layers_do_not_count():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    model[0].requires_grad_(False)

    def by_hand(model, x):
        h = model[:4](x)
        return {"2": h, "4": model[4](h)}

    assert_observes(model, by_hand, batch(4))


@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_a_layer_of_which_one_parameter_is_frozen_counts(frozen):
    model = Between(nn.ReLU())
    getattr(model.a, frozen).requires_grad_(False)
    assert_observes(model, with_between, batch(4))


def test_where_everything_is_frozen_everything_counts():
    model, x = Between(nn.ReLU()).requires_grad_(False), batch(4)
    seen = topoloss.observe(model)
    model(x)
    assert_layers(seen, with_between(model, x))


def test_lazy_layers_may_be_observed_before_they_know_their_shape():
    model, x = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(3)), batch(4)
    seen = topoloss.observe(model)
    for _ in range(2):
        out = model(x)
        assert_layers(seen, {"0": F.relu(model[0](x)), "2": out})


# Linear maps that no module of torch's makes.


class TwoLayerWeights(nn.Module):
    """A graph network with bare parameters."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 8))
        self.w2 = nn.Parameter(torch.randn(8, 3))

    def forward(self, x, adjacency):
        h = F.relu(adjacency @ x @ self.w)
        return adjacency @ h @ self.w2


def adjacency_of(nodes):
    linked = (torch.rand(nodes, nodes) < 0.5).float()
    return linked / linked.sum(1, keepdim=True).clamp(min=1)


def test_products_with_bare_parameters_are_layers_by_the_parameters_names():
    def by_hand(model, x, adjacency):
        h = F.relu(adjacency @ x @ model.w)
        return {"w": h, "w2": adjacency @ h @ model.w2}

    assert_observes(TwoLayerWeights(), by_hand, batch(4), adjacency_of(6))


class GraphConvolution(nn.Module):
    """Multiplies by its weight first, and then by a constant adjacency."""

    def __init__(self, features_in, features_out, nodes):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(features_in, features_out))
        self.bias = nn.Parameter(torch.randn(features_out))
        self.register_buffer("adjacency", adjacency_of(nodes))

    def forward(self, x):
        return self.adjacency @ (x @ self.weight) + self.bias


def test_the_output_of_a_module_made_of_its_product_alone_is_the_layer():
    model = nn.Sequential(GraphConvolution(4, 8, 6), nn.ReLU(), GraphConvolution(8, 3, 6))

    def by_hand(model, x):
        first = F.relu(model[0](x))
        return {"0": first, "2": model[2](first)}

    assert_observes(model, by_hand, batch(4))


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


def test_a_linear_map_that_views_positions_as_samples_is_one_layer_of_the_samples():
    def by_hand(model, x):
        h = F.gelu(model[0](x))
        return {"0": h, "2": model[2](h)}

    assert_observes(nn.Sequential(Conv1D(4, 8), nn.GELU(), Conv1D(8, 4)), by_hand, batch(5, 4))


class OwnLinear(nn.Module):
    """One linear map, written in one of several ways."""

    def __init__(self, function, *shape):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape))
        self.function = function

    def forward(self, x):
        return self.function(x, self.weight)


PRODUCTS = {
    "F.linear": (F.linear, (8, 4)),
    "@": (lambda x, w: x @ w, (4, 8)),
    "@ transposed": (lambda x, w: x @ w.t(), (8, 4)),
    "mm": (torch.mm, (4, 8)),
    "addmm": (lambda x, w: torch.addmm(w.mean(0), x, w), (4, 8)),
    "einsum": (lambda x, w: torch.einsum("ni,oi->no", x, w), (8, 4)),
    "tensordot": (lambda x, w: torch.tensordot(x, w, dims=([1], [1])), (8, 4)),
    "bmm": (lambda x, w: torch.bmm(x[None], w[None])[0], (4, 8)),
    "softmaxed": (lambda x, w: x @ w.softmax(0), (4, 8)),
    "masked": (lambda x, w: F.linear(x, w * (w > 0)), (8, 4)),
    "product of parameters": (lambda x, w: F.linear(x, w[:, :4] @ w[:4, :4]), (8, 4)),
}


@pytest.mark.parametrize(("function", "shape"), PRODUCTS.values(), ids=PRODUCTS)
def test_a_product_with_a_weight_is_a_layer_however_it_is_written(function, shape):
    def by_hand(model, x):
        h = torch.tanh(model[0](x))
        return {"0": h, "2": model[2](h)}

    model = nn.Sequential(OwnLinear(function, *shape), nn.Tanh(), nn.Linear(8, 3))
    assert_observes(model, by_hand, batch(4))


class Experts(nn.Module):
    """A weight for each expert; `multiply` takes samples, all weights and each sample's expert."""

    def __init__(self, multiply):
        super().__init__()
        self.weights, self.head = nn.Parameter(torch.randn(3, 4, 8)), nn.Linear(8, 3)
        self.multiply = multiply

    def forward(self, x, expert):
        return self.head(torch.tanh(self.multiply(x, self.weights, expert)))


PICKS = {
    "by indices": lambda x, w, expert: torch.einsum("bi,bio->bo", x, w[expert]),
    "index_select": lambda x, w, expert: torch.einsum("bi,bio->bo", x, w.index_select(0, expert)),
    "one for all": lambda x, w, expert: x @ w[expert[0]],
}


@pytest.mark.parametrize("multiply", PICKS.values(), ids=PICKS)
def test_weights_that_indices_pick_are_those_of_a_layer(multiply):
    def by_hand(model, x, expert):
        h = torch.tanh(multiply(x, model.weights, expert))
        return {"(model)": h, "head": model.head(h)}

    assert_observes(Experts(multiply), by_hand, batch(4), torch.tensor([0, 2, 1, 1, 0, 2]))


def test_experts_with_samples_of_their_own_are_left_out_by_name():
    def by_expert(x, w, expert):
        out = x.new_zeros(len(x), 8)
        for k in range(3):
            out[expert == k] = x[expert == k] @ w[k]
        return out

    model = Experts(by_expert)
    seen = topoloss.observe(model)
    model(batch(4), torch.tensor([0, 2, 1, 1, 0, 2]))
    with pytest.warns(topoloss.AttachmentWarning, match=r"left out: '\(model\)"):
        assert "(model)" not in seen.activations()


def test_products_by_entries_with_a_parameter_are_no_layers():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 3)
            self.scale, self.shift = nn.Parameter(torch.rand(3)), nn.Parameter(torch.rand(3))

        def forward(self, x):
            return self.fc(x).tanh() * self.scale + self.shift

    def by_hand(model, x):
        return {"fc": model(x)}

    assert_observes(Scaled(), by_hand, batch(4))


class UsesWeight(nn.Module):
    """Its layer is never called itself."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 8)

    def forward(self, x):
        return F.linear(x, self.inner.weight, self.inner.bias)


@pytest.mark.parametrize("layers", ["auto", "trainable"])
@pytest.mark.parametrize("between", [nn.Identity(), nn.ReLU(), F.relu, nn.ReLU(inplace=True)])
def test_a_layer_that_is_never_called_has_its_own_name(between, layers):
    def by_hand(model, x):
        h = model.between(model.a(x))
        return {"a.inner": h, "b": model.b(h)}

    model = Between(between)
    model.a = UsesWeight()
    assert_observes(model, by_hand, batch(4), layers=layers)


JOINED = {
    "two layers": lambda a, b: torch.cat([a, b], 1),
    "a layer and numbers": lambda a, b: torch.cat([a, torch.ones(6, 2), b], 1),
    "along the samples": lambda a, b: torch.cat([a, b]).view(2, 6, 8).sum(0),
}


@pytest.mark.parametrize("join", JOINED.values(), ids=JOINED)
def test_layers_end_where_they_are_concatenated(join):
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(4, 8)

        def forward(self, x):
            return F.relu(join(self.a(x), self.b(x)))

    assert_observes(Joined(), lambda model, x: {"a": model.a(x), "b": model.b(x)}, batch(4))
