"""The paper's networks by name, or the user's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import ClassVar

import torch
from torch import Tensor, nn

from topoloss.compare import objects
from topoloss.compare.data import Dataset
from topoloss.compare.training import Protocol
from topoloss.errors import InputError, UnknownNameError, nearest

__all__ = ["NETWORKS", "FullyConnected", "Vgg", "build", "protocol"]


@dataclass(frozen=True)
class FullyConnected:
    """Linear layers with ReLU, and dropout after each hidden one."""

    hidden: tuple[int, ...]
    dropout: float = 0.0

    protocol: ClassVar = Protocol()

    def build(self, data: Dataset) -> nn.Module:
        widths = (prod(data.x.shape[1:]), *self.hidden)
        layers = _linear(widths, self.dropout)
        return nn.Sequential(nn.Flatten(), *layers, nn.Linear(widths[-1], data.outputs))


@dataclass(frozen=True)
class Vgg:
    """Three blocks of two convolutions, each block pooled, then linear layers; all with ReLU.

    Attributes
    ----------
    width : int
        Channels of the last block and neurons of a hidden linear layer; the first block has a
        quarter of them and the second half.
    dropout : float
        After each block and each hidden linear layer.
    dense : int
        Linear layers, the last included.
    """

    width: int
    dropout: float
    dense: int

    protocol: ClassVar = Protocol(learning_rate=0.001, decay=1.0, nesterov=False, fraction=0.005)

    def build(self, data: Dataset) -> nn.Module:
        if data.x.ndim != 4 or min(data.x.shape[2:]) < 8:
            raise InputError(
                f"inputs of shape {tuple(data.x.shape[1:])} were given; a VGG takes images, "
                "(channels, height, width), of at least 8 x 8 pixels."
            )
        _, channels, height, width = data.x.shape
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise((channels, self.width // 4, self.width // 2, self.width)):
            layers += [nn.Conv2d(fan_in, fan_out, 3, padding=1), nn.ReLU()]
            layers += [nn.Conv2d(fan_out, fan_out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            if self.dropout:
                layers.append(nn.Dropout(self.dropout))
        widths = (self.width * (height // 8) * (width // 8), *[self.width] * (self.dense - 1))
        return nn.Sequential(
            *layers,
            nn.Flatten(),
            *_linear(widths, self.dropout),
            nn.Linear(widths[-1], data.outputs),
        )


# Section 5 of the paper. Its convolutional networks are eight of the first task of the PGDL
# competition; they vary in width, dropout and linear layers as these do, but the layers of these
# are ours: the competition's networks come with its data, not with the paper.
NETWORKS: dict[str, FullyConnected | Vgg] = {
    "net0": FullyConnected((450, 350, 200)),
    "net1": FullyConnected((450, 350, 200), dropout=0.5),
    "net2": FullyConnected((300, 250, 200, 150, 100)),
} | {
    f"vgg{width}{'-dropout' * bool(dropout)}{'-dense2' * (dense == 2)}": Vgg(width, dropout, dense)
    for width in (256, 512)
    for dropout in (0.0, 0.5)
    for dense in (1, 2)
}


def build(name: str, data: Dataset) -> nn.Module:
    """Build a network for a data set, initialised from the global random state.

    Parameters
    ----------
    name : str
        One of `NETWORKS`, or a reference ``package.module:function`` to a function without
        arguments that returns a Module from inputs to class logits or, for a regression,
        predictions of shape (samples, targets).
    data : Dataset

    Raises
    ------
    UnknownNameError, InputError
        For an unknown name, and for a network that does not fit the data.

    Examples
    --------
    >>> from topoloss.compare.data import load
    >>> from topoloss.compare.networks import build
    >>> [layer.out_features for layer in build("net2", load("digits"))[1::2]]
    [300, 250, 200, 150, 100, 10]
    """
    if ":" not in name:
        return _known(name).build(data)
    model = objects.call(name, "model")
    if not isinstance(model, nn.Module):
        raise InputError(f"model {name!r} returned {model!r}; expected a torch.nn.Module.")
    _check_fit(model, name, data)
    return model


def protocol(name: str) -> Protocol:
    """How the paper trains the network of that name; a network of the user's as its nets 0 to 2.

    Examples
    --------
    >>> from topoloss.compare.networks import protocol
    >>> protocol("vgg256").fraction
    0.005
    """
    return Protocol() if ":" in name else _known(name).protocol


def _known(name: str) -> FullyConnected | Vgg:
    if name not in NETWORKS:
        raise UnknownNameError(
            f"no network is named {name!r}; there are {sorted(NETWORKS)}, and "
            f"package.module:function.{nearest(name, NETWORKS)}"
        )
    return NETWORKS[name]


@torch.no_grad()
def _check_fit(model: nn.Module, name: str, data: Dataset) -> None:
    """Raise unless the model takes the inputs and has an output for each class or target."""
    model.eval()
    try:
        outputs = model(data.x[:2])
    except Exception as error:
        raise InputError(
            f"model {name!r} does not take inputs of shape {tuple(data.x[:2].shape)}: {error}"
        ) from error
    regression = data.y.is_floating_point()
    if (
        not isinstance(outputs, Tensor)
        or outputs.ndim != 2
        or outputs.shape[1] < data.outputs
        or (regression and outputs.shape[1] > data.outputs)
    ):
        given = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        expected = (
            f"{tuple(data.y[:2].shape)}, as the targets have, which are floating-point and so "
            "a regression's; make labels of classes integers"
            if regression
            else f"a logit for each of the {data.outputs} classes (labels count from 0)"
        )
        raise InputError(
            f"model {name!r} put out {given} for 2 inputs; expected a tensor with {expected}."
        )


def _linear(widths: tuple[int, ...], dropout: float) -> Iterator[nn.Module]:
    for fan_in, fan_out in pairwise(widths):
        yield nn.Linear(fan_in, fan_out)
        yield nn.ReLU()
        if dropout:
            yield nn.Dropout(dropout)
