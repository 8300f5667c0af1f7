"""The names that a comparison knows, in a module that does not import torch."""

from __future__ import annotations

__all__ = [
    "DATA",
    "LARGEST_WEIGHT",
    "LAYERS",
    "MODELS",
    "MONITORS",
    "PROTOCOLS",
    "SEARCHES",
    "TREATMENTS",
]

_VGG = tuple(
    f"vgg{width}{dropout}{dense}"
    for width in (256, 512)
    for dropout in ("", "-dropout")
    for dense in ("", "-dense2")
)
MODELS = ("net0", "net1", "net2", *_VGG, "conv")
DATA = (
    *("digits", "breast-cancer", "wine", "diabetes", "teacher", "spirals"),
    *("friedman1", "friedman2", "friedman3", "mnist", "cifar10"),
)
PROTOCOLS = ("default", "training-forward", "fixed", "switch-off", "faithful", "today")
LAYERS = ("auto", "trainable")
MONITORS = ("loss", "score")
SEARCHES = ("grid", "tpe")
TREATMENTS = (
    *("batch-norm", "dropout", "input-noise", "label-smoothing", "rewiring", "structured-noise"),
    "weight-decay",
)

LARGEST_WEIGHT = 1e9
