"""Language models of transformers, whole and with peft's LoRA."""

import warnings
from functools import partial

import torch
from zoo.libraries import peft, transformers
from zoo.written import SAMPLES, Layer, Written

WORDS, POSITIONS, LABEL_POSITIONS = 40, 7, 5


def words(positions):
    return torch.randint(1, WORDS, (SAMPLES, positions))


def padded():
    """Sequences of unequal length, and their mask."""
    lengths = torch.arange(SAMPLES) % 3 + POSITIONS - 2
    mask = (torch.arange(POSITIONS) < lengths[:, None]).long()
    return {"input_ids": words(POSITIONS) * mask, "attention_mask": mask}


def text(dtype):
    return (), padded()


def text_of_classes(dtype):
    return (), padded() | {"labels": torch.arange(SAMPLES) % 3}


def text_and_the_same_text(dtype):
    ids = words(POSITIONS)
    return (), {"input_ids": ids, "labels": ids}


def text_and_other_text(dtype):
    return (), padded() | {"labels": words(LABEL_POSITIONS)}


def tokens(width, positions=POSITIONS, **options):
    return Layer((positions, width), **options)


def bert_config(**options):
    return transformers.BertConfig(
        vocab_size=WORDS,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        num_labels=3,
        **options,
    )


def bert_layers(bert):
    """Of a BertModel with this prefix."""
    layers = {}
    for layer in (f"{bert}encoder.layer.0", f"{bert}encoder.layer.1"):
        activation = f"{layer}.intermediate.intermediate_act_fn"
        layers[f"{layer}.attention.output.dense"] = tokens(16)
        layers[f"{layer}.intermediate.dense"] = tokens(32, after=activation)
        layers[f"{layer}.output.dense"] = tokens(16)
    layers[f"{bert}pooler.dense"] = Layer((16,), after=f"{bert}pooler.activation")
    return layers


def gpt2():
    config = transformers.GPT2Config(
        vocab_size=WORDS,
        n_positions=16,
        n_embd=16,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    return transformers.GPT2LMHeadModel(config)


def gpt2_block(name):
    return {
        f"{name}.attn.c_proj": tokens(16),
        f"{name}.mlp.c_fc": tokens(64, after=f"{name}.mlp.act"),
        f"{name}.mlp.c_proj": tokens(16),
    }


# Two heads share the keys and values of one; queries and keys are rotated.
GROUPED = {
    "vocab_size": WORDS,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 16,
    "attention_dropout": 0.1,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def llama():
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**GROUPED))


def qwen():
    """Normalises queries and keys, too, and ties the embeddings."""
    config = transformers.Qwen3Config(**GROUPED, head_dim=4, tie_word_embeddings=True)
    return transformers.Qwen3ForCausalLM(config)


def mixtral():
    config = transformers.MixtralConfig(
        **GROUPED, num_local_experts=3, num_experts_per_tok=2, experts_implementation="eager"
    )
    return transformers.MixtralModel(config)


def gated_layer(name):
    return {
        f"{name}.self_attn.o_proj": tokens(16),
        f"{name}.mlp.gate_proj": tokens(24, after=f"{name}.mlp.act_fn"),
        f"{name}.mlp.up_proj": tokens(24),
        f"{name}.mlp.down_proj": tokens(16),
    }


GATED_LAYERS = {
    **gated_layer("model.layers.0"),
    **gated_layer("model.layers.1"),
    "lm_head": tokens(WORDS),
}


def t5():
    config = transformers.T5Config(
        vocab_size=WORDS,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        decoder_start_token_id=0,
    )
    return transformers.T5ForConditionalGeneration(config)


def t5_feed_forward(name, positions):
    name = f"{name}.DenseReluDense"
    return {
        f"{name}.wi": tokens(32, positions, after=f"{name}.act"),
        f"{name}.wo": tokens(16, positions),
    }


def t5_encoder_block(name):
    return {
        f"{name}.layer.0.SelfAttention.o": tokens(16),
        **t5_feed_forward(f"{name}.layer.1", POSITIONS),
    }


def t5_decoder_block(name):
    return {
        f"{name}.layer.0.SelfAttention.o": tokens(16, LABEL_POSITIONS),
        f"{name}.layer.1.EncDecAttention.o": tokens(16, LABEL_POSITIONS),
        **t5_feed_forward(f"{name}.layer.2", LABEL_POSITIONS),
    }


def lora(build, **options):
    """Everything is frozen but the adapters, whose second factor is random, too."""
    config = peft.LoraConfig(r=2, lora_dropout=0.1, init_lora_weights=False, **options)
    with warnings.catch_warnings():
        # peft asks transformers for an attribute by its old name.
        warnings.simplefilter("ignore", FutureWarning)
        return peft.get_peft_model(build(), config)


CLASSIFIER = partial(transformers.BertForSequenceClassification, bert_config())
LORA_BERT = "base_model.model."

LANGUAGE = [
    Written(
        "transformers bert, eager attention",
        lambda: transformers.BertModel(bert_config(attn_implementation="eager")),
        text,
        bert_layers(""),
    ),
    Written(
        "transformers bert classifier",
        CLASSIFIER,
        text_of_classes,
        {**bert_layers("bert."), "classifier": Layer((3,))},
    ),
    # Its linear maps multiply by the transposed weight, and its head's weight is the embedding's.
    Written(
        "transformers gpt2",
        gpt2,
        text_and_the_same_text,
        {
            **gpt2_block("transformer.h.0"),
            **gpt2_block("transformer.h.1"),
            "lm_head": tokens(WORDS),
        },
    ),
    Written("transformers llama", llama, text, GATED_LAYERS, low_precision=True),
    Written("transformers qwen3", qwen, text, GATED_LAYERS, low_precision=True),
    # Each expert is given tokens of its own, in which no axis counts the samples.
    Written(
        "transformers mixtral",
        mixtral,
        text,
        {
            "layers.0.self_attn.o_proj": tokens(16),
            "layers.1.self_attn.o_proj": tokens(16),
        },
        left_out=tuple(
            f"layers.{k}.mlp.{name}"
            for k in range(2)
            for name in ("gate", "experts.gate_up_proj", "experts.down_proj")
        ),
    ),
    # The labels, shifted by an assignment to slices, are the decoder's input.
    Written(
        "transformers t5",
        t5,
        text_and_other_text,
        {
            **t5_encoder_block("encoder.block.0"),
            **t5_encoder_block("encoder.block.1"),
            **t5_decoder_block("decoder.block.0"),
            **t5_decoder_block("decoder.block.1"),
            "lm_head": tokens(WORDS, LABEL_POSITIONS),
        },
    ),
    Written(
        "peft lora of bert",
        partial(lora, CLASSIFIER, task_type="SEQ_CLS", target_modules=["query", "value", "dense"]),
        text_of_classes,
        {
            **bert_layers(f"{LORA_BERT}bert."),
            f"{LORA_BERT}classifier.modules_to_save.default": Layer((3,)),
        },
    ),
    # Queries and values are no layers, and their adapters make them none. All else is frozen.
    Written(
        "peft lora of llama",
        partial(lora, llama, target_modules=["q_proj", "v_proj", "down_proj"]),
        text,
        {
            "base_model.model.model.layers.0.mlp.down_proj": tokens(16),
            "base_model.model.model.layers.1.mlp.down_proj": tokens(16),
        },
    ),
]
