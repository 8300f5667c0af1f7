"""Convolutional networks of torchvision and timm."""

from functools import partial

from torch import nn
from zoo.libraries import timm, torchvision
from zoo.written import Layer, Written, images

vision = torchvision.models


def residual_blocks(channels, sizes, activation, downsampled):
    """The layers of a ResNet's four stages of two basic blocks.

    ``out += identity`` ends a block's second convolution after its batch normalisation.
    """
    layers = {}
    for stage, (width, size) in enumerate(zip(channels, sizes, strict=True), start=1):
        for block in (f"layer{stage}.0", f"layer{stage}.1"):
            shape = (width, size, size)
            layers[f"{block}.conv1"] = Layer(shape, after=f"{block}.{activation}")
            layers[f"{block}.conv2"] = Layer(shape, after=f"{block}.bn2")
        if stage in downsampled:
            name = f"layer{stage}.0.downsample"
            layers[f"{name}.0"] = Layer(shape, after=f"{name}.1")
    return layers


RESNET18 = Written(
    "torchvision resnet18",
    partial(vision.resnet18, num_classes=10),
    images(8),
    {
        "conv1": Layer((64, 4, 4), after="relu"),
        **residual_blocks((64, 128, 256, 512), (2, 1, 1, 1), "relu", downsampled=(2, 3, 4)),
        "fc": Layer((10,)),
    },
)

# Its basic block has an Identity between normalisation and activation, and stochastic depth
# between the second normalisation and the addition.
TIMM_RESNET18 = Written(
    "timm resnet18",
    partial(
        timm.create_model,
        "resnet18",
        channels=(8, 8, 16, 16),
        drop_path_rate=0.2,
        num_classes=10,
    ),
    images(8),
    {
        "conv1": Layer((64, 4, 4), after="act1"),
        **residual_blocks((8, 8, 16, 16), (2, 1, 1, 1), "act1", downsampled=(1, 2, 3, 4)),
        "fc": Layer((10,)),
    },
)


def conv_norm_activation(name, *shape):
    return {f"{name}.0": Layer(shape, after=f"{name}.2")}


def conv_norm(name, *shape):
    return {f"{name}.0": Layer(shape, after=f"{name}.1")}


def squeeze_excitation(name, squeezed, channels):
    """Two 1 x 1 convolutions of the means; their product with the channels is no layer."""
    return {
        f"{name}.fc1": Layer((squeezed, 1, 1), after=f"{name}.activation"),
        f"{name}.fc2": Layer((channels, 1, 1), after=f"{name}.scale_activation"),
    }


def mobilenet():
    # Channels in, kernel, expanded, out, squeeze-excitation, activation, stride, dilation, width.
    blocks = [
        vision.mobilenetv3.InvertedResidualConfig(8, 3, 8, 8, True, "RE", 2, 1, 1.0),
        vision.mobilenetv3.InvertedResidualConfig(8, 3, 24, 16, False, "RE", 2, 1, 1.0),
        vision.mobilenetv3.InvertedResidualConfig(16, 5, 24, 16, True, "HS", 1, 1, 1.0),
    ]
    return vision.MobileNetV3(blocks, last_channel=32, num_classes=10)


MOBILENET = Written(
    "torchvision mobilenet v3",
    mobilenet,
    images(16),
    {
        **conv_norm_activation("features.0", 8, 8, 8),
        # As many expanded channels as channels: nothing expands them.
        **conv_norm_activation("features.1.block.0", 8, 4, 4),
        **squeeze_excitation("features.1.block.1", 8, 8),
        **conv_norm("features.1.block.2", 8, 4, 4),
        **conv_norm_activation("features.2.block.0", 24, 4, 4),
        **conv_norm_activation("features.2.block.1", 24, 2, 2),
        **conv_norm("features.2.block.2", 16, 2, 2),
        **conv_norm_activation("features.3.block.0", 24, 2, 2),
        **conv_norm_activation("features.3.block.1", 24, 2, 2),
        **squeeze_excitation("features.3.block.2", 8, 24),
        **conv_norm("features.3.block.3", 16, 2, 2),  # then result += input
        **conv_norm_activation("features.4", 96, 2, 2),
        # Then a dropout in place.
        "classifier.0": Layer((32,), after="classifier.1"),
        "classifier.3": Layer((10,)),
    },
)


def efficientnet():
    # Expansion, kernel, stride, channels in and out, blocks.
    stages = [
        vision.efficientnet.MBConvConfig(1, 3, 1, 8, 8, 1),
        vision.efficientnet.MBConvConfig(2, 3, 2, 8, 16, 2),
    ]
    return vision.EfficientNet(stages, dropout=0.2, num_classes=10, last_channel=32)


