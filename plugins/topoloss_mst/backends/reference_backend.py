"""Kruskal's algorithm in float64: slow, obvious, and what the other backends are tested against."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def from_features(v: Tensor, order: str) -> Tensor:
    return torch.stack([_kruskal(_keys(element.double(), order)) for element in v])


def from_matrix(values: Tensor) -> Tensor:
    return torch.stack([_kruskal(element.double().numpy()) for element in values])


def _keys(v: Tensor, order: str) -> npt.NDArray[np.float64]:
    """Ascending keys, without a matrix product, so that equal pairs have equal keys."""
    if order == "sq_dist_ascending":
        rows = [(v - u).square().sum(-1) for u in v]
    else:
        rows = [-(v * u).sum(-1) for u in v]
    keys = torch.stack(rows)
    if order == "abs_dot_descending":
        keys = -keys.abs()
    array: npt.NDArray[np.float64] = keys.numpy()
    return array


def _kruskal(key: npt.NDArray[np.float64]) -> Tensor:
    n = key.shape[0]
    lower, higher = np.triu_indices(n, k=1)
    by_value_then_indices = np.lexsort((higher, lower, key[lower, higher]))
    component = np.arange(n)
    tree = []
    for e in by_value_then_indices:
        i, j = lower[e], higher[e]
        if component[i] != component[j]:
            component[component == component[j]] = component[i]
            tree.append((i, j))
    return torch.tensor(np.array(tree), dtype=torch.int64)
