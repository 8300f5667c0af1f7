"""Pieces of language models, written out as their libraries write them."""

import pytest
import torch
import torch.nn.functional as F
from attaching.helpers import Between, assert_observes, batch, with_between
from torch import nn


class LlamaNorm(nn.Module):
    """RMSNorm as language models write it: in float32, and then cast back."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        dtype = x.dtype
        y = x.float()
        variance = y.pow(2).mean(-1, keepdim=True)
        y = y * torch.rsqrt(variance + 1e-6)
        return self.weight * y.to(dtype)


class GatedBlock(nn.Module):
    """The feed-forward part of a language model's block."""

    def __init__(self):
        super().__init__()
        self.norm = LlamaNorm(8)
        self.gate_proj, self.up_proj = nn.Linear(8, 16, bias=False), nn.Linear(8, 16, bias=False)
        self.down_proj = nn.Linear(16, 8, bias=False)

    def forward(self, x):
        h = self.norm(x)
        return x + self.down_proj(F.silu(self.gate_proj(h)) * self.up_proj(h))


dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


@dtypes
def test_a_norm_that_computes_in_float32_belongs_to_the_layer_before_it(dtype):
    model = Between(LlamaNorm(8)).to(dtype)
    assert_observes(model, with_between, batch(4).to(dtype))


@dtypes
def test_the_three_maps_of_a_gated_feed_forward_block_are_layers(dtype):
    def by_hand(model, x):
        x = model[0](x)
        h = model[1].norm(x)
        gate, up = F.silu(model[1].gate_proj(h)), model[1].up_proj(h)
        down = model[1].down_proj(gate * up)
        return {
            "0": x,
            "1.gate_proj": gate,
            "1.up_proj": up,
            "1.down_proj": down,
            "2": model[2](x + down),
        }

    model = nn.Sequential(nn.Linear(4, 8), GatedBlock(), nn.Linear(8, 3)).to(dtype)
    assert_observes(model, by_hand, batch(5, 4).to(dtype))


class GPTBlock(nn.Module):
    """GPT-2's block: one map for queries, keys and values, and the tanh form of GELU."""

    def __init__(self):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.c_attn, self.c_proj = Conv1D(8, 24), Conv1D(8, 8)
        self.c_fc, self.c_out = Conv1D(8, 32), Conv1D(32, 8)
        self.dropout = nn.Dropout(0.1)

    def attention(self, x):
        n, positions, _ = x.shape
        q, k, v = self.c_attn(x).split(8, dim=2)
        q, k, v = (h.view(n, positions, 2, 4).transpose(1, 2) for h in (q, k, v))
        causal = torch.tril(torch.ones(positions, positions, dtype=torch.bool))
        weights = torch.matmul(q, k.transpose(-1, -2)) / 2.0
        weights = torch.where(causal, weights, torch.finfo(weights.dtype).min)
        weights = F.softmax(weights, dim=-1)
        return torch.matmul(weights, v).transpose(1, 2).reshape(n, positions, 8)

    def gelu(self, h):
        return 0.5 * h * (1.0 + torch.tanh(0.7978845608 * (h + 0.044715 * torch.pow(h, 3.0))))

    def forward(self, x):
        x = x + self.dropout(self.c_proj(self.attention(self.ln_1(x))))
        return x + self.dropout(self.c_out(self.gelu(self.c_fc(self.ln_2(x)))))


class Conv1D(nn.Module):
    """A linear map with its weight the other way round."""

    def __init__(self, features_in, features_out):
        super().__init__()
        self.features_out = features_out
        self.weight = nn.Parameter(torch.randn(features_in, features_out) / 4)
        self.bias = nn.Parameter(torch.zeros(features_out))

    def forward(self, x):
        shape = (*x.shape[:-1], self.features_out)
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(shape)


@pytest.mark.parametrize("training", [True, False])
def test_the_joint_map_to_queries_keys_and_values_of_gpt_2_is_no_layer(training):
    def by_hand(model, x):
        c_proj = model.c_proj(model.attention(model.ln_1(x)))
        x = x + model.dropout(c_proj)
        c_fc = model.gelu(model.c_fc(model.ln_2(x)))
        return {"c_proj": c_proj, "c_fc": c_fc, "c_out": model.c_out(c_fc)}

    assert_observes(GPTBlock().train(training), by_hand, batch(5, 8))


class T5Model(nn.Module):
    """The weights of T5: one table, held by a module that is never called."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Embedding(10, 8)
        self.encoder, self.decoder = nn.Embedding(10, 8), nn.Embedding(10, 8)
        self.encoder.weight = self.decoder.weight = self.shared.weight
        self.wi, self.wo = nn.Linear(8, 16, bias=False), nn.Linear(16, 8, bias=False)
        self.lm_head = nn.Linear(8, 10, bias=False)
        self.lm_head.weight = self.shared.weight

    def forward(self, tokens, targets):
        h = self.encoder(tokens).mean(1, keepdim=True) + self.decoder(targets)
        h = h + self.wo(F.relu(self.wi(h)))
        return self.lm_head(h * 8**-0.5)


@pytest.mark.parametrize("layers", ["auto", "trainable"])
def test_the_table_that_t5_ties_to_its_head_is_no_layer_except_by_the_papers_rule(layers):
    def by_hand(model, tokens, targets):
        tables = {"encoder": model.encoder(tokens), "decoder": model.decoder(targets)}
        h = tables["encoder"].mean(1, keepdim=True) + tables["decoder"]
        wi = F.relu(model.wi(h))
        wo = model.wo(wi)
        found = {"wi": wi, "wo": wo, "lm_head": model.lm_head((h + wo) * 8**-0.5)}
        return tables | found if layers == "trainable" else found

    assert_observes(T5Model(), by_hand, *torch.randint(0, 10, (2, 6, 5)), layers=layers)
