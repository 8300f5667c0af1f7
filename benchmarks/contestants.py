"""Implementations of one T1 forward and backward, and the matrix product that bounds them.

Each is a function from activations to a step. A step returns the n - 1 deaths that it found. If it
computes the gradient of T1, which is minus their sum, it leaves it in the activations. Peers that
name no critical edges cannot be differentiated, and are timed forward only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
import torch
from topoloss_mst.persistence import MinimumSpanningTree
from topoloss_plugins.correlation import Correlation
from topoloss_plugins.decorrelation import T1
from torch import Tensor

import topoloss
from topoloss.extras import needs_extra

Step: TypeAlias = Callable[[], Tensor]
Deaths: TypeAlias = Callable[[Tensor], Tensor]

LIMIT = "gram_product"
OURS = "topoloss"
# Rows of the Gram matrix that are held at once.
_BLOCK = 1 << 14


@dataclass(frozen=True)
class Contestant:
    """An implementation of T1, and the largest number of neurons at which it takes part."""

    name: str
    prepare: Callable[[Tensor], Step]
    computes: Literal["product", "forward", "forward and backward"]
    largest: int


def gram_product(x: Tensor) -> Step:
    """The products of all pairs of neurons, forward: the limit for whatever computes them.

    Beyond 16,384 neurons they are computed in blocks of rows that are not kept.
    """
    v = x.detach().T.contiguous()

    def step() -> Tensor:
        for rows in v.split(_BLOCK):
            product = rows @ v.T
        return product

    return step


class _ShownT1(T1):
    """T1 that keeps the deaths from which it was computed."""

    def forward(self, diagrams):
        self.deaths = diagrams[0].deaths.detach()
        return super().forward(diagrams)


def topoloss_t1(
    x: Tensor,
    backend: str = "auto",
    filtration: topoloss.Filtration | None = None,
    **options: str,
) -> Step:
    """``topoloss.regulariser("t1")``, made from instances: it needs no installed entry points."""
    loss = _ShownT1()
    filtration = filtration or Correlation()
    regulariser = topoloss.pipeline(
        filtration, MinimumSpanningTree(backend=backend), loss, **options
    )

    def step() -> Tensor:
        _backward(regulariser(x), x)
        return loss.deaths

    return step


def captured_t1(x: Tensor, filtration: topoloss.Filtration | None = None) -> Step:
    """The same with the Triton backend, captured as a CUDA graph and replayed."""
    # An error would need the host to look at the data; skipping does not.
    step = topoloss_t1(x, backend="triton", filtration=filtration, on_nonfinite="skip")
    # PyTorch requires a warm-up on another stream before the capture.
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        deaths = step()

    def replay() -> Tensor:
        graph.replay()
        return deaths

    return replay


def cpu_round_trip(x: Tensor, filtration: topoloss.Filtration | None = None) -> Step:
    """Copy to the CPU, find the tree there, and copy the gradient back."""
    loss = _ShownT1()
    filtration = filtration or Correlation()
    regulariser = topoloss.pipeline(filtration, MinimumSpanningTree(backend="numba"), loss)

    def step() -> Tensor:
        _backward(regulariser(x.cpu()), x)
        return loss.deaths

    return step


def paper(x: Tensor) -> Tensor:
    """The paper's way: the differentiable matrix, giotto-ph with generators, and a gather."""
    with needs_extra("bench"):
        import gph

    distances = _dissimilarities(x)
    found = gph.ripser_parallel(
        _array(distances), metric="precomputed", maxdim=0, n_threads=2, return_generators=True
    )
    return _gather(distances, found["gens"][0][:, 1:])


def torch_topological(x: Tensor) -> Tensor:
    with needs_extra("bench"):
        from torch_topological.nn import VietorisRipsComplex

    rips = VietorisRipsComplex(dim=0, n_threads=2)
    return rips(_dissimilarities(x), treat_as_distances=True)[0].diagram[:, 1]


def gudhi(x: Tensor) -> Tensor:
    """GUDHI's simplex tree of all edges, its generators, and a gather."""
    with needs_extra("bench"):
        from gudhi import RipsComplex

    distances = _dissimilarities(x)
    tree = RipsComplex(distance_matrix=_array(distances)).create_simplex_tree(max_dimension=1)
    tree.compute_persistence()
    return _gather(distances, tree.flag_persistence_generators()[0][:, 1:])


def scipy_mst(x: Tensor) -> Tensor:
    """scipy's spanning tree of the full matrix, and a gather."""
    from scipy.sparse.csgraph import minimum_spanning_tree

    distances = _dissimilarities(x)
    tree = minimum_spanning_tree(_array(distances)).tocoo()
    return _gather(distances, np.stack((tree.row, tree.col), 1))


def scipy_linkage(x: Tensor) -> Tensor:
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    condensed = squareform(_array(_dissimilarities(x.detach())), checks=False)
    return torch.from_numpy(linkage(condensed, "single")[:, 2])


def ripser(x: Tensor) -> Tensor:
    with needs_extra("bench"):
        from ripser import ripser

    points = ripser(_array(_dissimilarities(x.detach())), distance_matrix=True, maxdim=0)["dgms"]
    return torch.from_numpy(points[0][:-1, 1])


def _dissimilarities(x: Tensor) -> Tensor:
    """``1 - |r|`` of all pairs, differentiable, as giotto-ph requires it: exactly symmetric, with a
    zero diagonal and without negative rounding errors."""
    distances = 1 - torch.corrcoef(x.T).abs()
    return torch.maximum(distances, distances.T).clamp(min=0).fill_diagonal_(0)


def _array(distances: Tensor) -> np.ndarray:
    return distances.detach().numpy()


def _gather(distances: Tensor, edges: np.ndarray) -> Tensor:
    i, j = torch.from_numpy(edges.astype(np.int64)).unbind(1)
    return distances[i, j]


def _backward(t1: Tensor, x: Tensor) -> None:
    x.grad = None
    t1.backward()


def _forward_and_backward(deaths_of: Deaths, x: Tensor) -> Step:
    def step() -> Tensor:
        deaths = deaths_of(x)
        _backward(-deaths.sum(), x)
        return deaths.detach()

    return step


def _contestant(deaths_of: Deaths, computes: str, largest: int) -> Contestant:
    prepare = _forward_and_backward if computes == "forward and backward" else partial
    return Contestant(deaths_of.__name__, partial(prepare, deaths_of), computes, largest)


CONTESTANTS = {
    "cpu": (
        Contestant(LIMIT, gram_product, "product", 100_000),
        Contestant(OURS, topoloss_t1, "forward and backward", 100_000),
        _contestant(paper, "forward and backward", 10_000),
        _contestant(torch_topological, "forward and backward", 10_000),
        _contestant(gudhi, "forward and backward", 4_096),
        _contestant(scipy_mst, "forward and backward", 4_096),
        _contestant(ripser, "forward", 4_096),
        _contestant(scipy_linkage, "forward", 20_000),
    ),
}
