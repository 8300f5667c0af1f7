"""Layers whose tensors the model or its user changes in place."""

import contextlib

import pytest
import torch
import torch.nn.functional as F
from attaching.helpers import Between, assert_layers, assert_observes, batch
from torch import nn

import topoloss


class Residual(nn.Module):
    """A block of a residual network, as torchvision writes it."""

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


def resnet_modules(model, x):
    """What each module puts out, before the addition."""
    block = model.block
    stem = model.stem(x)
    conv1 = block.conv1(stem)
    bn1 = F.relu(block.bn1(conv1))
    conv2 = block.conv2(bn1)
    bn2 = block.bn2(conv2)
    fc = model.fc(F.relu(bn2 + stem).mean((2, 3)))
    return {
        "stem": stem,
        "block.conv1": conv1,
        "block.bn1": bn1,
        "block.conv2": conv2,
        "block.bn2": bn2,
        "fc": fc,
    }


def resnet_by_hand(model, x):
    """Each convolution with what follows it."""
    seen = resnet_modules(model, x)
    return {
        "stem": seen["stem"],
        "block.conv1": seen["block.bn1"],
        "block.conv2": seen["block.bn2"],
        "fc": seen["fc"],
    }


@pytest.mark.parametrize("training", [True, False])
def test_a_residual_block_is_observed_before_the_addition(training):
    assert_observes(ResNet().train(training), resnet_by_hand, batch(1, 5, 5))


@pytest.mark.parametrize("training", [True, False])
def test_the_modules_of_a_residual_block_are_observed_before_the_addition(training):
    model = ResNet().train(training)
    assert_observes(model, resnet_modules, batch(1, 5, 5), layers="trainable")


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_residual_block_may_be_validated_first(mode):
    model, x = ResNet().eval(), batch(1, 5, 5)
    seen = topoloss.observe(model)
    for context in (mode, contextlib.nullcontext, mode):
        with context():
            model(x)
            assert_layers(seen, resnet_by_hand(model, x))


def test_a_layer_may_be_changed_in_place_in_some_passes_only():
    class Sometimes(nn.Module):
        change = False

        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x):
            h = self.a(x)
            if self.change:
                h += self.b(x)
            return self.c(h)

    model, x = Sometimes(), batch(4)
    seen = topoloss.observe(model)
    for model.change in (False, True, False):
        model(x)
        a, b = model.a(x), model.b(x)
        expected = (
            {"a": a, "b": b, "c": model.c(a + b)} if model.change else {"a": a, "c": model.c(a)}
        )
        assert_layers(seen, expected)


def test_an_output_that_is_changed_after_the_forward_pass_is_an_error():
    model, x = Between(nn.ReLU()), batch(4)
    seen = topoloss.observe(model)
    out = model(x)
    with torch.no_grad():
        out.zero_()
    with pytest.raises(topoloss.AttachmentError, match=r"'b' was changed in place"):
        seen.activations()


def test_a_constant_added_in_place_belongs_to_the_layer():
    class Adds(Between):
        def forward(self, x):
            h = F.gelu(self.a(x))
            h += 1
            return self.b(h)

    def by_hand(model, x):
        h = F.gelu(model.a(x)) + 1
        return {"a": h, "b": model.b(h)}

    assert_observes(Adds(None), by_hand, batch(4))


def test_a_layer_is_taken_before_some_of_its_neurons_are_overwritten():
    class Sets(Between):
        def forward(self, x):
            h = F.gelu(self.a(x))
            h[:, 2] = x[:, 0]
            return self.b(h)

    def by_hand(model, x):
        h = F.gelu(model.a(x))
        changed = torch.cat([h[:, :2], x[:, :1], h[:, 3:]], 1)
        return {"a": h, "b": model.b(changed)}

    assert_observes(Sets(None), by_hand, batch(4))


def test_a_change_in_place_through_a_view_does_not_reach_what_was_observed():
    class ThroughView(Between):
        def forward(self, x):
            h = self.a(x)
            h.view(-1, 2, 4).mul_(x[:, :, None].view(-1, 2, 2).repeat(1, 1, 2))
            return self.b(h)

    def by_hand(model, x):
        h = model.a(x)
        factors = x[:, :, None].view(-1, 2, 2).repeat(1, 1, 2)
        return {"a": h, "b": model.b((h.view(-1, 2, 4) * factors).view(-1, 8))}

    assert_observes(ThroughView(None), by_hand, batch(4))


def test_two_layers_may_share_an_activation_that_works_in_place():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 8))
    model.append(model[1]).append(nn.Linear(8, 3))

    def by_hand(model, x):
        first = F.relu(model[0](x))
        second = F.relu(model[2](first))
        return {"0": first, "2": second, "4": model[4](second)}

    assert_observes(model, by_hand, batch(4))
