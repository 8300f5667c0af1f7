"""Attention is one layer; its queries, keys and values are none."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from attaching.helpers import assert_layers, assert_observes, batch
from torch import nn

import topoloss


def encoder_layer(**options):
    return nn.TransformerEncoderLayer(8, 2, 16, **options)


def encoder_layer_modules(layer, x, prefix="", axis=0):
    """What each module of an encoder layer puts out, after its activation."""
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


def without_norms(layers):
    return {name: h for name, h in layers.items() if "norm" not in name}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_transformer_encoder_layer_is_attention_and_two_linear_maps(training, activation, axis):
    model = encoder_layer(batch_first=axis == 0, activation=activation).train(training)
    x = torch.randn(6, 5, 8) if axis == 0 else torch.randn(5, 6, 8)

    def by_hand(model, x):
        return without_norms(encoder_layer_modules(model, x, axis=axis))

    if axis == 0:
        assert_observes(model, by_hand, x)
    else:
        assert_observes(model, by_hand, x, batch_dim=1)


@pytest.mark.parametrize("training", [True, False])
def test_by_the_papers_rule_a_transformer_encoder_layer_has_its_norms_too(training):
    model = encoder_layer(batch_first=True).train(training)
    assert_observes(model, encoder_layer_modules, batch(5, 8), layers="trainable")


def encoder_by_hand(model, x):
    first = encoder_layer_modules(model.layers[0], x, "layers.0.")
    second = encoder_layer_modules(model.layers[1], first["layers.0.norm2"], "layers.1.")
    return first | second


@pytest.mark.parametrize("training", [True, False])
def test_a_transformer_encoder_has_the_layers_of_its_blocks(training):
    model = nn.TransformerEncoder(
        encoder_layer(batch_first=True), 2, norm=nn.LayerNorm(8), enable_nested_tensor=False
    ).train(training)
    assert_observes(model, lambda m, x: without_norms(encoder_by_hand(m, x)), batch(5, 8))


def test_observing_does_not_change_what_a_transformer_puts_out_in_inference():
    model = nn.TransformerEncoder(encoder_layer(batch_first=True), 2, enable_nested_tensor=False)
    model, x = model.eval(), batch(5, 8)
    with torch.no_grad():
        before = model(x)
        with topoloss.observe(model) as seen:
            for _ in range(3):
                torch.testing.assert_close(model(x), before)
                assert_layers(seen, without_norms(encoder_by_hand(model, x)))


@pytest.mark.parametrize("training", [True, False])
def test_a_transformer_decoder_layer_is_two_attentions_and_two_linear_maps(training):
    model = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True).train(training)

    def by_hand(model, x, memory):
        own = model.self_attn(x, x, x, need_weights=False)[0]
        h = model.norm1(x + model.dropout1(own))
        cross = model.multihead_attn(h, memory, memory, need_weights=False)[0]
        h = model.norm2(h + model.dropout2(cross))
        hidden = F.relu(model.linear1(h))
        return {
            "self_attn": own,
            "multihead_attn": cross,
            "linear1": hidden,
            "linear2": model.linear2(model.dropout(hidden)),
        }

    assert_observes(model, by_hand, batch(5, 8), batch(7, 8))


class OwnAttention(nn.Module):
    """Attention by hand, with one projection for each of queries, keys and values."""

    def __init__(self, fused):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))
        self.proj = nn.Linear(8, 8)
        self.fused = fused

    def heads(self, x):
        return x.view(*x.shape[:2], 2, 4).transpose(1, 2)

    def attend(self, q, k, v):
        if self.fused:
            return F.scaled_dot_product_attention(q, k, v)
        return torch.softmax(q @ k.transpose(-2, -1) / 2, -1) @ v

    def forward(self, x):
        x = self.attend(self.heads(self.q(x)), self.heads(self.k(x)), self.heads(self.v(x)))
        return self.proj(x.transpose(1, 2).reshape(x.shape[0], -1, 8))


class JointAttention(OwnAttention):
    """As the vision transformers write it: queries, keys and values of one linear map."""

    def __init__(self, fused):
        super().__init__(fused)
        del self.q, self.k, self.v
        self.qkv = nn.Linear(8, 24)

    def forward(self, x):
        n, positions, _ = x.shape
        qkv = self.qkv(x).reshape(n, positions, 3, 2, 4).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        return self.proj(self.attend(q * 0.5, k, v).transpose(1, 2).reshape(n, positions, 8))


class CopyingAttention(OwnAttention):
    """Attention that copies each head into a piece of memory of its own."""

    def heads(self, x):
        return super().heads(x).contiguous()


class EinsumAttention(OwnAttention):
    """Attention in which every product is an einsum."""

    def forward(self, x):
        q, k, v = (layer(x).view(*x.shape[:2], 2, 4) for layer in (self.q, self.k, self.v))
        weights = torch.einsum("nqhd,nkhd->nhqk", q, k).softmax(-1)
        return self.proj(torch.einsum("nhqk,nkhd->nqhd", weights, v).flatten(2))


class OneHead(OwnAttention):
    """Attention with one head, so that the view of heads moves nothing."""

    def heads(self, x):
        return x.view(len(x), -1, 8)

    def forward(self, x):
        return self.proj(self.attend(*(self.heads(layer(x)) for layer in (self.q, self.k, self.v))))


@pytest.mark.parametrize(
    ("make", "fused"),
    [
        *product([OwnAttention, JointAttention, CopyingAttention, OneHead], [True, False]),
        (EinsumAttention, False),
    ],
)
def test_queries_keys_and_values_are_no_layers(make, fused):
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), make(fused), nn.Linear(8, 3))

    def by_hand(model, x):
        first = model[:2](x)
        attention = model[2](first)
        return {"0": first, "2.proj": attention, "3": model[3](attention)}

    assert_observes(model, by_hand, batch(5, 4))


def rotated(h):
    """Rotary positions: each half is added to the other, times a constant."""
    return h * 0.8 + torch.cat([-h[..., 4:], h[..., :4]], -1) * 0.6


CAUSAL = torch.ones(5, 5).triu(1).bool()
WEIGHTS = {
    "scaled": lambda q, k: torch.softmax(q @ k.mT / 8**0.5, -1),
    "masked": lambda q, k: (q @ k.mT).masked_fill(CAUSAL, -1e9).softmax(-1),
    "where": lambda q, k: torch.where(CAUSAL, -1e9, q @ k.mT).softmax(-1),
    "float32": lambda q, k: F.softmax(q @ k.mT, dim=-1, dtype=torch.float32).to(q.dtype),
    "dropped": lambda q, k: F.dropout(torch.softmax(q @ k.mT, -1), 0.1),
    "normalised": lambda q, k: (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT).softmax(-1),
    "rotated": lambda q, k: (rotated(q) @ rotated(k).mT).softmax(-1),
    "added": lambda q, k: torch.baddbmm(torch.rand(1, 5, 5), q, k.mT).softmax(-1),
    "einsum": lambda q, k: torch.einsum("nid,njd->nij", q, k).softmax(-1),
    "with a sink": lambda q, k: torch.cat([q @ k.mT, torch.zeros(len(q), 5, 1)], -1).softmax(-1)[
        ..., :-1
    ],
    "with sinks that are first": lambda q, k: torch.cat(
        [torch.rand(len(q), 5, 2), q @ k.mT], dim=2
    ).softmax(-1)[..., 2:],
    "of both halves": lambda q, k: torch.cat([q[:, :2] @ k.mT, q[:, 2:] @ k.mT], 1).softmax(-1),
    "shifted": lambda q, k: ((s := q @ k.mT) - s.amax(-1, keepdim=True)).softmax(-1),
}


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
def test_attention_is_recognised_however_its_weights_are_made(weights):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v, self.proj = (nn.Linear(8, 8) for _ in range(4))

        def forward(self, x):
            return self.proj(weights(self.q(x), self.k(x)) @ self.v(x))

    assert_observes(Attention(), lambda model, x: {"proj": model(x)}, batch(5, 8))


RELATIVE = {
    "by a product": lambda q, table: q @ table.mT,
    "from the left": lambda q, table: (table @ q.mT).mT,
    "by an einsum": lambda q, table: torch.einsum("nqc,kc->nqk", q, table),
    "shifted": lambda q, table: (q @ table.repeat(2, 1).mT)[..., 5:],
    "scaled": lambda q, table: 0.5 * (q @ table.mT),
}


@pytest.mark.parametrize("relative", RELATIVE.values(), ids=RELATIVE)
def test_relative_positions_that_are_learnt_are_no_layer(relative):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v, self.proj = (nn.Linear(8, 8) for _ in range(4))
            self.table = nn.Parameter(torch.randn(5, 8))

        def forward(self, x):
            q, k, v = self.q(x), self.k(x), self.v(x)
            return self.proj((q @ k.mT + relative(q, self.table)).softmax(-1) @ v)

    assert_observes(Attention(), lambda model, x: {"proj": model(x)}, batch(5, 8))


def test_what_is_added_to_scores_that_weigh_nothing_is_a_layer():
    class Bilinear(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.d = (nn.Linear(8, 5) for _ in range(4))

        def forward(self, x):
            return (self.a(x) @ self.b(x).mT + self.c(x)).softmax(-1) + self.d(x)

    def by_hand(model, x):
        return {name: getattr(model, name)(x) for name in "abcd"}

    assert_observes(Bilinear(), by_hand, batch(5, 8))


class Towers(nn.Module):
    """Two encoders whose outputs are compared, each with each."""

    def __init__(self, compare):
        super().__init__()
        self.image, self.text, self.head = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(5, 3)
        self.compare = compare

    def forward(self, x):
        return self.compare(self.image(x) @ self.text(x.sin()).mT, self.head)


COMPARED = {
    "none": lambda z, head: z,
    "log-softmax": lambda z, head: z.log_softmax(1),
    "softmax": lambda z, head: z.softmax(1),
    "softmax at a temperature": lambda z, head: (z / 0.07).softmax(1).clamp(min=1e-6).log(),
    "weighed by labels": lambda z, head: z.softmax(1) * torch.eye(6),
}


@pytest.mark.parametrize("compare", COMPARED.values(), ids=COMPARED)
def test_a_softmax_that_weighs_no_values_is_no_attention(compare):
    def by_hand(model, x):
        return {"image": model.image(x), "text": model.text(x.sin())}

    assert_observes(Towers(compare), by_hand, batch(4))


def test_a_linear_map_of_a_softmax_is_no_attention():
    def by_hand(model, x):
        return {"image": model.image(x), "text": model.text(x.sin()), "head": model(x)}

    assert_observes(Towers(lambda z, head: head(z.softmax(1))), by_hand, batch(5, 4))


def test_values_may_be_weighed_entry_by_entry_and_added_up():
    class Pooling(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.proj = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x):
            weights = torch.softmax(self.k(x) @ self.q(x[:, 0])[..., None], 1)
            return self.proj((weights * x).sum(1))

    assert_observes(Pooling(), lambda model, x: {"proj": model(x)}, batch(5, 8))


def test_queries_keys_and_values_are_layers_by_the_papers_rule():
    model, x = OwnAttention(fused=False), batch(5, 8)
    seen = topoloss.observe(model, layers="trainable")
    model(x)
    projections = {"q": model.q(x), "k": model.k(x), "v": model.v(x)}
    assert_layers(seen, projections | {"proj": model(x)})


class Block(nn.Module):
    """A transformer's block with the norms first, and positions masked."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x, padded):
        h = self.norm1(x)
        x = x + self.attention(h, h, h, key_padding_mask=padded)[0]
        return x + self.down(F.gelu(self.up(self.norm2(x))))


