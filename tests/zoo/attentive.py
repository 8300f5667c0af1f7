"""Vision transformers and mixers of torchvision, timm and transformers."""

from functools import partial

from zoo.libraries import timm, torchvision, transformers
from zoo.written import Layer, Written, images

vision = torchvision.models


def vit_layer(name):
    """The attention of torch counts as a whole; five tokens, the first of them the class."""
    return {
        f"{name}.self_attention": Layer((5, 16)),
        f"{name}.mlp.0": Layer((5, 32), after=f"{name}.mlp.1"),
        f"{name}.mlp.3": Layer((5, 16)),
    }


VIT = Written(
    "torchvision vit",
    partial(
        vision.VisionTransformer,
        image_size=16,
        patch_size=8,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        mlp_dim=32,
        dropout=0.1,
        attention_dropout=0.1,
        num_classes=10,
    ),
    images(16),
    {
        "conv_proj": Layer((16, 2, 2)),
        **vit_layer("encoder.layers.encoder_layer_0"),
        **vit_layer("encoder.layers.encoder_layer_1"),
        "heads.head": Layer((10,)),
    },
)


def timm_vit_block(name):
    """A learnt scale follows the projection and the second linear map, behind a dropout."""
    return {
        f"{name}.attn.proj": Layer((5, 16), after=f"{name}.ls1"),
        f"{name}.mlp.fc1": Layer((5, 64), after=f"{name}.mlp.act"),
        f"{name}.mlp.fc2": Layer((5, 16), after=f"{name}.ls2"),
    }


TIMM_VIT = Written(
    "timm vit",
    partial(
        timm.create_model,
        "vit_tiny_patch16_224",
        img_size=16,
        patch_size=8,
        embed_dim=16,
        depth=2,
        num_heads=2,
        init_values=0.1,
        proj_drop_rate=0.1,
        attn_drop_rate=0.1,
        drop_path_rate=0.1,
        num_classes=10,
    ),
    images(16),
    {
        "patch_embed.proj": Layer((16, 2, 2)),
        **timm_vit_block("blocks.0"),
        **timm_vit_block("blocks.1"),
        "head": Layer((10,)),
    },
)


def transformers_vit():
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1,
        image_size=16,
        patch_size=8,
        num_labels=3,
    )
    return transformers.ViTForImageClassification(config)


def transformers_vit_layer(name):
    return {
        f"{name}.attention.o_proj": Layer((5, 16)),
        f"{name}.mlp.fc1": Layer((5, 32), after=f"{name}.mlp.activation_fn"),
        f"{name}.mlp.fc2": Layer((5, 16)),
    }


TRANSFORMERS_VIT = Written(
    "transformers vit",
    transformers_vit,
    images(16),
    {
        "vit.embeddings.patch_embeddings.projection": Layer((16, 2, 2)),
        **transformers_vit_layer("vit.layers.0"),
        **transformers_vit_layer("vit.layers.1"),
        "classifier": Layer((3,)),
    },
)


def swin_block(name, channels, size):
    return {
        f"{name}.mlp.0": Layer((size, size, 2 * channels), after=f"{name}.mlp.1"),
        f"{name}.mlp.3": Layer((size, size, channels)),
    }


SWIN_BLOCKS = ("features.1.0", "features.1.1", "features.3.0", "features.3.1")
SWIN = Written(
    "torchvision swin",
    partial(
        vision.SwinTransformer,
        patch_size=[2, 2],
        embed_dim=4,
        depths=[2, 2],
        num_heads=[2, 2],
        window_size=[2, 2],
        mlp_ratio=2.0,
        dropout=0.1,
        attention_dropout=0.1,
        num_classes=10,
    ),
    images(16),
    {
        "features.0.0": Layer((4, 8, 8)),
        **swin_block("features.1.0", 4, 8),
        **swin_block("features.1.1", 4, 8),
        "features.2.reduction": Layer((4, 4, 8)),
        **swin_block("features.3.0", 8, 4),
        **swin_block("features.3.1", 8, 4),
        "head": Layer((10,)),
    },
    # The rows of its projections are windows of samples.
    left_out=tuple(f"{block}.attn.proj" for block in SWIN_BLOCKS),
)


