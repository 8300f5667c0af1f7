"""Persistence engines that are right, each in a way of its own."""

import numpy as np
import torch
from ripser import ripser
from scipy.sparse.csgraph import minimum_spanning_tree

import topoloss
from topoloss.testing import boundary_reduction
from topoloss.testing.kruskal import Kruskal, spanning_forest


class Backwards(topoloss.Persistence):
    """The heaviest edge comes first, and of each edge the higher vertex."""

    def from_matrix(self, values):
        tree = Kruskal().from_matrix(values)[0].death_edges
        heaviest_first = values[tuple(tree.T)].argsort(descending=True)
        return [topoloss.CriticalEdges(tree[heaviest_first].flip(1))]


class PrimInPython(topoloss.Persistence):
    """Slow, and takes plain numbers only."""

    def from_matrix(self, values):
        value = values.tolist()
        n = len(value)
        nearest = {v: (value[0][v], 0, v) for v in range(1, n)}
        tree = []
        while nearest:
            v = min(nearest, key=nearest.get)
            tree.append(nearest.pop(v)[1:])
            for u, known in nearest.items():
                nearest[u] = min(known, (value[v][u], min(u, v), max(u, v)))
        edges = torch.tensor(tree, dtype=torch.int64, device=values.device)
        return [topoloss.CriticalEdges(edges.reshape(-1, 2))]


class ByScipy(topoloss.Persistence):
    """Leaves torch, which a tensor that asks for a gradient would refuse, and the device."""

    def from_matrix(self, values):
        ranks = ranks_of(values.cpu().numpy())
        tree = minimum_spanning_tree(np.triu(ranks, 1)).tocoo()
        edges = np.stack((tree.row, tree.col), 1).astype(np.int64)
        return [topoloss.CriticalEdges(torch.from_numpy(edges).to(values.device))]


class ByRipser(topoloss.Persistence):
    """Dimensions 0 to 2, named by ranks: each of them is one edge, and exact in float32.

    Refuses tensors that are not on the CPU.
    """

    max_vertices = 40

    def from_matrix(self, values):
        self.check_limits(len(values), values.dtype)
        if values.device.type != "cpu":
            raise topoloss.InputError(f"a tensor on {values.device} was given; expected the CPU.")
        n = len(values)
        edges = torch.triu_indices(n, n, 1).T
        edges = edges[values[tuple(edges.T)].argsort(stable=True)]
        diagrams = ripser(ranks_of(values.numpy()), distance_matrix=True, maxdim=2)["dgms"]
        found = []
        for dimension, points in enumerate(diagrams):
            ranks = torch.from_numpy(points[np.isfinite(points[:, 1])].astype(np.int64)) - 1
            births = edges[ranks[:, 0]] if dimension else None
            found.append(topoloss.CriticalEdges(edges[ranks[:, 1]], births))
        return found


class LeavesPointsOfLength0Out(topoloss.Persistence):
    max_vertices = 20

    def from_matrix(self, values):
        self.check_limits(len(values), values.dtype)
        joined, circles = boundary_reduction.of_matrix(values, 2)
        births, deaths = circles.birth_edges, circles.death_edges
        long = values[tuple(births.T)] < values[tuple(deaths.T)]
        return [joined, topoloss.CriticalEdges(deaths[long], births[long])]


class FillsUp(topoloss.Persistence):
    """Fills up dimension 1 with classes that die with the edge of their birth."""

    max_vertices = 20

    def from_matrix(self, values):
        self.check_limits(len(values), values.dtype)
        joined, circles = boundary_reduction.of_matrix(values, 2)
        filler = joined.death_edges[: 1 if len(values) > 1 else 0]
        filled = (torch.cat((e, filler)) for e in (circles.death_edges, circles.birth_edges))
        return [joined, topoloss.CriticalEdges(*filled)]


class AtMost50(Backwards):
    def __init__(self, *, max_vertices=50):
        super().__init__()
        self.max_vertices = max_vertices

    def from_matrix(self, values):
        self.check_limits(len(values), values.dtype)
        return super().from_matrix(values)


class AtMost2(AtMost50):
    def __init__(self):
        super().__init__(max_vertices=2)


class Float64Alone(Backwards):
    dtypes = frozenset({torch.float64})

    def from_matrix(self, values):
        self.check_limits(len(values), values.dtype)
        return super().from_matrix(values)


class Float32Alone(Float64Alone):
    dtypes = frozenset({torch.float32})


class TakesMoreThanItSays(Backwards):
    """What is stated is what it may refuse."""

    max_vertices = 60
    dtypes = frozenset({torch.float32})

    def check_matrix(self, n, dtype):
        if n > 60:
            raise topoloss.TooLargeError(f"a matrix of {n} x {n} values")


class FeaturesAlone(topoloss.Persistence):
    orders = frozenset({"sq_dist_ascending"})

    def from_features(self, v, order):
        return Kruskal().from_matrix((v[:, None] - v[None]).double().square().sum(-1))


class ListsAlone(topoloss.Persistence):
    def from_edges(self, n, edges, values):
        rows = spanning_forest(n, edges, values).sort(descending=True).values
        return [topoloss.CriticalEdges(edges[rows])]


class Remembers(Backwards):
    """Looks first whether the matrix is the last one."""

    def __init__(self):
        super().__init__()
        self.last = None

    def from_matrix(self, values):
        if self.last is None or not torch.equal(self.last[0], values):
            self.last = (values.clone(), super().from_matrix(values))
        return self.last[1]


def ranks_of(values):
    """Number the pairs from 1, in the order (value, lower index, higher index)."""
    i, j = np.triu_indices(len(values), 1)
    ranks = np.zeros(values.shape)
    order = np.argsort(values[i, j], kind="stable")
    ranks[i[order], j[order]] = ranks[j[order], i[order]] = np.arange(1, len(i) + 1)
    return ranks


UNUSUAL = (
    Backwards,
    PrimInPython,
    ByScipy,
    ByRipser,
    LeavesPointsOfLength0Out,
    FillsUp,
    AtMost50,
    AtMost2,
    Float64Alone,
    Float32Alone,
    TakesMoreThanItSays,
    FeaturesAlone,
    ListsAlone,
    Remembers,
)
