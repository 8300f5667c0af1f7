"""What is written down about a model: how it is built and called, and which its layers are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

SAMPLES = 6


@dataclass(frozen=True)
class Layer:
    """Where a plain hook finds a layer's neurons.

    Attributes
    ----------
    shape : tuple of int
        The shape of one sample's neurons.
    after : str or None
        The module that puts them out; None for the module after which the layer is named.
    call : int
        Which call of that module in a forward pass, from 1.
    put_in : bool
        Whether the neurons are what that module is given, and not what it puts out.
    sample_axis : int
        The axis of that module's tensor which counts samples.
    times : float
        A number by which the model multiplies what it found there.
    """

    shape: tuple[int, ...]
    after: str | None = None
    call: int = 1
    put_in: bool = False
    sample_axis: int = 0
    times: float = 1.0


@dataclass(frozen=True)
class Written:
    """A model and its layers, as somebody read them in the model's source.

    Attributes
    ----------
    name : str
    build : callable
        Makes the model, with random weights.
    inputs : callable
        Takes a dtype; returns arguments and keyword arguments of one forward pass.
    layers : mapping
        Each layer by its name.
    left_out : tuple of str
        Layers without an axis of samples, which a warning names.
    options : mapping
        Options of ``topoloss.attach``.
    low_precision : bool
        Whether the model is run in bfloat16, too.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[torch.dtype], tuple[tuple[Any, ...], dict[str, Any]]]
    layers: Mapping[str, Layer]
    left_out: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    low_precision: bool = False


def images(size: int) -> Callable[[torch.dtype], tuple[tuple[Tensor], dict[str, Any]]]:
    """Random square images, as the only argument."""

    def inputs(dtype: torch.dtype) -> tuple[tuple[Tensor], dict[str, Any]]:
        return (torch.randn(SAMPLES, 3, size, size, dtype=torch.float64).to(dtype),), {}

    return inputs
