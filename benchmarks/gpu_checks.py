"""Check, as far as there is time, that a tree found by the GPU is the minimum one."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from topoloss_mst.persistence import MinimumSpanningTree
from torch import Tensor

import topoloss
from benchmarks.inputs import Input
from benchmarks.reference import DisagreementError

# Up to this many neurons the CPU finds a tree in seconds.
_BY_THE_CPU = 10_000
_SAMPLED = 256


def triton_tree(x: Tensor, given: Input) -> Tensor:
    """Edges (n - 1, 2) that the Triton backend finds."""
    with torch.no_grad():
        return _tree(given.filtration().vertices(x), given, "triton")


def check_tree(x: Tensor, given: Input, edges: Tensor, by_the_cpu: int = _BY_THE_CPU) -> None:
    """Raise a `DisagreementError` unless a tree spans all neurons and is minimal.

    Up to `by_the_cpu` neurons its deaths must be those of the CPU's tree. For more neurons that
    tree would take long, so only some neurons are checked: the lightest edge of each must be in the
    tree.
    """
    filtration = given.filtration()
    with torch.no_grad():
        v = filtration.vertices(x)
        _check_spanning(edges, len(v))
        deaths = _values(filtration, v, edges)
        if len(v) <= by_the_cpu:
            exact = _values(filtration, v.cpu(), _tree(v.cpu(), given, "numba"))
            _refuse(deaths.cpu().sort().values, exact.sort().values, v.shape[1])
        else:
            _check_lightest(filtration, v, edges, deaths)


def _tree(v: Tensor, given: Input, backend: Literal["triton", "numba"]) -> Tensor:
    mst = MinimumSpanningTree(backend=backend)
    return mst.from_features(v, given.filtration().order)[0].death_edges


def _values(filtration: topoloss.Filtration, v: Tensor, edges: Tensor) -> Tensor:
    return filtration.edge_values(v.double(), *edges.unbind(1))


def _check_spanning(edges: Tensor, n: int) -> None:
    i, j = edges.cpu().numpy().T
    graph = coo_array((np.ones(len(i)), (i, j)), shape=(n, n))
    parts = connected_components(graph, directed=False)[0]
    if len(edges) != n - 1 or parts != 1:
        raise DisagreementError(f"{len(edges)} edges leave {n} neurons in {parts} parts.")


def _check_lightest(
    filtration: topoloss.Filtration, v: Tensor, edges: Tensor, deaths: Tensor
) -> None:
    n = len(v)
    some = torch.linspace(0, n - 1, _SAMPLED, dtype=torch.float64, device=v.device).long()
    of_tree = torch.full((n,), torch.inf, dtype=torch.float64, device=v.device)
    for end in edges.unbind(1):
        of_tree.scatter_reduce_(0, end, deaths, "amin")
    every, v = torch.arange(n, device=v.device), v.double()
    for u in some:
        row = filtration.edge_values(v, u.expand(n), every)
        row[u] = torch.inf
        _refuse(of_tree[u], row.min(), v.shape[1])


def _refuse(found: Tensor, expected: Tensor, d: int) -> None:
    deviation = float((found - expected).abs().max())
    tolerance = 2 * d * torch.finfo(torch.float32).eps * max(1.0, float(expected.abs().max()))
    # Written so that NaN is refused as well.
    if not deviation <= tolerance:
        raise DisagreementError(
            f"deaths are off by up to {deviation:.1e}; at most {tolerance:.1e} is rounding."
        )
