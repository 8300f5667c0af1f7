"""Kruskal's algorithm in float64: slow, obvious, and what the other engines are tested against."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from topoloss_mst.engines.keys import ascending_keys


def from_features(v: Tensor, order: str) -> Tensor:
    return from_matrix(ascending_keys(v.double(), order))


def from_matrix(values: Tensor) -> Tensor:
    key = values.double().numpy()
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