EFFICIENTNET = Written(
    "torchvision efficientnet",
    efficientnet,
    images(8),
    {
        **conv_norm_activation("features.0", 8, 4, 4),
        **conv_norm_activation("features.1.0.block.0", 8, 4, 4),
        **squeeze_excitation("features.1.0.block.1", 2, 8),
        **conv_norm("features.1.0.block.2", 8, 4, 4),
        **conv_norm_activation("features.2.0.block.0", 16, 4, 4),
        **conv_norm_activation("features.2.0.block.1", 16, 2, 2),
        **squeeze_excitation("features.2.0.block.2", 2, 16),
        **conv_norm("features.2.0.block.3", 16, 2, 2),
        **conv_norm_activation("features.2.1.block.0", 32, 2, 2),
        **conv_norm_activation("features.2.1.block.1", 32, 2, 2),
        **squeeze_excitation("features.2.1.block.2", 4, 32),
        **conv_norm("features.2.1.block.3", 16, 2, 2),  # then stochastic depth
        **conv_norm_activation("features.3", 32, 2, 2),
        "classifier.1": Layer((10,)),
    },
)


def dense_layer(name, size):
    return {
        f"{name}.conv1": Layer((8, size, size), after=f"{name}.relu2"),
        # Then a dropout, and every later layer of its block reads it.
        f"{name}.conv2": Layer((4, size, size)),
    }


DENSENET_LAYERS = {
    "features.conv0": Layer((8, 8, 8), after="features.relu0"),
    **dense_layer("features.denseblock1.denselayer1", 4),
    **dense_layer("features.denseblock1.denselayer2", 4),
    "features.transition1.conv": Layer((8, 4, 4)),
    **dense_layer("features.denseblock2.denselayer1", 2),
    **dense_layer("features.denseblock2.denselayer2", 2),
    "classifier": Layer((10,)),
}
DENSENET = partial(
    vision.DenseNet,
    growth_rate=4,
    block_config=(2, 2),
    num_init_features=8,
    bn_size=2,
    drop_rate=0.1,
    num_classes=10,
)


def convnext():
    # Channels in and out, blocks.
    stages = [
        vision.convnext.CNBlockConfig(8, 16, 1),
        vision.convnext.CNBlockConfig(16, None, 2),
    ]
    return vision.ConvNeXt(stages, stochastic_depth_prob=0.1, layer_scale=0.1, num_classes=10)


def convnext_block(name, channels, size):
    """A depthwise convolution, and two linear maps with the channels in the last axis."""
    return {
        f"{name}.block.0": Layer((channels, size, size)),  # then a permutation
        f"{name}.block.3": Layer((size, size, 4 * channels), after=f"{name}.block.4"),
        f"{name}.block.5": Layer((size, size, channels)),  # then a permutation
    }


CONVNEXT = Written(
    "torchvision convnext",
    convnext,
    images(16),
    {
        "features.0.0": Layer((8, 4, 4), after="features.0.1"),
        **convnext_block("features.1.0", 8, 4),
        "features.2.1": Layer((16, 2, 2)),
        **convnext_block("features.3.0", 16, 2),
        **convnext_block("features.3.1", 16, 2),
        "classifier.2": Layer((10,)),
    },
)

WIDTHS, SIDES = (4, 8, 8, 16), (8, 4, 2, 1)


def timm_convnext_stages(block):
    """The stem, what shrinks the image before each stage but the first, and the blocks."""
    layers = {"stem.0": Layer((4, 8, 8), after="stem.1")}
    for stage, (width, side) in enumerate(zip(WIDTHS, SIDES, strict=True)):
        if stage:
            layers[f"stages.{stage}.downsample.1"] = Layer((width, side, side))
        layers |= block(f"stages.{stage}.blocks.0", width, side)
    return layers | {"head.fc": Layer((10,))}


def channels_first_block(name, width, side):
    """All of it with the channels in axis 1, the last of it scaled by a parameter."""
    shape = (width, side, side)
    return {
        f"{name}.conv_dw": Layer(shape, after=f"{name}.norm"),
        f"{name}.mlp.fc1": Layer((4 * width, side, side), after=f"{name}.mlp.act"),
        f"{name}.mlp.fc2": Layer(shape, after=f"{name}.drop_path", put_in=True),
    }


def channels_last_block(name, width, side):
    """Linear maps with the channels last, and a global response normalisation.

    A dropout after an activation ends a layer, so that the normalisation is none of it.
    """
    return {
        f"{name}.conv_dw": Layer((width, side, side)),  # then a permutation
        f"{name}.mlp.fc1": Layer((side, side, 4 * width), after=f"{name}.mlp.act"),
        f"{name}.mlp.fc2": Layer((side, side, width)),  # then a permutation
    }


def timm_convnext(name, **options):
    return partial(
        timm.create_model,
        name,
        depths=(1, 1, 1, 1),
        dims=WIDTHS,
        drop_path_rate=0.1,
        num_classes=10,
        **options,
    )


