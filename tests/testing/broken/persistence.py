"""Persistence engines with one thing wrong each, after some with nothing wrong."""

import torch

import topoloss
from topoloss.testing import boundary_reduction
from topoloss.testing.kruskal import Kruskal, spanning_forest


class Tree(topoloss.Persistence):
    """Nothing is wrong with this one."""

    def from_matrix(self, values):
        return [topoloss.CriticalEdges(self.tree(values))]

    def tree(self, values):
        return Kruskal().from_matrix(values)[0].death_edges


class Forest(Tree):
    """Nor with this one."""

    def from_edges(self, n, edges, values):
        return [topoloss.CriticalEdges(edges[self.rows(n, edges, values)])]

    def rows(self, n, edges, values):
        return spanning_forest(n, edges, values)


class Circles(topoloss.Persistence):
    """Nor with this one, of two dimensions."""

    max_vertices = 20

    def from_matrix(self, values):
        self.check_limits(len(values), values.dtype)
        joined, circles = boundary_reduction.of_matrix(values, 2)
        return [joined, self.changed(circles)]

    def from_edges(self, n, edges, values):
        self.check_limits(n, values.dtype)
        joined, circles = boundary_reduction.of_edges(n, edges, values, 2)
        return [joined, self.changed(circles)]

    def changed(self, circles):
        return circles


class NoOperator(topoloss.Persistence):
    pass


class ForgetsItsOrders(Tree):
    def from_features(self, v, order):
        return self.from_matrix(-(v @ v.T))


class LimitIsText(Tree):
    max_vertices = "40"


class HalfPrecisionAlone(Tree):
    dtypes = frozenset({torch.bfloat16})


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


class CachesByShape(Tree):
    def __init__(self):
        super().__init__()
        self.trees = {}

    def tree(self, values):
        if values.shape not in self.trees:
            self.trees[values.shape] = super().tree(values)
        return self.trees[values.shape]


class CachesByAddress(Tree):
    def __init__(self):
        super().__init__()
        self.last = (None, None)

    def tree(self, values):
        address = (values.data_ptr(), values.shape)
        if self.last[0] != address:
            self.last = (address, super().tree(values))
        return self.last[1]


class ListCachedByShape(Forest):
    def __init__(self):
        super().__init__()
        self.forests = {}

    def rows(self, n, edges, values):
        key = (n, edges.shape)
        if key not in self.forests:
            self.forests[key] = super().rows(n, edges, values)
        return self.forests[key]


class AbsoluteValues(Tree):
    def tree(self, values):
        return super().tree(values.abs())


class MinusZeroFirst(Tree):
    """Orders the bits of numbers, of which -0.0 has fewer than 0.0."""

    def tree(self, values):
        bits = values.double().contiguous().view(torch.int64)
        ordered = torch.where(bits < 0, -(bits & torch.iinfo(torch.int64).max) - 1, bits)
        return super().tree(ordered.unique(return_inverse=True)[1].double())


class ListedAbsoluteValues(Forest):
    def rows(self, n, edges, values):
        return super().rows(n, edges, values.abs())


class RoundsToFloat32(Tree):
    def tree(self, values):
        return super().tree(values.float())


class RoundsListsToFloat32(Forest):
    def rows(self, n, edges, values):
        return super().rows(n, edges, values.float())


class RoundsFeaturesToFloat32(Tree):
    orders = frozenset({"sq_dist_ascending"})

    def from_features(self, v, order):
        v = v.float()
        return self.from_matrix((v[:, None] - v[None]).double().square().sum(-1))


class RoundsFeaturesToTF32(Tree):
    """As tensor cores do, which multiply float32."""

    orders = frozenset({"dot_descending", "sq_dist_ascending"})

    def from_features(self, v, order):
        if v.dtype == torch.float32:
            bits = v.contiguous().view(torch.int32)
            v = ((bits + 0x1000) & ~0x1FFF).view(torch.float32)
        v = v.double()
        squared = (v[:, None] - v[None]).square().sum(-1)
        return self.from_matrix(-v @ v.T if order == "dot_descending" else squared)


