"""What a neuron is: each channel and position, or each channel."""

import pytest
import torch
import torch.nn.functional as F
from attaching.helpers import assert_layers, assert_observes, batch
from torch import nn

import topoloss


def convolutional():
    return nn.Sequential(
        *(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.GroupNorm(2, 4)),
        *(nn.Flatten(2), nn.Conv1d(4, 3, 5), nn.Tanh()),
    )


def convolutional_by_hand(model, x):
    conv = model[0](x)
    bn = F.relu(model[1](conv))
    group = model[3](bn)
    return {"0": conv, "1": bn, "3": group, "5": torch.tanh(model[5](group.flatten(2)))}


def by_channel(h):
    """One column for each channel: all its samples and positions."""
    return torch.stack([h[:, c].flatten() for c in range(h.shape[1])], 1)


@pytest.mark.parametrize("layers", ["auto", "trainable"])
@pytest.mark.parametrize("units", ["unit", "channel"])
def test_units_of_a_convolution(units, layers):
    def by_hand(model, x):
        found = convolutional_by_hand(model, x)
        if layers == "auto":  # all norms belong to the convolution before them
            found = {"0": found["3"], "5": found["5"]}
        if units == "channel":
            found = {name: by_channel(h) for name, h in found.items()}
        return found

    assert_observes(convolutional(), by_hand, batch(2, 5, 6), units=units, layers=layers)


def test_units_are_counted_channel_by_channel_and_row_by_row():
    model, x = nn.Conv2d(2, 3, 2), batch(2, 4, 5)
    seen = topoloss.observe(model)
    out = model(x)
    (h,) = seen.activations().values()
    assert h.shape == (6, 3 * 3 * 4)
    torch.testing.assert_close(h[:, 2 * 12 + 1 * 4 + 3], out[:, 2, 1, 3])


def test_the_channels_of_tokens_and_of_vectors_stand_last():
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 3))

    def by_hand(model, x):
        h = model[:3](x)
        return {"0": h.flatten(0, -2), "3": model[3](h).flatten(0, -2)}

    for shape in ((5, 4), (3, 5, 4), (4,)):
        assert_observes(model, by_hand, batch(*shape), units="channel")


def test_the_channels_of_a_recurrent_module_and_of_attention_stand_last():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(4, 8, batch_first=True)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            h = self.rnn(x)[0]
            return self.attention(h, h, h)[0]

    def by_hand(model, x):
        rnn = model.rnn(x)[0]
        return {
            "rnn": rnn.flatten(0, 1),
            "attention": model.attention(rnn, rnn, rnn)[0].flatten(0, 1),
        }

    assert_observes(Both(), by_hand, batch(5, 4), units="channel")


