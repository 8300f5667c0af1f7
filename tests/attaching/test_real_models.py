"""Pieces of models that are in use, written out as their libraries write them."""

import pytest
import torch
import torch.nn.functional as F
from attaching.helpers import assert_layers, assert_observes, batch
from torch import nn

import topoloss


def mlp_with(*between):
    return nn.Sequential(nn.Linear(4, 8), *between, nn.Linear(8, 3))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("idle", [nn.Identity(), nn.Dropout(0.0), nn.Dropout(0.5)], ids=repr)
@pytest.mark.parametrize("inplace", [True, False])
def test_an_activation_after_something_idle_is_the_same_in_every_pass(inplace, idle, training):
    model = mlp_with(idle, nn.ReLU(inplace=inplace)).train(training)
    x = batch(4)
    seen = topoloss.observe(model)
    found = []
    for _ in range(3):
        torch.manual_seed(1)
        model(x)
        found.append(seen.activations())
    torch.manual_seed(1)
    hidden = F.relu(idle(model[0](x)))
    expected = {"0": hidden, "3": model[3](hidden)}
    for activations in found:
        torch.testing.assert_close(activations, expected)


class BasicBlock(nn.Module):
    """A residual block as timm writes it."""

    def __init__(self, drop_block=None):
        super().__init__()
        self.conv1 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.drop_block = nn.Identity() if drop_block is None else drop_block
        self.act1 = nn.ReLU(inplace=True)
        self.aa = nn.Identity()
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(4)
        self.se = None
        self.drop_path = nn.Identity()
        self.act2 = nn.ReLU(inplace=True)

    def forward(self, x):
        shortcut = x
        x = self.conv1(x)
        x = self.bn1(x)
        x = self.drop_block(x)
        x = self.act1(x)
        x = self.aa(x)
        x = self.conv2(x)
        x = self.bn2(x)
        if self.se is not None:
            x = self.se(x)
        if self.drop_path is not None:
            x = self.drop_path(x)
        x += shortcut
        return self.act2(x)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layers", ["auto", "trainable"])
def test_a_residual_block_of_timm(layers, training):
    model = nn.Sequential(nn.Conv2d(1, 4, 1), BasicBlock(), BasicBlock())

    def by_hand(model, x):
        x = model[0](x)
        found = {"0": x}
        for k in (1, 2):
            block = model[k]
            found[f"{k}.conv1"] = block.conv1(x)
            found[f"{k}.bn1"] = F.relu(block.bn1(found[f"{k}.conv1"]))
            found[f"{k}.conv2"] = block.conv2(found[f"{k}.bn1"])
            found[f"{k}.bn2"] = block.bn2(found[f"{k}.conv2"])
            x = F.relu(found[f"{k}.bn2"] + x)
        if layers == "trainable":
            return found
        return {name: found[name.replace("conv", "bn")] for name in found if "bn" not in name}

    assert_observes(model.train(training), by_hand, batch(1, 5, 5), layers=layers)


class SinusoidalPositions(nn.Module):
    """Adds a table that is computed once."""

    def __init__(self):
        super().__init__()
        angles = torch.arange(5.0)[:, None] / 10 ** torch.arange(4.0)
        self.register_buffer("table", torch.sin(angles)[None])

    def forward(self, x):
        return x + self.table[:, : x.shape[1]]


class VisionTransformer(nn.Module):
    """Patches by a convolution, a class token, learnt positions, blocks with the norms first."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(1, 8, 2, stride=2)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.positions = nn.Parameter(torch.randn(1, 5, 8))
        self.norm1, self.norm2, self.norm = nn.LayerNorm(8), nn.LayerNorm(8), nn.LayerNorm(8)
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)
        self.fc1, self.act, self.fc2 = nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)
        self.head = nn.Linear(8, 3)

    def attention(self, x):
        n, positions, _ = x.shape
        qkv = self.qkv(x).reshape(n, positions, 3, 2, 4).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(*qkv.unbind(0))
        return x.transpose(1, 2).reshape(n, positions, 8)

    def forward(self, images):
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        x = x + self.proj(self.attention(self.norm1(x)))
        x = x + self.fc2(self.act(self.fc1(self.norm2(x))))
        return self.head(self.norm(x)[:, 0])


@pytest.mark.parametrize("samples", [6, 5, 4, 1])
def test_a_vision_transformer(samples):
    def by_hand(model, images):
        patches = model.patches(images)
        x = patches.flatten(2).transpose(1, 2)
        x = torch.cat([model.token.expand(len(x), -1, -1), x], 1) + model.positions
        proj = model.proj(model.attention(model.norm1(x)))
        x = x + proj
        fc1 = F.gelu(model.fc1(model.norm2(x)))
        fc2 = model.fc2(fc1)
        head = model.head(model.norm(x + fc2)[:, 0])
        return {"patches": patches, "proj": proj, "fc1": fc1, "fc2": fc2, "head": head}

    assert_observes(VisionTransformer(), by_hand, batch(1, 4, 4, samples=samples))


class InvertedResidual(nn.Module):
    """MobileNet's block: wide inside, depthwise, with a linear end."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Sequential(nn.Conv2d(4, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(True)),
            nn.Sequential(
                nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
                nn.BatchNorm2d(8),
                nn.ReLU6(True),
            ),
            nn.Conv2d(8, 4, 1, bias=False),
            nn.BatchNorm2d(4),
        )

    def forward(self, x):
        return x + self.conv(x)