def as_stored(x):
    """Read as many entries as `x` has from where it begins, as if it were contiguous."""
    strides = [x.shape[1:].numel(), 1][-x.ndim :]
    return x.as_strided(x.shape, strides)


class OnTheCpu(Tree):
    """Makes its indices on the CPU, wherever the values are."""

    def tree(self, values):
        return torch.tensor(super().tree(values).tolist(), dtype=torch.int64).reshape(-1, 2)


class ListsOnTheCpu(Forest):
    def from_edges(self, n, edges, values):
        if edges.device.type != "cpu":
            raise topoloss.InputError("not the CPU.")  # names no device: that is not clear
        return super().from_edges(n, edges.cpu(), values.cpu())


class RefusesMatricesAlone(Forest):
    """Its matrices need no device any more; its lists do."""

    def from_matrix(self, values):
        if values.device.type != "cpu":
            raise topoloss.InputError(f"expected the CPU, not {values.device}.")
        return super().from_matrix(values)

    def from_edges(self, n, edges, values):
        return super().from_edges(n, edges.cpu(), values.cpu())


class RawDeviceError(Tree):
    """Hands its values to numpy, which takes those of the CPU alone."""

    def tree(self, values):
        return super().tree(torch.from_numpy(values.numpy()))


class LeavesGradientsOff(Tree):
    def tree(self, values):
        torch.set_grad_enabled(False)
        return super().tree(values)


class HooksEachCall(Tree):
    def __init__(self):
        super().__init__()
        self.calls = torch.nn.Identity()

    def tree(self, values):
        self.calls.register_forward_hook(forwards)
        return super().tree(self.calls(values))


def forwards(module, inputs, output):
    """Change nothing."""


class ReadsMatricesAsStored(Tree):
    def tree(self, values):
        return super().tree(as_stored(values))


class ReadsFeaturesAsStored(Tree):
    orders = frozenset({"sq_dist_ascending"})

    def from_features(self, v, order):
        v = as_stored(v)
        return self.from_matrix((v[:, None] - v[None]).square().sum(-1))


class ReadsListsAsStored(Forest):
    def rows(self, n, edges, values):
        return super().rows(n, as_stored(edges), values)


class ReadsListedValuesAsStored(Forest):
    def rows(self, n, edges, values):
        return super().rows(n, edges, as_stored(values))


class WrongFor(Tree):
    """Nothing is wrong with this one, which is the base of others."""

    def wrong(self, n):
        return False

    def tree(self, values):
        # The lightest edge is taken for the heaviest.
        if self.wrong(len(values)):
            values = values.where(values > values[values > 0].min(), values.max() + 1)
        return super().tree(values)


class WrongAbove300(WrongFor):
    def wrong(self, n):
        return n > 300


class WrongForOddAbove40(WrongFor):
    def wrong(self, n):
        return n > 40 and n % 2


class WrongForFullBlocks(WrongFor):
    def wrong(self, n):
        return n > 64 and n % 1024 == 0


class WrongForFullBlocksOfFloat32(Tree):
    def tree(self, values):
        full = len(values) > 40 and len(values) % 64 == 0
        return super().tree(-values if full and values.dtype == torch.float32 else values)


class WrongForOddManyOfFloat64(Tree):
    def tree(self, values):
        odd = len(values) > 40 and len(values) % 2
        return super().tree(-values if odd and values.dtype == torch.float64 else values)


class SkipsTheBordersOfBlocks(Tree):
    """Never compares the last vertex of a block of 256 with the first of the next."""

    def tree(self, values):
        border = torch.arange(0, len(values), 256, device=values.device)[1:]
        values = values.clone()
        values[border, border - 1] = values[border - 1, border] = 1e9
        return super().tree(values)


class ListWrongAbove300(Forest):
    def rows(self, n, edges, values):
        return super().rows(n, edges, -values if n > 300 else values)


class Heaviest(Tree):
    def tree(self, values):
        return super().tree(-values)


class LowPrecision(Tree):
    def tree(self, values):
        return super().tree(values.bfloat16())


