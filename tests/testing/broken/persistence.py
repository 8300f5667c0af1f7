"""Persistence engines with one thing wrong each, after one with nothing wrong."""

import torch

import topoloss
from topoloss.testing.kruskal import Kruskal


class Tree(topoloss.Persistence):
    """Nothing is wrong with this one."""

    def from_matrix(self, values):
        return [topoloss.CriticalEdges(self.tree(values))]

    def tree(self, values):
        return Kruskal().from_matrix(values)[0].death_edges


class DropsZeroDeaths(Tree):
    def tree(self, values):
        edges = super().tree(values)
        return edges[values[tuple(edges.T)] > 0]


class CountsFromOne(Tree):
    def tree(self, values):
        return super().tree(values) + 1


class NextVertex(Tree):
    """Off by one, but in range and a tree."""

    def tree(self, values):
        return (super().tree(values) + 1) % len(values)


class Cycle(Tree):
    def tree(self, values):
        edges = super().tree(values)
        return torch.cat((edges[:-1], edges[:1]))


class Int32(Tree):
    def tree(self, values):
        return super().tree(values).int()


class WithBirthsOfVertices(Tree):
    def from_matrix(self, values):
        edges = self.tree(values)
        return [topoloss.CriticalEdges(edges, birth_edges=edges)]


class HighestIndicesFirst(Tree):
    def tree(self, values):
        return len(values) - 1 - super().tree(values.flip(0, 1))


class Heaviest(Tree):
    def tree(self, values):
        return super().tree(-values)


class LowPrecision(Tree):
    def tree(self, values):
        return super().tree(values.bfloat16())


class LooksAtTheDiagonal(Tree):
    def tree(self, values):
        return super().tree(values + values.diagonal() + values.diagonal()[:, None])


class ClearsTheDiagonal(Tree):
    def tree(self, values):
        return super().tree(values.fill_diagonal_(-1))


class Shuffles(Tree):
    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def tree(self, values):
        edges = super().tree(values)
        return edges[torch.randperm(len(edges), generator=self.generator)]


class SeedsTheWorldOfTrees(Tree):
    def tree(self, values):
        torch.manual_seed(0)
        return super().tree(values)


class CountsTrees(Tree):
    def __init__(self):
        super().__init__()
        self.register_buffer("trees", torch.zeros(()))

    def tree(self, values):
        self.trees += 1
        return super().tree(values)


class ClaimsToBeMapped(Tree):
    vmappable = True


class UnknownOrder(Tree):
    orders = frozenset({"ascending"})


class NegativeDots(Tree):
    """Takes the absolute value where the sign counts."""

    orders = frozenset({"dot_descending"})

    def from_features(self, v, order):
        return self.from_matrix(-(v @ v.T).abs())


class DiesBeforeItIsBorn(Tree):
    def from_matrix(self, values):
        edges = self.tree(values)
        by_value = edges[values[tuple(edges.T)].argsort()]
        longest, shortest = by_value[-1:], by_value[:1]
        return [topoloss.CriticalEdges(edges), topoloss.CriticalEdges(shortest, longest)]


# The rules that each component breaks, in the order in which they are checked: what the
# component is about comes first.
BREAKS = {
    Tree: "",
    DropsZeroDeaths: "points spanning_tree reference",
    CountsFromOne: "edges_of_vertices spanning_tree reference weight",
    NextVertex: "reference weight",
    Cycle: "spanning_tree reference weight",
    Int32: "edges_of_vertices",
    WithBirthsOfVertices: "edges_of_vertices",
    HighestIndicesFirst: "reference",
    Heaviest: "reference weight",
    LowPrecision: "weight",
    LooksAtTheDiagonal: "diagonal",
    ClearsTheDiagonal: "input_unchanged determinism pickling deepcopy state_dict",
    Shuffles: "determinism diagonal",
    SeedsTheWorldOfTrees: "random_state",
    CountsTrees: "module_state",
    ClaimsToBeMapped: "vmap compilation",
    UnknownOrder: "orders edges_of_vertices points input_unchanged determinism random_state "
    "module_state spanning_tree reference weight pickling deepcopy state_dict",
    NegativeDots: "reference weight",
    DiesBeforeItIsBorn: "higher_dimensions",
}
