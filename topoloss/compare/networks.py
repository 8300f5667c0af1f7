"""The paper's fully connected networks by name, or the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn

from topoloss.compare import objects
from topoloss.compare.data import Dataset
from topoloss.errors import InputError, UnknownNameError, nearest

__all__ = ["NETWORKS", "build"]

# name -> (hidden widths, dropout after each hidden layer); section 5 of the paper
NETWORKS: dict[str, tuple[tuple[int, ...], float]] = {
    "net0": ((450, 350, 200), 0.0),
    "net1": ((450, 350, 200), 0.5),
    "net2": ((300, 250, 200, 150, 100), 0.0),
}


def build(name: str, data: Dataset) -> nn.Module:
    """Build a network for a data set, initialised from the global random state.

    Parameters
    ----------
    name : str
        ``"net0"``, ``"net1"`` or ``"net2"``, or a reference ``package.module:function`` to a
        function without arguments that returns a Module from inputs to class logits.
    data : Dataset

    Examples
    --------
    >>> from topoloss.compare.data import load
    >>> from topoloss.compare.networks import build
    >>> [layer.out_features for layer in build("net2", load("digits"))[1::2]]
    [300, 250, 200, 150, 100, 10]
    """
    if ":" in name:
        model = objects.call(name, "model")
        if not isinstance(model, nn.Module):
            raise InputError(f"model {name!r} returned {model!r}; expected a torch.nn.Module.")
        _check_fit(model, name, data)
        return model
    if name not in NETWORKS:
        raise UnknownNameError(
            f"no network is named {name!r}; there are {sorted(NETWORKS)}, and "
            f"package.module:function.{nearest(name, NETWORKS)}"
        )
    hidden, dropout = NETWORKS[name]
    return _fully_connected((prod(data.x.shape[1:]), *hidden, data.classes), dropout)


@torch.no_grad()
def _check_fit(model: nn.Module, name: str, data: Dataset) -> None:
    """Raise unless the model takes the inputs and has a logit for each class."""
    model.eval()
    try:
        logits = model(data.x[:2])
    except RuntimeError as error:
        raise InputError(
            f"model {name!r} does not take inputs of shape {tuple(data.x[:2].shape)}: {error}"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < data.classes:
        given = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(
            f"model {name!r} put out {given} for 2 inputs; expected a tensor with a logit "
            f"for each of the {data.classes} classes (labels count from 0)."
        )


def _fully_connected(widths: Sequence[int], dropout: float) -> nn.Sequential:
    *hidden, last = pairwise(widths)
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in hidden:
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers, nn.Linear(*last))