class FixedPoint(Tree):
    """Keeps 8 bits behind the point."""

    orders = frozenset({"sq_dist_ascending"})

    def from_features(self, v, order):
        v = (256 * v).round()
        return self.from_matrix((v[:, None] - v[None]).square().sum(-1))


class First8Features(Tree):
    orders = frozenset({"sq_dist_ascending"})

    def from_features(self, v, order):
        v = v[:, :8]
        return self.from_matrix((v[:, None] - v[None]).square().sum(-1))


class SquaresOverflow(Tree):
    orders = frozenset({"sq_dist_ascending"})

    def from_features(self, v, order):
        return self.from_matrix((v[:, None] - v[None]).square().sum(-1))


class LeavesLongEdgesOut(Tree):
    """Takes a large number to mean that there is no edge."""

    def tree(self, values):
        return super().tree(values.clamp(max=1e9))


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


class LosesADeath(Forest):
    """Takes every graph for connected."""

    def from_edges(self, n, edges, values):
        critical = super().from_edges(n, edges, values)[0].death_edges
        missing = critical.new_zeros(n - 1 - len(critical), 2)
        return [topoloss.CriticalEdges(torch.cat((critical, missing)))]


class IgnoresIsolatedVertices(Forest):
    def rows(self, n, edges, values):
        if len(edges.unique()) < n > 1:
            raise ValueError("isolated vertices")
        return super().rows(n, edges, values)


class FailsWithoutEdges(Forest):
    def rows(self, n, edges, values):
        if n > 1:
            values.min()
        return super().rows(n, edges, values)


class DropsListedZeros(Forest):
    """As a sparse matrix of scipy does."""

    def rows(self, n, edges, values):
        rows = super().rows(n, edges, values)
        return rows[values[rows] != 0]


class JoinsByLoops(Forest):
    def rows(self, n, edges, values):
        loops = torch.nonzero(edges[:, 0] == edges[:, 1])[:, 0]
        return torch.cat((super().rows(n, edges, values), loops))


class SortsTheEnds(Forest):
    def from_edges(self, n, edges, values):
        (critical,) = super().from_edges(n, edges, values)
        return [topoloss.CriticalEdges(critical.death_edges.sort(-1).values)]


class AddsDuplicatesUp(Forest):
    """As a sparse matrix of scipy does too."""

    def rows(self, n, edges, values):
        code = edges.amin(1) * n + edges.amax(1)
        total = values.new_zeros(n * n).index_add(0, code, values)
        return super().rows(n, edges, total[code])


class TakesTheLastDuplicate(Forest):
    def rows(self, n, edges, values):
        rows = super().rows(n, edges.flip(0), values.flip(0))
        return len(edges) - 1 - rows


class ExpectsSortedLists(Forest):
    def rows(self, n, edges, values):
        return super().rows(n, edges, torch.arange(len(values)).double())


class NoBirths(Circles):
    def changed(self, circles):
        return circles._replace(birth_edges=None)


class LeavesEmptyDimensionsOut(Circles):
    def from_matrix(self, values):
        joined, circles = super().from_matrix(values)
        return [joined, circles] if len(circles.death_edges) else [joined]


class EveryBirthWrong(Circles):
    """Joins the first vertex of each birth edge to the vertex after it."""

    def changed(self, circles):
        first = circles.birth_edges[:, :1]
        return circles._replace(birth_edges=torch.cat((first, first + 1), 1))


class OneCircle(Circles):
    def changed(self, circles):
        return circles._replace(
            birth_edges=circles.birth_edges[:1], death_edges=circles.death_edges[:1]
        )


class CirclesOf127Edges(Circles):
    """Finds no circle in a clique of more edges than 7 bits can number."""

    max_vertices = 25

    def from_matrix(self, values):
        joined, circles = super().from_matrix(values)
        if len(values) * (len(values) - 1) / 2 > 127:
            circles = topoloss.CriticalEdges(*(edges[:0] for edges in circles))
        return [joined, circles]


class BirthsInTheWrongRows(Circles):
    def changed(self, circles):
        return circles._replace(birth_edges=circles.birth_edges.flip(0))