def with_random_normalisation(build):
    """A global response normalisation begins as the identity; here it does something."""
    model = build()
    for module in model.modules():
        if isinstance(module, timm.layers.grn.GlobalResponseNorm):
            nn.init.normal_(module.weight)
    return model


def dla():
    # It has a part that is called base_layer, like the adapted layer of a low-rank adapter.
    return timm.models.dla.DLA(
        levels=(1, 1, 1, 1, 1, 1),
        channels=(2, 4, 4, 8, 8, 8),
        block=timm.models.dla.DlaBasic,
        num_classes=10,
    )


def dla_tree(name, channels, size):
    """Two basic blocks, and a convolution of both side by side."""
    shape = (channels, size, size)
    layers = {}
    for block in (f"{name}.tree1", f"{name}.tree2"):
        layers[f"{block}.conv1"] = Layer(shape, after=f"{block}.relu")
        layers[f"{block}.conv2"] = Layer(shape, after=f"{block}.bn2")
    return layers | {f"{name}.root.conv": Layer(shape, after=f"{name}.root.relu")}


DLA = Written(
    "timm dla",
    dla,
    images(32),
    {
        **conv_norm_activation("base_layer", 2, 32, 32),
        **conv_norm_activation("level0", 2, 32, 32),
        **conv_norm_activation("level1", 4, 16, 16),
        **dla_tree("level2", 4, 8),
        **conv_norm("level3.project", 8, 4, 4),
        **dla_tree("level3", 8, 4),
        **dla_tree("level4", 8, 2),
        **dla_tree("level5", 8, 1),
        "fc": Layer((10, 1, 1)),
    },
)


def nfnet():
    """Its convolutions standardise their weight, and multiply it by a gain with four axes, too."""
    config = timm.models.nfnet.NfCfg(
        depths=(1, 1, 1, 1),
        channels=(8, 8, 8, 8),
        stem_chs=8,
        num_features=16,
        gamma_in_act=True,
        extra_conv=True,
        alpha=0.2,
    )
    model = timm.models.nfnet.NormFreeNet(config, num_classes=10)
    for module in model.modules():
        if hasattr(module, "gain"):
            # That of a block's last convolution begins as zero.
            nn.init.ones_(module.gain)
    return model


def nfnet_block(name, before, after):
    """Activations stand before convolutions; the last one is scaled before the addition."""
    return {
        f"{name}.downsample.conv": Layer((8, after, after)),
        f"{name}.conv1": Layer((8, before, before), after=f"{name}.act2"),
        f"{name}.conv2": Layer((8, after, after), after=f"{name}.act2b"),
        f"{name}.conv2b": Layer((8, after, after), after=f"{name}.act3"),
        f"{name}.conv3": Layer((8, after, after), times=0.2),
    }


NFNET = Written(
    "timm nfnet",
    nfnet,
    images(16),
    {
        # The first block's activation precedes both of its branches.
        "stem.conv": Layer((8, 8, 8), after="stages.0.0.act1"),
        **nfnet_block("stages.0.0", 8, 4),
        **nfnet_block("stages.1.0", 4, 2),
        **nfnet_block("stages.2.0", 2, 1),
        **nfnet_block("stages.3.0", 1, 1),
        "final_conv": Layer((16, 1, 1), after="final_act"),
        "head.fc": Layer((10,)),
    },
)


CONVOLUTIONAL = [
    RESNET18,
    TIMM_RESNET18,
    MOBILENET,
    EFFICIENTNET,
    Written("torchvision densenet", DENSENET, images(16), DENSENET_LAYERS),
    Written(
        "torchvision densenet, checkpointed",
        partial(DENSENET, memory_efficient=True),
        images(16),
        DENSENET_LAYERS,
    ),
    DLA,
    NFNET,
    CONVNEXT,
    Written(
        "timm convnext, channels first",
        timm_convnext("convnext_atto", ls_init_value=0.1),
        images(32),
        timm_convnext_stages(channels_first_block),
    ),
    Written(
        "timm convnext v2, channels last",
        partial(with_random_normalisation, timm_convnext("convnextv2_tiny")),
        images(32),
        timm_convnext_stages(channels_last_block),
    ),
]

# Of the size that is published, for images of 224 x 224.
LARGE = {
    "torchvision resnet18": vision.resnet18,
    "torchvision mobilenet_v3_small": vision.mobilenet_v3_small,
    "torchvision efficientnet_b0": vision.efficientnet_b0,
    "torchvision densenet121": vision.densenet121,
    "torchvision convnext_tiny": vision.convnext_tiny,
    "timm resnet18": partial(timm.create_model, "resnet18"),
    "timm convnext_atto": partial(timm.create_model, "convnext_atto"),
    "timm convnextv2_atto": partial(timm.create_model, "convnextv2_atto"),
}