def test_channels_last_in_memory_or_in_shape_are_told_apart():
    model = nn.Conv2d(2, 3, 2).to(memory_format=torch.channels_last)

    def by_hand(model, x):
        return {"(model)": by_channel(model(x))}

    x = batch(2, 4, 5).to(memory_format=torch.channels_last)
    assert_observes(model, by_hand, x, units="channel")

    class ToLast(nn.Module):
        """As ConvNeXt does it: a linear map on the channels of an image."""

        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(2, 3, 2), nn.Linear(3, 5)

        def forward(self, x):
            return F.gelu(self.fc(self.conv(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)

    def to_last_by_hand(model, x):
        conv = model.conv(x)
        fc = F.gelu(model.fc(conv.permute(0, 2, 3, 1)))
        return {"conv": by_channel(conv), "fc": fc.flatten(0, -2)}

    assert_observes(ToLast(), to_last_by_hand, batch(2, 4, 5), units="channel")


class Adapted(nn.Module):
    """A layer and a small one beside it, as adapters of low rank have it."""

    def __init__(self, layer, down, up, between=nn.Identity):
        super().__init__()
        self.layer, self.down, self.up, self.between = layer, down, up, between()

    def forward(self, x):
        return self.layer(x) + 2.0 * self.between(self.up(self.down(x)))


@pytest.mark.parametrize(
    ("adapted", "shape"),
    [
        (lambda: Adapted(nn.Linear(4, 6), nn.Linear(4, 2), nn.Linear(2, 6)), (5, 4)),
        (lambda: Adapted(nn.Linear(4, 6), nn.Linear(4, 2), nn.Linear(2, 6), nn.Tanh), (5, 4)),
        (lambda: Adapted(nn.Conv2d(4, 6, 1), nn.Conv2d(4, 2, 1), nn.Conv2d(2, 6, 1)), (4, 3, 3)),
    ],
    ids=["linear", "with an activation", "convolution"],
)
def test_channels_of_a_wrapper_are_those_of_the_layers_in_it(adapted, shape):
    model = nn.Sequential(adapted(), nn.Flatten(), nn.LazyLinear(3))
    model(x := batch(*shape))

    def by_hand(model, x):
        out = model[0](x)
        return {"0": by_channel(out) if out.ndim == 4 else out.flatten(0, -2)}

    assert_observes(model, by_hand, x, units="channel", layers="0")


def test_channels_of_a_wrapper_whose_layers_disagree_are_not_known():
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Conv1d(4, 4, 1)

        def forward(self, x):
            return self.a(x) + self.b(x)

    model = nn.Sequential(Turned(), nn.Flatten(), nn.Linear(16, 3))
    with topoloss.observe(model, layers="0", units="channel") as seen:
        model(batch(4, 4))
        with pytest.raises(topoloss.AttachmentError, match="which axis holds its channels"):
            seen.activations()


class OwnConvolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 2, 3, 3))

    def forward(self, x):
        return F.conv2d(x, self.weight)


def test_the_channels_of_a_convolution_by_hand_stand_second():
    def by_hand(model, x):
        return {"(model)": by_channel(F.conv2d(x, model.weight))}

    assert_observes(OwnConvolution(), by_hand, batch(2, 6, 7), units="channel")


class Weighs(nn.Module):
    """A linear map from 4 channels to 5, of 3 positions, written as a product."""

    def __init__(self, function, *shape):
        super().__init__()
        self.weight, self.function = nn.Parameter(torch.randn(shape)), function

    def forward(self, x):
        return self.function(self.weight, x)


# The product, the shape of its weight, that of a sample, and where the channels are put out.
PRODUCTS = {
    "W @ x": (lambda w, x: w @ x, (5, 4), (4, 3), 1),
    "x @ W": (lambda w, x: x @ w, (4, 5), (3, 4), 2),
    "W @ x, asked of x": (lambda w, x: x.__rmatmul__(w), (5, 4), (4, 3), 1),
    "x @ W, asked of W": (lambda w, x: w.__rmatmul__(x), (4, 5), (3, 4), 2),
    "x @ W of two heads": (lambda w, x: x[:, None] @ w, (2, 4, 5), (3, 4), 3),
    "W by name": (lambda w, x: torch.matmul(input=w, other=x), (5, 4), (4, 3), 1),
    "linear": (lambda w, x: F.linear(x, w), (5, 4), (3, 4), 2),
    "addmm": (lambda w, x: torch.addmm(torch.ones(5), x.flatten(0, 1), w), (4, 5), (1, 4), 1),
    "oc,ncp->nop": (lambda w, x: torch.einsum("oc,ncp->nop", w, x), (5, 4), (4, 3), 1),
    "n c p, o c -> n p o": (lambda w, x: torch.einsum("ncp, oc -> npo", x, w), (5, 4), (4, 3), 2),
    "...c,oc->...o": (lambda w, x: torch.einsum("...c,oc->...o", x, w), (5, 4), (3, 4), 2),
    "oc,nc...->no...": (lambda w, x: torch.einsum("oc,nc...->no...", w, x), (5, 4), (4, 3), 1),
}


@pytest.mark.parametrize(("function", "weight", "sample", "axis"), PRODUCTS.values(), ids=PRODUCTS)
def test_the_channels_of_a_product_stand_where_the_weight_puts_them(function, weight, sample, axis):
    def by_hand(model, x):
        return {"(model)": by_channel(model(x).movedim(axis, 1))}

    assert_observes(Weighs(function, *weight), by_hand, batch(*sample), units="channel")