def test_norms_that_come_first_are_no_layers():
    def by_hand(model, x, padded):
        h = model.norm1(x)
        attention = model.attention(h, h, h, key_padding_mask=padded)[0]
        x = x + attention
        up = F.gelu(model.up(model.norm2(x)))
        return {"attention": attention, "up": up, "down": model.down(up)}

    padded = torch.arange(5)[None] >= torch.tensor([5, 4, 3, 5, 2, 1])[:, None]
    assert_observes(Block(), by_hand, batch(5, 8), padded)


def test_a_low_rank_product_of_two_maps_is_no_attention():
    """Products with a parameter are linear maps, whatever comes before them."""

    class LowRank(nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.up = nn.Linear(4, 2, bias=False), nn.Linear(2, 4, bias=False)

        def forward(self, x):
            return self.up(self.down(x))

    def by_hand(model, x):
        down = model.down(x)
        return {"down": down, "up": model.up(down)}

    assert_observes(LowRank(), by_hand, batch(5, 4))


class LearntQueries(nn.Module):
    """Attention whose queries are a parameter."""

    def __init__(self, attend, *shape):
        super().__init__()
        self.q, self.attend = nn.Parameter(torch.randn(*shape, 8)), attend
        self.k, self.v, self.proj = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.proj(self.attend(self.q, self.k(x), self.v(x)))


LEARNT = {
    "product": (lambda q, k, v: (q @ k.mT).softmax(-1) @ v, 3),
    "scaled": (lambda q, k, v: F.dropout((q / 8**0.5 @ k.mT / 2).softmax(-1), 0.1) @ v, 3),
    "three axes": (lambda q, k, v: (q @ k.mT).softmax(-1) @ v, 1, 3),
    "expanded": (lambda q, k, v: (q.expand(len(k), -1, -1) @ k.mT).softmax(-1) @ v, 1, 3),
    "einsum": (lambda q, k, v: torch.einsum("qd,npd->nqp", q, k).softmax(-1) @ v, 3),
    "fused": (lambda q, k, v: F.scaled_dot_product_attention(q.expand(len(k), -1, -1), k, v), 3),
}


@pytest.mark.parametrize("given", LEARNT.values(), ids=LEARNT)
def test_queries_that_are_learnt_are_no_layers_either(given):
    assert_observes(LearntQueries(*given), lambda model, x: {"proj": model(x)}, batch(5, 4))


def test_a_parameter_that_comes_first_in_a_product_is_a_weight_all_the_same():
    """Where no values are weighed by a softmax of the product."""

    class First(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.w = nn.Linear(4, 8), nn.Parameter(torch.randn(3, 5))

        def forward(self, x):
            return (self.w @ self.a(x)).softmax(-1)

    def by_hand(model, x):
        return {"a": model.a(x), "(model)": model(x)}

    assert_observes(First(), by_hand, batch(5, 4))
