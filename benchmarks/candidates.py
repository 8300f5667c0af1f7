"""Candidates for a topological regulariser that helps more than T1, and controls for some of them.

`benchmarks.candidate_runs` compares them. None helped enough to be part of the library.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from topoloss_plugins.covariance_tree import CovarianceTree, RandomPath
from topoloss_plugins.covariances import LayerByLayer
from torch import Tensor

import topoloss


class ShrunkCorrelation(topoloss.Filtration):
    r"""``1 - |C_ij| / sqrt((C_ii + c) (C_jj + c))``, where C are covariances and c is a constant.

    With c = 0 it is the correlation, whose gradient grows as a neuron's deviation falls.
    """

    order = "abs_dot_descending"

    def __init__(self, *, constant: float = 1.0) -> None:
        super().__init__()
        topoloss.check_number("constant", constant, above=0)
        self.constant = constant

    def vertices(self, x: Float[Tensor, "samples n"]) -> Float[Tensor, "n samples"]:
        rows = x.to(torch.promote_types(x.dtype, torch.float32)).mT
        rows = rows - rows.mean(1, keepdim=True)
        squares = rows.square().mean(1, keepdim=True) + self.constant
        return rows / (len(x) * squares).sqrt()

    def edge_values(
        self, v: Float[Tensor, "n d"], i: Int[Tensor, " e"], j: Int[Tensor, " e"]
    ) -> Float[Tensor, " e"]:
        return 1 - (v.index_select(0, i) * v.index_select(0, j)).sum(1).abs()


class HingedDeaths(topoloss.Loss):
    r"""``sum max(0, level - d)`` over the deaths d: pairs that differ enough are left alone."""

    def __init__(self, *, level: float = 0.5) -> None:
        super().__init__()
        topoloss.check_number("level", level, above=0)
        self.level = level

    def forward(self, diagrams: Sequence[topoloss.Diagram]) -> Tensor:
        d = diagrams[0]
        return (d.weights * (self.level - d.deaths).clamp(min=0)).sum()


class SquaredDeaths(topoloss.Loss):
    """``sum (1 - d)^2`` over the deaths d: for correlations r^2, whose gradient fades with r."""

    def forward(self, diagrams: Sequence[topoloss.Diagram]) -> Tensor:
        d = diagrams[0]
        return (d.weights * (1 - d.deaths).square()).sum()


class EachLayer(LayerByLayer):
    """Another regulariser's value on each layer by itself, summed."""

    def __init__(self, *, of: str) -> None:
        super().__init__()
        self.value = topoloss.regulariser(of)

    def compute(self, x: Float[Tensor, "samples n"]) -> Float[Tensor, ""]:
        value: Tensor = self.value(x)
        return value


class DisjointTrees(CovarianceTree):
    """Squared covariances on trees that share no edge, each minimal among the edges left."""

    def __init__(self, *, count: int = 4) -> None:
        super().__init__()
        topoloss.check_number("count", count, whole=True, least=1)
        self.count = count

    def pairs(self, x: Float[Tensor, "samples n"]) -> Int[Tensor, "pairs 2"]:
        values = self.pipeline.filtration.pairwise(self.pipeline.filtration.vertices(x.detach()))
        trees = []
        for _ in range(self.count):
            (found,) = self.pipeline.persistence.from_matrix(values)
            trees.append(found.death_edges)
            first, second = found.death_edges.unbind(1)
            # Longer than any unused edge, so taken only where no unused edge joins two parts.
            values[first, second] = values[second, first] = 2.0
        return torch.cat(trees)


class PathEngine(topoloss.Persistence):
    """A control: instead of the minimum spanning tree a random path, whatever the values are."""

    orders = frozenset({"abs_dot_descending"})

    def from_features(
        self, v: Float[Tensor, "n d"], order: topoloss.Order
    ) -> list[topoloss.CriticalEdges]:
        return [topoloss.CriticalEdges(RandomPath().pairs(v.mT))]


class RandomPaths(RandomPath):
    """Squared covariances on several random paths: the control of `DisjointTrees`."""

    def __init__(self, *, count: int = 4) -> None:
        super().__init__()
        self.paths = [RandomPath(seed=seed) for seed in range(count)]

    def pairs(self, x: Float[Tensor, "samples n"]) -> Int[Tensor, "pairs 2"]:
        return torch.cat([path.pairs(x) for path in self.paths])


def shrunk() -> topoloss.Pipeline:
    return topoloss.pipeline(ShrunkCorrelation(), "mst", "t1")


def shrunk_squares() -> topoloss.Pipeline:
    return topoloss.pipeline(ShrunkCorrelation(), "mst", SquaredDeaths())


def hinged() -> topoloss.Pipeline:
    return topoloss.pipeline("correlation", "mst", HingedDeaths())


def squares() -> topoloss.Pipeline:
    return topoloss.pipeline("correlation", "mst", SquaredDeaths())


def t1_of_a_path() -> topoloss.Pipeline:
    return topoloss.pipeline("correlation", PathEngine(), "t1")


def t1_of_each_layer() -> EachLayer:
    return EachLayer(of="t1")


def covariance_tree_of_each_layer() -> EachLayer:
    return EachLayer(of="covariance-tree")
