"""Weights that several modules share, and layers with an adapter."""

import pytest
import torch
import torch.nn.functional as F
from attaching.helpers import assert_observes, batch
from torch import nn


class LowRankAdapted(nn.Module):
    """A frozen layer with a trained correction, as adapters for fine-tuning write it."""

    def __init__(self, base_layer):
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        self.down = nn.Linear(base_layer.in_features, 2, bias=False)
        self.up = nn.Linear(2, base_layer.out_features, bias=False)

    def forward(self, x):
        return self.base_layer(x) + 0.5 * self.up(self.down(x))


def test_a_layer_with_an_adapter_is_one_layer():
    model = nn.Sequential(
        LowRankAdapted(nn.Linear(4, 8)), nn.ReLU(), LowRankAdapted(nn.Linear(8, 3))
    )

    def by_hand(model, x):
        h = F.relu(model[0](x))
        return {"0": h, "2": model[2](h)}

    assert_observes(model, by_hand, batch(4))


class FeedsOn(nn.Module):
    """A network whose first layer has the name that adapters give to the layer that they adapt."""

    def __init__(self, between):
        super().__init__()
        self.base_layer, self.between, self.head = nn.Linear(4, 4), between, nn.Linear(4, 4)

    def forward(self, x):
        return self.head(F.relu(self.between(F.relu(self.base_layer(x)))))


@pytest.mark.parametrize("between", [nn.Linear(4, 4), nn.Identity()])
def test_a_network_with_a_base_layer_is_no_adapter(between):
    model = nn.Sequential(FeedsOn(between), nn.ReLU(), nn.Linear(4, 3))

    def by_hand(model, x):
        own = model[0]
        base = F.relu(own.base_layer(x))
        hidden = F.relu(own.between(base))
        head = F.relu(own.head(hidden))
        layers = {"0.base_layer": base, "0.between": hidden, "0.head": head, "2": model[2](head)}
        if isinstance(own.between, nn.Identity):
            del layers["0.between"]
            layers["0.base_layer"] = hidden
        return layers

    assert_observes(model, by_hand, batch(4))


def test_a_layer_with_an_adapter_may_be_called_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = LowRankAdapted(nn.Linear(4, 4))

        def forward(self, x):
            return self.layer(F.relu(self.layer(x)))

    def by_hand(model, x):
        h = F.relu(model.layer(x))
        return {"layer": h, "layer:2": model.layer(h)}

    assert_observes(Twice(), by_hand, batch(4))


class Tied(nn.Module):
    """An embedding whose weight is also that of the last layer."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(10, 4)
        self.fc = nn.Linear(4, 4)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, tokens):
        return self.head(F.relu(self.fc(self.tokens(tokens))))


def test_a_weight_tied_to_an_embedding_is_named_by_the_module_that_runs():
    def by_hand(model, tokens):
        h = F.relu(model.fc(model.tokens(tokens)))
        return {"fc": h, "head": model.head(h)}

    assert_observes(Tied(), by_hand, torch.randint(0, 10, (6, 5)))


class Shared(nn.Module):
    """A module that only holds the weight of others, and is never called."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Embedding(10, 4)
        self.e, self.d = nn.Embedding(10, 4), nn.Embedding(10, 4)
        self.e.weight = self.d.weight = self.shared.weight
        self.fc, self.out = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x, y):
        return self.out(F.relu(self.fc(self.e(x)) + self.d(y)))


@pytest.mark.parametrize("layers", ["auto", "trainable"])
def test_a_module_that_only_holds_a_tied_weight_adds_no_layer(layers):
    def by_hand(model, x, y):
        e, d = model.e(x), model.d(y)
        fc = model.fc(e)
        found = {"e": e, "fc": fc, "d": d, "out": model.out(F.relu(fc + d))}
        if layers == "auto":
            del found["e"], found["d"]
        return found

    tokens = torch.randint(0, 10, (2, 6, 5))
    assert_observes(Shared(), by_hand, *tokens, layers=layers)
