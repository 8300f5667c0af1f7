"""How layers are wired: what joins them, splits them, or passes them by."""

import pytest
import torch
import torch.nn.functional as F
from attaching.helpers import Between, assert_layers, assert_observes, batch, with_between
from torch import nn

import topoloss


class Wired(nn.Module):
    """Modules by name, and a function of them and the inputs."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, *inputs):
        return self.function(self, *inputs)


def linear(*sizes):
    """Linear maps a, b, c and so on, of these sizes."""
    return {name: nn.Linear(*size) for name, size in zip("abcd", sizes, strict=False)}


def test_a_residual_branch_is_taken_with_its_scale():
    def forward(m, x):
        h = m.a(x)
        return m.c(h + 0.1 * F.relu(m.b(h)))

    def by_hand(m, x):
        h = m.a(x)
        branch = 0.1 * F.relu(m.b(h))
        return {"a": h, "b": branch, "c": m.c(h + branch)}

    assert_observes(Wired(forward, **linear((4, 8), (8, 8), (8, 3))), by_hand, batch(4))


def test_a_gate_of_two_halves_ends_the_layer_before_the_halves():
    def forward(m, x):
        value, gate = m.a(x).chunk(2, -1)
        return m.b(value * F.gelu(gate))

    def by_hand(m, x):
        h = m.a(x)
        return {"a": h, "b": m.b(h[..., :8] * F.gelu(h[..., 8:]))}

    assert_observes(Wired(forward, **linear((4, 16), (8, 3))), by_hand, batch(5, 4))


def test_maxout_ends_the_layer_before_the_maximum():
    def forward(m, x):
        return m.b(m.a(x).view(-1, 4, 2).max(-1).values)

    def by_hand(m, x):
        h = m.a(x)
        return {"a": h, "b": m.b(torch.maximum(h[:, ::2], h[:, 1::2]))}

    assert_observes(Wired(forward, **linear((4, 8), (4, 3))), by_hand, batch(4))


def test_an_activation_after_another_shape_is_not_the_layers():
    def forward(m, x):
        return m.b(F.relu(m.a(x).view(-1, 2, 4)).flatten(1))

    def by_hand(m, x):
        h = m.a(x)
        return {"a": h, "b": m.b(F.relu(h))}

    assert_observes(Wired(forward, **linear((4, 8), (8, 3))), by_hand, batch(4))


def test_a_use_without_gradients_is_a_use_all_the_same():
    def forward(m, x):
        h = F.relu(m.a(x))
        return m.b(h) + m.c(h.detach())

    def by_hand(m, x):
        h = F.relu(m.a(x))
        return {"a": h, "b": m.b(h), "c": m.c(h.detach())}

    assert_observes(Wired(forward, **linear((4, 8), (8, 3), (8, 3))), by_hand, batch(4))


def test_a_scale_that_depends_on_another_input_ends_the_layer():
    """As FiLM modulates features."""

    def forward(m, x, condition):
        scale, shift = m.a(condition).chunk(2, 1)
        return m.c(F.relu(m.b(x) * scale + shift))

    def by_hand(m, x, condition):
        film, h = m.a(condition), m.b(x)
        return {"a": film, "b": h, "c": m.c(F.relu(h * film[:, :8] + film[:, 8:]))}

    model = Wired(forward, **linear((5, 16), (4, 8), (8, 3)))
    assert_observes(model, by_hand, batch(4), batch(5))


def test_weights_that_a_layer_puts_out_make_no_layer_of_their_product():
    def forward(m, x, condition):
        weights = m.a(condition).view(-1, 8, 4)
        return m.b(torch.einsum("noi,ni->no", weights, x).relu())

    def by_hand(m, x, condition):
        made = m.a(condition)
        h = torch.stack([w.view(8, 4) @ row for w, row in zip(made, x, strict=True)])
        return {"a": made, "b": m.b(F.relu(h))}

    model = Wired(forward, **linear((5, 32), (8, 3)))
    assert_observes(model, by_hand, batch(4), batch(5))


@pytest.mark.parametrize("product", ["of pairs", "of all"])
def test_two_towers_end_before_their_product(product):
    def forward(m, x, y):
        if product == "of pairs":
            return (m.a(x) * m.b(y)).sum(1)
        return F.normalize(m.a(x), dim=1) @ F.normalize(m.b(y), dim=1).t()

    def by_hand(m, x, y):
        return {"a": m.a(x), "b": m.b(y)}

    assert_observes(Wired(forward, **linear((4, 8), (5, 8))), by_hand, batch(4), batch(5))


def test_a_coupling_layer_of_a_flow():
    def forward(m, x):
        kept, moved = x.chunk(2, 1)
        scale, shift = m.a(kept).chunk(2, 1)
        return torch.cat([kept, moved * scale.tanh().exp() + shift], 1)

    def by_hand(m, x):
        return {"a": m.a(x[:, :2])}

    assert_observes(Wired(forward, **linear((2, 4))), by_hand, batch(4))


@pytest.mark.parametrize("between", [nn.PixelShuffle(2), nn.Upsample(scale_factor=2)], ids=repr)
def test_an_image_of_another_size_is_another_tensor(between):
    channels = 2 if isinstance(between, nn.PixelShuffle) else 8
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), between, nn.ReLU(), nn.Conv2d(channels, 1, 1)
    )

    def by_hand(model, x):
        h = model[0](x)
        return {"0": h, "3": model[3](F.relu(between(h)))}

    assert_observes(model, by_hand, batch(1, 4, 4))


def test_a_norm_by_hand_in_the_midst_of_a_model_ends_the_layer():
    def forward(m, x):
        h = m.a(x)
        return m.b(F.relu((h - h.mean(0)) / (h.std(0) + 1e-5)))

    def by_hand(m, x):
        h = m.a(x)
        return {"a": h, "b": m.b(F.relu((h - h.mean(0)) / (h.std(0) + 1e-5)))}

    assert_observes(Wired(forward, **linear((4, 8), (8, 3))), by_hand, batch(4))


class OwnNorm(nn.Module):
    """A norm by hand as a module with the parameters of a norm."""

    def __init__(self):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.rand(8)), nn.Parameter(torch.rand(8))

    def forward(self, h):
        centred = h - h.mean(-1, keepdim=True)
        return self.scale * centred / (h.std(-1, keepdim=True) + 1e-5) + self.shift


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("norm", [OwnNorm(), nn.LayerNorm(8), nn.BatchNorm1d(8)], ids=repr)
def test_norm_and_activation_in_either_order_belong_to_the_layer(norm, inplace):
    for between in ([norm, nn.ReLU(inplace)], [nn.ReLU(inplace), norm]):
        assert_observes(Between(nn.Sequential(*between)), with_between, batch(4))


def test_a_cast_belongs_to_the_layer():
    def forward(m, x):
        return m.b(F.relu(m.a(x).to(torch.bfloat16)).float())

    def by_hand(m, x):
        h = F.relu(m.a(x).to(torch.bfloat16)).float()
        return {"a": h, "b": m.b(h)}

    assert_observes(Wired(forward, **linear((4, 8), (8, 3))), by_hand, batch(4))


# Changes of a part of a layer in place.


def changes_a_slice(h):
    F.relu(h[:, :4], inplace=True)
    return h


def changes_a_half(h):
    h.unflatten(1, (2, 4))[:, 1].mul_(2)
    return h


@pytest.mark.parametrize("change", [changes_a_slice, changes_a_half])
def test_a_layer_of_which_a_part_is_changed_is_taken_before_the_change(change):
    def by_hand(m, x):
        h = m.a(x)
        return {"a": h, "b": m.b(change(h.clone()))}

    assert_observes(Between(change), by_hand, batch(4))


def zeroes_negatives(h):
    h[h < 0] = 0
    return h


def activates_a_view(h):
    h.view(-1, 2, 4).relu_()
    return h


@pytest.mark.parametrize("activate", [zeroes_negatives, activates_a_view])
def test_a_relu_written_in_an_odd_way_is_taken_before_or_after(activate):
    """Never halfway, and never at the cost of the layers after it."""
    model, x = Between(activate), batch(4)
    seen = topoloss.observe(model)
    for _ in range(3):
        model(x)
        activations, before = seen.activations(), model.a(x)
        torch.testing.assert_close(activations["b"], model.b(F.relu(before)))
        after = (activations["a"] >= 0).all()
        torch.testing.assert_close(activations["a"], F.relu(before) if after else before)


# Graph networks.


def edges_of(nodes):
    return torch.randint(0, nodes, (2, 15))


def test_messages_along_edges_are_followed_back_to_the_nodes():
    sources, targets = edges_of(6)

    def messages(h):
        return torch.zeros_like(h).index_add_(0, targets, h[sources])

    def forward(m, x):
        return m.c(messages(F.relu(m.b(messages(m.a(x))))))

    def by_hand(m, x):
        h = m.a(x)
        second = F.relu(m.b(messages(h)))
        return {"a": h, "b": second, "c": m.c(messages(second))}

    model = Wired(forward, **linear((4, 8), (8, 8), (8, 3)))
    assert_observes(model, by_hand, batch(4))


def test_a_layer_of_the_edges_is_left_out_and_told():
    sources, targets = edges_of(6)

    def forward(m, x):
        h = m.a(x)
        edges = F.relu(m.b(torch.cat([h[sources], h[targets]], 1)))
        return m.c(h.new_zeros(6, 8).index_add_(0, targets, edges))

    model, x = Wired(forward, **linear((4, 8), (16, 8), (8, 3))), batch(4)
    seen = topoloss.observe(model)
    out = model(x)
    with pytest.warns(topoloss.AttachmentWarning, match="'b'"):
        seen.activations()
    assert_layers(seen, {"a": model.a(x), "c": out})


def test_a_sparse_adjacency_is_a_constant():
    def forward(m, x):
        return m.b(torch.sparse.mm(adjacency, m.a(x)).relu())

    def by_hand(m, x):
        h = m.a(x)
        return {"a": h, "b": m.b(F.relu(adjacency.to_dense() @ h))}

    adjacency = (torch.rand(6, 6) < 0.5).float().to_sparse()
    assert_observes(Wired(forward, **linear((4, 8), (8, 3))), by_hand, batch(4))