class DiesBeforeItIsBorn(Circles):
    def changed(self, circles):
        return circles._replace(birth_edges=circles.death_edges, death_edges=circles.birth_edges)


class NothingDies(Circles):
    """Gives one more class that is never filled, also in a clique."""

    def changed(self, circles):
        first = torch.cat((circles.essential_births, circles.birth_edges))[:1]
        return circles._replace(essential_births=torch.cat((circles.essential_births, first)))


class NothingIsEssential(Circles):
    def changed(self, circles):
        return circles._replace(essential_births=None)


class OtherNamesUnderTies(Circles):
    """Takes the highest vertices first where edges tie."""

    def from_matrix(self, values):
        found = super().from_matrix(values)
        other = boundary_reduction.of_matrix(values.flip(0, 1), 2)[1]
        other = [len(values) - 1 - edges for edges in other]
        return [found[0], topoloss.CriticalEdges(*other)]


class IntegersOf8Bits(Tree):
    """Takes at most 128 vertices, and is silently wrong beyond."""

    max_vertices = 128

    def tree(self, values):
        return super().tree(values).to(torch.int8).long()


class RawErrorBeyond(Tree):
    max_vertices = 50

    def from_matrix(self, values):
        if len(values) > 50:
            raise IndexError("index 51 is out of range")
        return super().from_matrix(values)


class Vague(Tree):
    max_vertices = 50

    def from_matrix(self, values):
        if len(values) > 50:
            raise topoloss.TooLargeError("too large")
        return super().from_matrix(values)


class FillsBeforeItRefuses(Tree):
    max_vertices = 50

    def from_matrix(self, values):
        self.check_limits(len(values), values.dtype)
        return super().from_matrix(values)

    def check_matrix(self, n, dtype):
        pass


class Float64Alone(Tree):
    """Reads the bytes of float32 as if they were half as many float64."""

    dtypes = frozenset({torch.float64})

    def tree(self, values):
        size = len(values)
        entries = values.contiguous().view(torch.float64).flatten()
        return super().tree(entries.repeat(2)[: size * size].view(size, size))


