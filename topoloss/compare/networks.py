"""Networks: the paper's and a small convolutional one by name, or the user's own."""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt

import torch
from torch import Tensor, nn

from topoloss import objects
from topoloss.compare.data import Dataset
from topoloss.compare.paper import networks as papers
from topoloss.errors import InputError

__all__ = ["NETWORKS", "build", "initialise"]


def build(name: str, data: Dataset) -> nn.Module:
    """Build a network for a data set, initialised from the global random state.

    Parameters
    ----------
    name : str
        A network of the paper, ``"conv"``, or a reference ``package.module:function`` to a
        function without arguments. It returns a Module that maps inputs to class logits or, for
        a regression, to predictions of shape (samples, targets).
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
    if name in NETWORKS:
        return NETWORKS[name](data)
    if ":" not in name:
        return papers.find(name).build(data)
    model = objects.call(name, "model")
    if not isinstance(model, nn.Module):
        raise InputError(f"model {name!r} returned {model!r}; expected a torch.nn.Module.")
    _check_fit(model, name, data)
    return model


def _conv(data: Dataset) -> nn.Module:
    """Two convolutions with BatchNorm, pooled, and a hidden linear layer, for small images."""
    channels, height, width = _image_shape(data)
    return nn.Sequential(
        nn.Unflatten(1, (channels, height, width)) if data.x.ndim == 2 else nn.Identity(),
        *(nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(16 * (height // 2) * (width // 2), 64), nn.ReLU()),
        nn.Linear(64, data.outputs),
    )


def _image_shape(data: Dataset) -> tuple[int, ...]:
    """Channels, height and width; an image with one square channel may be a row of pixels."""
    if data.x.ndim == 4:
        return tuple(data.x.shape[1:])
    side = isqrt(data.x[0].numel())
    if data.x.ndim != 2 or side**2 != data.x.shape[1] or data.pixel_range == 1:
        raise InputError(
            f"inputs of shape {tuple(data.x.shape[1:])} were given; the network 'conv' takes "
            "images, (channels, height, width) or the pixels of a square."
        )
    return 1, side, side


# Those that are not the paper's.
NETWORKS: dict[str, Callable[[Dataset], nn.Module]] = {"conv": _conv}


def initialise(model: nn.Module, how: str) -> None:
    """Redraw the weights of linear and convolutional layers, unless PyTorch's are to stay.

    Parameters
    ----------
    model : Module
        Changed in place, from the global random state.
    how : {"pytorch", "he"}
        As in :class:`topoloss.compare.records.Protocol`.
    """
    if how == "pytorch":
        return
    for layer in model.modules():
        if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


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
            f"shape {tuple(data.y[:2].shape)}, as the floating-point targets of a regression have "
            "(labels of classes must be integers)"
            if regression
            else f"a logit for each of the {data.outputs} classes (labels count from 0)"
        )
        raise InputError(
            f"model {name!r} returned {given} for 2 inputs; expected a tensor with {expected}."
        )
