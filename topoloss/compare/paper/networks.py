"""The paper's networks by name, and how the paper trains each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import ClassVar

from torch import nn

from topoloss.compare.data import Dataset
from topoloss.compare.records import Protocol
from topoloss.errors import InputError, UnknownNameError, listed, nearest

__all__ = ["NETWORKS", "FullyConnected", "Vgg", "find", "protocol"]


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
        Probability of dropout, after each block and each hidden linear layer.
    dense : int
        Number of linear layers, including the last.
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


# Section 5 of the paper. Its convolutional networks are eight networks of the first task of the
# PGDL competition, which come with the competition's data and not with the paper. Ours vary in
# width, dropout and linear layers as those do, but their exact layers are our own.
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


def find(name: str) -> FullyConnected | Vgg:
    """Return the network of that name; call its ``build`` with a data set.

    Raises
    ------
    UnknownNameError
        If the paper has no such network.
    """
    if name not in NETWORKS:
        raise UnknownNameError(
            f"no network is named {name!r}; there are {listed(sorted(NETWORKS))}, and "
            f"your own as package.module:function.{nearest(name, NETWORKS)}"
        )
    return NETWORKS[name]


def protocol(name: str) -> Protocol:
    """How the paper trains the network of that name.

    A user's own network, ``package.module:function``, is trained like the paper's networks 0 to 2.

    Examples
    --------
    >>> from topoloss.compare.paper.networks import protocol
    >>> protocol("vgg256").fraction
    0.005
    """
    return Protocol() if ":" in name else find(name).protocol


def _linear(widths: tuple[int, ...], dropout: float) -> Iterator[nn.Module]:
    for fan_in, fan_out in pairwise(widths):
        yield nn.Linear(fan_in, fan_out)
        yield nn.ReLU()
        if dropout:
            yield nn.Dropout(dropout)
