"""Other people's models, with a copy planted in each layer whose readers are known."""

import pytest
import torch
from zoo.libraries import timm, torchvision, transformers

import topoloss


def images(size):
    return torch.randn(4, 3, size, size, dtype=torch.float64)


def vgg():
    model = torchvision.models.vgg11_bn(num_classes=5)
    # As in its source, but narrower than 4,096.
    model.classifier[0] = torch.nn.Linear(512 * 49, 64)
    model.classifier[3] = torch.nn.Linear(64, 64)
    model.classifier[6] = torch.nn.Linear(64, 5)
    places = [k for k in range(27) if isinstance(model.features[k], torch.nn.Conv2d)]
    planted = {f"features.{k}": f"features.{k + 1}" for k in places}
    return model, images(32), planted | {"classifier.0": None, "classifier.3": None}


def resnet():
    model = torchvision.models.resnet18(num_classes=5)
    blocks = [f"layer{stage}.{block}" for stage in range(1, 5) for block in range(2)]
    return model, images(32), {f"{block}.conv1": f"{block}.bn1" for block in blocks}


def timm_resnet():
    model = timm.create_model("resnet26", num_classes=5, zero_init_last=False)
    planted = {}
    for stage in range(1, 5):
        for block in range(2):
            planted[f"layer{stage}.{block}.conv1"] = f"layer{stage}.{block}.bn1"
            planted[f"layer{stage}.{block}.conv2"] = f"layer{stage}.{block}.bn2"
    return model, images(32), planted


def mobilenet():
    """An inverted residual block widens, convolves each channel alone, and narrows."""
    model = timm.create_model("mobilenetv2_050", num_classes=5)
    planted = {}
    for stage in range(1, 7):
        for block, _ in enumerate(model.blocks[stage]):
            name = f"blocks.{stage}.{block}"
            planted[f"{name}.conv_pw"] = (f"{name}.bn1", f"{name}.conv_dw", f"{name}.bn2")
    return model, images(32), planted


def vit():
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=3, num_classes=5)
    return model, images(32), {f"blocks.{k}.mlp.fc1": None for k in range(3)}


def convnext():
    # By default each block is multiplied by 1e-6.
    model = timm.create_model(
        "convnext_atto", depths=(1, 1, 1, 1), num_classes=5, ls_init_value=1.0
    )
    return model, images(64), {f"stages.{k}.blocks.0.mlp.fc1": None for k in range(4)}


def bert():
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, attn_implementation="eager",
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config)
    # The pooler is read by the classifier, behind tanh and dropout.
    layers = [f"bert.encoder.layer.{k}.intermediate.dense" for k in range(2)]
    tokens = {"input_ids": torch.arange(40).reshape(4, 10)}
    return model, tokens, dict.fromkeys([*layers, "bert.pooler.dense"])


@pytest.mark.parametrize("made", [vgg, resnet, timm_resnet, vit, mobilenet, convnext, bert])
def test_planted_copies_go_and_the_outputs_stay(made):
    torch.manual_seed(0)
    model, x, planted = made()
    model = model.double().eval()
    with torch.no_grad():
        for name, between in planted.items():
            between = () if between is None else between
            for module in (name, *([between] if isinstance(between, str) else between)):
                for tensor in model.get_submodule(module).state_dict().values():
                    if tensor.ndim:
                        tensor[-1] = tensor[0]
    smaller = topoloss.prune(model, x)
    for name in planted:
        before, after = (m.get_submodule(name).weight for m in (model, smaller))
        assert after.shape[0] < before.shape[0], name
    with torch.no_grad():
        outputs = [m(**x).logits if isinstance(x, dict) else m(x) for m in (smaller, model)]
    torch.testing.assert_close(*outputs, rtol=1e-11, atol=1e-11)
