"""The same by other means: plain forward hooks, and trees and correlations by scipy."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import pdist
from torch import Tensor, nn
from zoo.written import Layer


class Hooks:
    """Keeps a copy of what a plain hook finds in each layer's place, in each forward pass."""

    def __init__(self, model: nn.Module, layers: Mapping[str, Layer]) -> None:
        modules = dict(model.named_modules())
        self._layers = layers
        self._found: dict[str, Tensor] = {}
        self._calls: dict[str, Iterator[int]] = {}
        model.register_forward_pre_hook(self._begin)
        for name, layer in layers.items():
            module = modules[layer.after or name]
            if layer.put_in:
                module.register_forward_pre_hook(
                    lambda module, args, name=name: self._see(name, args[0])
                )
            else:
                module.register_forward_hook(
                    lambda module, args, output, name=name: self._see(name, output)
                )

    def _begin(self, module: nn.Module, args: Any) -> None:
        self._found = {}
        self._calls = {name: itertools.count(1) for name in self._layers}

    def _see(self, name: str, seen: Tensor | tuple[Tensor, ...]) -> None:
        layer = self._layers[name]
        if next(self._calls[name]) == layer.call:
            # Multiplied into a copy: the model may change what was seen in place later.
            self._found[name] = (seen if isinstance(seen, Tensor) else seen[0]) * layer.times

    def layers(self) -> dict[str, Tensor]:
        """Layer -> (samples, ...), in the layer's own shape."""
        return {
            name: self._found[name].movedim(layer.sample_axis, 0)
            for name, layer in self._layers.items()
        }

    def activations(self) -> dict[str, Tensor]:
        """Layer -> (samples, neurons)."""
        return {name: x.flatten(1) for name, x in self.layers().items()}


def t1(activations: Mapping[str, Tensor]) -> float:
    """T1 of all layers side by side: minus the weight of a minimum spanning tree on 1 - |r|.

    The merging heights of single linkage are the edges of such a tree.
    """
    x = np.concatenate([a.detach().double().numpy() for a in activations.values()], axis=1)
    spread = np.ptp(x, axis=0)
    # A neuron that is constant but for rounding correlates 0 with everything, by definition.
    live = x[:, spread > 1e-12 * np.abs(x).max(axis=0)]
    distances = 1 - np.abs(1 - pdist(live.T, "correlation"))
    heights = linkage(np.clip(distances, 0, None), "single")[:, 2]
    return -(heights.sum() + x.shape[1] - live.shape[1])


def tensors(output: object) -> list[Tensor]:
    """The tensors in what a model returned."""
    if isinstance(output, Tensor):
        return [output]
    items: Any = ()
    if isinstance(output, Mapping):
        items = output.values()
    elif isinstance(output, (tuple, list)):
        items = output
    return [t for item in items for t in tensors(item)]