def mixer_block(name):
    """Two maps over four tokens, the channels in axis 1, and two over sixteen channels."""
    return {
        f"{name}.mlp_tokens.fc1": Layer((16, 8), after=f"{name}.mlp_tokens.act"),
        f"{name}.mlp_tokens.fc2": Layer((16, 4)),
        f"{name}.mlp_channels.fc1": Layer((4, 64), after=f"{name}.mlp_channels.act"),
        f"{name}.mlp_channels.fc2": Layer((4, 16)),
    }


MIXER = Written(
    "timm mixer",
    partial(
        timm.models.mlp_mixer.MlpMixer,
        img_size=16,
        patch_size=8,
        num_blocks=2,
        embed_dim=16,
        proj_drop_rate=0.1,
        drop_path_rate=0.1,
        num_classes=10,
    ),
    images(16),
    {
        "stem.proj": Layer((16, 2, 2)),
        **mixer_block("blocks.0"),
        **mixer_block("blocks.1"),
        "head": Layer((10,)),
    },
)


def gmlp_block(name):
    """Half of the first map's channels are multiplied by a map of the other half, entry by entry.

    Such a product is no attention.
    """
    return {
        f"{name}.mlp_channels.fc1": Layer((4, 96), after=f"{name}.mlp_channels.act"),
        f"{name}.mlp_channels.gate.proj": Layer((48, 4)),
        f"{name}.mlp_channels.fc2": Layer((4, 16)),
    }


GMLP = Written(
    "timm gmlp",
    partial(
        timm.models.mlp_mixer.MlpMixer,
        img_size=16,
        patch_size=8,
        num_blocks=2,
        embed_dim=16,
        mlp_ratio=6,
        block_layer=timm.models.mlp_mixer.SpatialGatingBlock,
        mlp_layer=timm.layers.GatedMlp,
        num_classes=10,
    ),
    images(16),
    {
        "stem.proj": Layer((16, 2, 2)),
        **gmlp_block("blocks.0"),
        **gmlp_block("blocks.1"),
        "head": Layer((10,)),
    },
)


def levit_attention(name, tokens, channels):
    """The projection ends before its batch normalisation, which folds tokens into the samples.

    Queries, keys and values are normalised like that, too.
    """
    return {f"{name}.proj.ln.linear": Layer((tokens, channels))}


def levit_mlp(name, tokens, channels):
    return {
        f"{name}.ln1.linear": Layer((tokens, 2 * channels)),
        f"{name}.ln2.linear": Layer((tokens, channels)),
    }


LEVIT = Written(
    "timm levit",
    partial(
        timm.models.levit.Levit,
        img_size=32,
        embed_dim=(16, 24),
        key_dim=4,
        depth=(1, 1),
        num_heads=(2, 2),
        stem_type="s8",
        drop_path_rate=0.1,
        num_classes=10,
    ),
    images(32),
    {
        "stem.conv1.linear": Layer((4, 16, 16), after="stem.act1"),
        "stem.conv2.linear": Layer((8, 8, 8), after="stem.act2"),
        "stem.conv3.linear": Layer((16, 4, 4), after="stem.conv3.bn"),
        **levit_attention("stages.0.blocks.0.attn", 16, 16),
        **levit_mlp("stages.0.blocks.0.mlp", 16, 16),
        **levit_attention("stages.1.downsample.attn_downsample", 4, 24),
        **levit_mlp("stages.1.downsample.mlp", 4, 24),
        **levit_attention("stages.1.blocks.0.attn", 4, 24),
        **levit_mlp("stages.1.blocks.0.mlp", 4, 24),
        "head.linear": Layer((10,)),
    },
)

ATTENTIVE = [VIT, TIMM_VIT, TRANSFORMERS_VIT, SWIN, MIXER, GMLP, LEVIT]