def test_the_channels_may_stand_before_the_samples():
    def by_hand(model, x):
        return {"(model)": by_channel(model(x).transpose(0, 1))}

    model = Weighs(lambda w, x: torch.einsum("oc,ncp->onp", w, x), 5, 4)
    assert_observes(model, by_hand, batch(4, 3), units="channel")


HIDDEN = {
    "tensordot": (lambda w, x: torch.tensordot(x.mT, w, ([2], [1])), (5, 4)),
    "two axes of channels": (lambda w, x: torch.einsum("hkc,ncp->nhkp", w, x), (2, 5, 4)),
    "an equation without an end": (lambda w, x: torch.einsum("zc,ncp", w, x).mT, (5, 4)),
}


@pytest.mark.parametrize(("function", "weight"), HIDDEN.values(), ids=HIDDEN)
def test_the_channels_of_a_product_that_does_not_show_them_are_refused(function, weight):
    model = Weighs(function, *weight)
    seen = topoloss.observe(model, units="channel")
    model(batch(4, 3))
    with pytest.raises(topoloss.AttachmentError, match="which axis holds its channels"):
        seen.activations()


@pytest.mark.parametrize(
    ("model", "layers"),
    [
        (nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU()), nn.ReLU),
        (nn.Sequential(nn.Conv2d(2, 4, 3), nn.MaxPool2d(2), nn.PReLU(4)), nn.PReLU),
        (nn.Sequential(nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU())), "0"),
    ],
)
def test_the_channel_axis_of_a_chosen_module_is_the_right_one(model, layers):
    """Never the width of an image in place of its channels."""
    x = batch(2, 6, 7)
    seen = topoloss.observe(model, units="channel", layers=layers)
    out = model(x)
    (h,) = seen.activations().values()
    torch.testing.assert_close(h, by_channel(out))


@pytest.mark.parametrize(
    "module", [nn.MaxPool2d(2), nn.LayerNorm((4, 4, 5)), nn.LayerNorm((4, 5))], ids=str
)
def test_a_chosen_module_that_does_not_tell_its_channel_axis_is_refused(module):
    model = nn.Sequential(nn.Conv2d(2, 4, 3), module)
    seen = topoloss.observe(model, units="channel", layers="1")
    model(batch(2, 6, 7))
    with pytest.raises(topoloss.AttachmentError, match="which axis holds its channels is not"):
        seen.activations()


class Windows(nn.Module):
    """Folds windows of the positions into the samples, as Swin does it."""

    def __init__(self):
        super().__init__()
        self.embed, self.inside, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        n, positions, _ = x.shape
        windows = self.embed(x).reshape(n * positions // 2, 2, 8)
        windows = F.gelu(self.inside(windows))
        return self.head(windows.reshape(n, positions, 8))


def windows_by_hand(model, x):
    embed = model.embed(x)
    inside = F.gelu(model.inside(embed))
    return {"embed": embed, "inside": inside, "head": model.head(inside)}


positions_or_samples = pytest.mark.parametrize("positions", [8, 6])


@positions_or_samples
def test_windows_in_place_of_samples_are_left_out_and_told(positions):
    model, x = Windows(), batch(positions, 4)
    seen = topoloss.observe(model)
    model(x)
    expected = windows_by_hand(model, x)
    del expected["inside"]
    with pytest.warns(topoloss.AttachmentWarning, match="'inside'"):
        seen.activations()
    assert_layers(seen, expected)
    description = seen.describe()
    assert list(description.left_out) == ["inside"]
    assert f"left out: 'inside' {description.left_out['inside']}" in str(description)


@positions_or_samples
def test_where_positions_are_samples_windows_count(positions):
    def by_hand(model, x):
        return {name: h.flatten(0, -2) for name, h in windows_by_hand(model, x).items()}

    assert_observes(Windows(), by_hand, batch(positions, 4), units="channel")