@pytest.mark.parametrize("training", [True, False])
def test_a_block_of_mobilenet(training):
    def by_hand(model, x):
        stem = F.hardswish(model[0](x))
        first = model[2].conv[0](stem)
        second = model[2].conv[1](first)
        return {
            "0": stem,
            "2.conv.0.0": first,
            "2.conv.1.0": second,
            "2.conv.2": model[2].conv[2:](second),
        }

    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Hardswish(inplace=True), InvertedResidual())
    assert_observes(model.train(training), by_hand, batch(1, 5, 5))


class ConvNeXtBlock(nn.Module):
    """A depthwise convolution, then linear maps with the channels last, scaled at the end."""

    def __init__(self):
        super().__init__()
        self.dwconv = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.norm = nn.LayerNorm(4)
        self.pwconv1, self.act, self.pwconv2 = nn.Linear(4, 16), nn.GELU(), nn.Linear(16, 4)
        self.gamma = nn.Parameter(0.1 * torch.ones(4))

    def forward(self, x):
        shortcut = x
        x = self.dwconv(x).permute(0, 2, 3, 1)
        x = self.pwconv2(self.act(self.pwconv1(self.norm(x))))
        x = self.gamma * x
        return shortcut + x.permute(0, 3, 1, 2)


def test_a_block_of_convnext():
    def by_hand(model, x):
        dwconv = model.dwconv(x)
        first = F.gelu(model.pwconv1(model.norm(dwconv.permute(0, 2, 3, 1))))
        second = model.gamma * model.pwconv2(first)
        return {"dwconv": dwconv, "pwconv1": first, "pwconv2": second}

    assert_observes(ConvNeXtBlock(), by_hand, batch(4, 5, 5))


class UNet(nn.Module):
    """Down and up again, with the way down put beside the way up."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(1, 4, 3, padding=1)
        self.middle = nn.Conv2d(4, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.out = nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, x):
        down = F.relu(self.down(x), inplace=True)
        middle = F.relu(self.middle(F.max_pool2d(down, 2)), inplace=True)
        return self.out(torch.cat([down, self.up(middle)], 1))


def test_a_u_net():
    def by_hand(model, x):
        down = F.relu(model.down(x))
        middle = F.relu(model.middle(F.max_pool2d(down, 2)))
        up = model.up(middle)
        return {
            "down": down,
            "middle": middle,
            "up": up,
            "out": model.out(torch.cat([down, up], 1)),
        }

    assert_observes(UNet(), by_hand, batch(1, 4, 4))


class Autoencoder(nn.Module):
    """Draws its code, and puts out several things."""

    def __init__(self):
        super().__init__()
        self.encoder, self.mean, self.scale = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 2)
        self.decoder = nn.Linear(2, 4)

    def forward(self, x):
        h = torch.tanh(self.encoder(x))
        mean, scale = self.mean(h), F.softplus(self.scale(h))
        code = mean + scale * torch.randn_like(scale)
        return torch.sigmoid(self.decoder(code)), mean, scale


def test_a_variational_autoencoder():
    def by_hand(model, x):
        h = torch.tanh(model.encoder(x))
        mean, scale = model.mean(h), F.softplus(model.scale(h))
        code = mean + scale * torch.randn_like(scale)
        decoded = torch.sigmoid(model.decoder(code))
        return {"encoder": h, "mean": mean, "scale": scale, "decoder": decoded}

    assert_observes(Autoencoder(), by_hand, batch(4))


def test_a_table_of_positions_is_a_constant_of_the_layer():
    model = nn.Sequential(nn.Linear(3, 4), SinusoidalPositions(), nn.Linear(4, 2))
    x = batch(5, 3)
    seen = topoloss.observe(model)
    for _ in range(3):
        model(x)
        first = model[1](model[0](x))
        assert_layers(seen, {"0": first, "2": model[2](first)})
