"""Boruvka's algorithm in torch operations, on any device, on a dense matrix of keys."""

from __future__ import annotations

import torch
from torch import Tensor

from topoloss_mst.backends.keys import ascending_keys


def from_features(v: Tensor, order: str) -> Tensor:
    return torch.stack([_tree(ascending_keys(element, order)) for element in v])


def from_matrix(values: Tensor) -> Tensor:
    return torch.stack([_tree(element) for element in values])


def _tree(values: Tensor) -> Tensor:
    n = values.shape[0]
    component = torch.arange(n, device=values.device)
    codes = [component.new_empty(0)]
    while sum(len(c) for c in codes) < n - 1:
        code = _lightest_leaving_edges(values, component)
        # Two components may choose the same edge; a total order rules out longer cycles.
        chosen = torch.unique(code)
        codes.append(chosen)
        component = _merge(component, chosen // n, chosen % n)
    edges = torch.cat(codes)
    return torch.stack((edges // n, edges % n), -1)


def _lightest_leaving_edges(values: Tensor, component: Tensor) -> Tensor:
    """Return each component's first edge to another one, as ``lower * n + higher``.

    Edges are ordered by (key, lower index, higher index).
    """
    n = values.shape[0]
    vertex = torch.arange(n, device=values.device)
    leaving = values.masked_fill(component[:, None] == component, torch.inf)
    lightest = leaving.amin(1)
    # Among equal edges of one vertex, the one with the lowest other end comes first.
    other = torch.where(leaving == lightest[:, None], vertex, n).amin(1)
    code = torch.minimum(vertex, other) * n + torch.maximum(vertex, other)

    key = torch.full_like(lightest, torch.inf).scatter_reduce(0, component, lightest, "amin")
    none = n * n
    candidate = torch.where(lightest == key[component], code, none)
    best = torch.full_like(code, none).scatter_reduce(0, component, candidate, "amin")
    return best[torch.unique(component)]


def _merge(component: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Join the components of each pair, and label each by its lowest label (pointer jumping)."""
    n = len(component)
    label = torch.arange(n, device=component.device)
    a, b = component[i], component[j]
    while True:
        low = torch.minimum(label[a], label[b])
        joined = label.scatter_reduce(0, a, low, "amin").scatter_reduce(0, b, low, "amin")
        joined = joined[joined]
        if torch.equal(joined, label):
            return label[component]
        label = joined