class PrimInTorch(topoloss.Persistence):
    """Nothing is wrong with this one, which leaves torch nowhere."""

    vmappable = True
    max_vertices = 20

    def from_matrix(self, values):
        self.check_limits(len(values), values.dtype)
        n = len(values)
        vertex = torch.arange(n, device=values.device)
        joined, upper = vertex == 0, vertex[:, None] < vertex
        edges = torch.zeros(0, 2, dtype=torch.int64, device=values.device)
        for _ in range(n - 1):
            cut = upper & (joined[:, None] != joined)
            k = torch.where(cut, values, torch.inf).flatten().argmin()
            edge = torch.stack((k // n, k % n))
            joined = joined | (vertex[:, None] == edge).any(1)
            edges = torch.cat((edges, edge[None]))
        return [topoloss.CriticalEdges(edges)]


class Prints(PrimInTorch):
    def from_matrix(self, values):
        print(end="")
        return super().from_matrix(values)


class HiddenDirection(Tree):
    """Draws once which end of an edge comes first."""

    def __init__(self):
        super().__init__()
        self.flipped = bool(torch.rand(()) < 0.5)

    def tree(self, values):
        edges = super().tree(values)
        return edges.flip(1) if self.flipped else edges


class KeepsALambda(Tree):
    def __init__(self):
        super().__init__()
        self.function = lambda x: x


class RefusesToBeCopied(Tree):
    def __deepcopy__(self, memo):
        raise TypeError("there is only one of me")


# The rules that each component breaks, in the order in which they are checked: what the
# component is about comes first.
BREAKS = {
    Tree: "",
    Forest: "",
    Circles: "",
    WrongFor: "",
    NoOperator: "operators",
    ForgetsItsOrders: "operators",
    LimitIsText: "operators edges_of_vertices points input_unchanged determinism memory "
    "random_state module_state leftovers layout spanning_tree reference negative_values digits "
    "sizes weight scale diagonal higher_dimensions boundary_reduction limits pickling deepcopy "
    "state_dict device",
    HalfPrecisionAlone: "operators edges_of_vertices points spanning_tree reference diagonal",
    DropsZeroDeaths: "points spanning_tree reference negative_values digits sizes",
    CountsFromOne: "edges_of_vertices spanning_tree reference negative_values digits sizes weight "
    "scale",
    NextVertex: "reference negative_values digits sizes weight scale",
    Cycle: "spanning_tree reference negative_values digits sizes weight scale",
    Int32: "edges_of_vertices",
    WithBirthsOfVertices: "edges_of_vertices",
    HighestIndicesFirst: "reference negative_values digits sizes scale",
    CachesByShape: "memory",
    CachesByAddress: "memory",
    ListCachedByShape: "memory",
    AbsoluteValues: "negative_values",
    MinusZeroFirst: "negative_values",
    ListedAbsoluteValues: "negative_values forest",
    RoundsToFloat32: "digits scale",
    RoundsListsToFloat32: "digits scale",
    RoundsFeaturesToFloat32: "digits scale",
    RoundsFeaturesToTF32: "digits",
    OnTheCpu: "device",
    ListsOnTheCpu: "device",
    RefusesMatricesAlone: "device",
    RawDeviceError: "device",
    LeavesGradientsOff: "leftovers",
    HooksEachCall: "leftovers",
    ReadsMatricesAsStored: "layout",
    ReadsFeaturesAsStored: "layout scale",
    ReadsListsAsStored: "layout",
    ReadsListedValuesAsStored: "layout",
    WrongAbove300: "sizes",
    WrongForOddAbove40: "sizes",
    WrongForFullBlocks: "sizes",
    WrongForFullBlocksOfFloat32: "sizes",
    WrongForOddManyOfFloat64: "sizes",
    SkipsTheBordersOfBlocks: "sizes",
    ListWrongAbove300: "sizes forest",
    Heaviest: "reference negative_values digits sizes weight scale",
    LowPrecision: "digits weight scale",
    First8Features: "features scale",
    SquaresOverflow: "scale",
    LeavesLongEdgesOut: "scale",
    FixedPoint: "weight scale",
    LooksAtTheDiagonal: "diagonal",
    ClearsTheDiagonal: "input_unchanged",
    Shuffles: "determinism memory diagonal",
    SeedsTheWorldOfTrees: "random_state",
    CountsTrees: "module_state",
    ClaimsToBeMapped: "vmap compilation",
    UnknownOrder: "operators edges_of_vertices points input_unchanged determinism memory "
    "random_state module_state leftovers layout spanning_tree reference digits sizes weight scale "
    "higher_dimensions pickling deepcopy state_dict device",
    NegativeDots: "reference sizes weight scale",
    LosesADeath: "components forest",
    IgnoresIsolatedVertices: "components forest higher_dimensions",
    FailsWithoutEdges: "components forest higher_dimensions",
    DropsListedZeros: "points spanning_tree reference negative_values digits sizes components "
    "forest",
    JoinsByLoops: "components forest",
    SortsTheEnds: "components forest",
    AddsDuplicatesUp: "forest",
    TakesTheLastDuplicate: "forest",
    ExpectsSortedLists: "reference negative_values digits sizes weight scale forest",
    NoBirths: "higher_dimensions boundary_reduction",
    LeavesEmptyDimensionsOut: "higher_dimensions",
    EveryBirthWrong: "boundary_reduction",
    OneCircle: "boundary_reduction",
    CirclesOf127Edges: "boundary_reduction",
    BirthsInTheWrongRows: "boundary_reduction",
    DiesBeforeItIsBorn: "boundary_reduction",
    NothingDies: "boundary_reduction",
    NothingIsEssential: "boundary_reduction",
    OtherNamesUnderTies: "boundary_reduction",
    IntegersOf8Bits: "limits",
    RawErrorBeyond: "limits",
    Vague: "limits",
    FillsBeforeItRefuses: "limits",
    Float64Alone: "limits",
    PrimInTorch: "",
    Prints: "compilation",
    HiddenDirection: "state_dict",
    KeepsALambda: "pickling",
    RefusesToBeCopied: "deepcopy",
}
