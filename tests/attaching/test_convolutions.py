"""Convolutional networks: a convolution, its norm and its activation are one layer."""

import pytest
import torch
import torch.nn.functional as F
from attaching.helpers import Between, assert_observes, batch
from torch import nn


@pytest.mark.parametrize("training", [True, False])
def test_a_convolution_its_norm_and_its_activation_are_one_layer(training):
    model = nn.Sequential(
        *(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.5)),
        *(nn.Flatten(), nn.Linear(16, 3)),
    ).train(training)

    def by_hand(model, x):
        bn = F.relu(model[1](model[0](x)))
        return {"0": bn, "6": model[3:](bn)}

    assert_observes(model, by_hand, batch(2, 6, 6))


NORMS = {
    "batch": nn.BatchNorm1d(8),
    "batch without parameters": nn.BatchNorm1d(8, affine=False),
    "layer": nn.LayerNorm(8),
    "layer without parameters": nn.LayerNorm(8, elementwise_affine=False),
    "group": nn.GroupNorm(2, 8),
    "rms": nn.RMSNorm(8),
    "F.layer_norm": lambda h: F.layer_norm(h, (8,)),
    "F.group_norm": lambda h: F.group_norm(h, 4),
    "F.rms_norm": lambda h: F.rms_norm(h, (8,)),
    "F.batch_norm": lambda h: F.batch_norm(h, None, None, training=True),
}


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_a_norm_belongs_to_the_layer_before_it(norm):
    def by_hand(model, x):
        h = torch.tanh(norm_of(model)(model.a(x)))
        return {"a": h, "b": model.b(h)}

    def norm_of(model):
        return model.between[0] if isinstance(norm, nn.Module) else norm

    def function(h):
        return torch.tanh(norm(h))

    between = nn.Sequential(norm, nn.Tanh()) if isinstance(norm, nn.Module) else function
    assert_observes(Between(between), by_hand, batch(4))


def test_a_norm_after_the_activation_belongs_to_the_layer_too():
    def by_hand(model, x):
        h = model.between(model.a(x))
        return {"a": h, "b": model.b(h)}

    assert_observes(Between(nn.Sequential(nn.ReLU(), nn.BatchNorm1d(8))), by_hand, batch(4))


@pytest.mark.parametrize("training", [True, False])
def test_a_layer_with_a_norm_between_two_dropouts_ends_after_the_norm(training):
    def by_hand(model, x):
        h = model.between[:2](model.a(x))
        return {"a": h, "b": model.b(model.between[2](h))}

    between = nn.Sequential(nn.Dropout(0.5), nn.LayerNorm(8), nn.Dropout(0.5))
    assert_observes(Between(between).train(training), by_hand, batch(4))


@pytest.mark.parametrize("kind", [nn.InstanceNorm2d, nn.BatchNorm2d])
def test_a_norm_of_images_belongs_to_the_convolution_before_it(kind):
    def by_hand(model, x):
        h = model[:3](x)
        return {"0": h, "4": model[3:](h)}

    model = nn.Sequential(
        *(nn.Conv2d(2, 4, 3), kind(4, affine=True), nn.ReLU(inplace=True)),
        *(nn.Flatten(), nn.Linear(64, 3)),
    )
    assert_observes(model, by_hand, batch(2, 6, 6))


def test_a_norm_that_no_layer_precedes_adds_no_neurons():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

    def by_hand(model, x):
        h = F.relu(model[1](model[0](x)))
        return {"1": h, "3": model[3](h)}

    assert_observes(model, by_hand, batch(4))


@pytest.mark.parametrize(
    "make",
    [nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d],
)
def test_convolutions_of_every_kind_are_layers(make):
    axes = int(make.__name__[-2])
    model = nn.Sequential(make(2, 4, 3), nn.ReLU(), make(4, 3, 2))

    def by_hand(model, x):
        h = F.relu(model[0](x))
        return {"0": h, "2": model[2](h)}

    assert_observes(model, by_hand, batch(2, *[5] * axes))


def test_depthwise_and_dilated_convolutions_are_layers():
    model = nn.Sequential(
        nn.Conv2d(4, 4, 3, groups=4), nn.ReLU6(), nn.Conv2d(4, 2, 2, dilation=2, padding="same")
    )

    def by_hand(model, x):
        h = F.relu6(model[0](x))
        return {"0": h, "2": model[2](h)}

    assert_observes(model, by_hand, batch(4, 6, 6))


class SqueezeExcite(nn.Module):
    """Rescales the channels of a convolution by a small network of their means."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.reduce, self.expand = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        h = F.silu(self.conv(x))
        scale = h.mean((2, 3), keepdim=True)
        scale = self.expand(F.silu(self.reduce(scale), inplace=True))
        return self.head((h * scale.sigmoid()).mean((2, 3)))


def test_the_convolutions_of_squeeze_and_excitation_are_layers():
    def by_hand(model, x):
        conv = F.silu(model.conv(x))
        reduced = F.silu(model.reduce(conv.mean((2, 3), keepdim=True)))
        expanded = torch.sigmoid(model.expand(reduced))
        head = model.head((conv * expanded).mean((2, 3)))
        return {"conv": conv, "reduce": reduced, "expand": expanded, "head": head}

    assert_observes(SqueezeExcite(), by_hand, batch(2, 6, 6))


def test_branches_that_are_concatenated_are_layers_of_their_own():
    class Dense(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv1d(2, 3, 1), nn.Conv1d(5, 4, 1), nn.Conv1d(9, 2, 1)

        def forward(self, x):
            x = torch.cat([x, F.relu(self.a(x))], 1)
            x = torch.cat([x, F.relu(self.b(x))], 1)
            return self.c(x)

    def by_hand(model, x):
        a = F.relu(model.a(x))
        first = torch.cat([x, a], 1)
        b = F.relu(model.b(first))
        return {"a": a, "b": b, "c": model.c(torch.cat([first, b], 1))}

    assert_observes(Dense(), by_hand, batch(2, 5))


class DropPath(nn.Module):
    """Stochastic depth: leaves out whole samples."""

    def forward(self, x):
        if not self.training:
            return x
        mask = x.new_empty((len(x),) + (1,) * (x.ndim - 1)).bernoulli_(0.5)
        return x * mask.div_(0.5)


@pytest.mark.parametrize("training", [True, False])
def test_stochastic_depth_is_crossed_like_dropout(training):
    def activated(model, x):
        h = model.between(model.a(x))
        return {"a": h, "b": model.b(h)}

    def not_activated(model, x):
        h = model.a(x)
        return {"a": h, "b": model.b(model.between(h))}

    model = Between(nn.Sequential(DropPath(), nn.ReLU())).train(training)
    assert_observes(model, activated, batch(4))
    assert_observes(Between(DropPath()).train(training), not_activated, batch(4))
