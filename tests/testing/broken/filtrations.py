"""Filtrations with one thing wrong each, after one with nothing wrong."""

import threading

import torch
from testing.broken import autograd

import topoloss


class Cosine(topoloss.Filtration):
    """Nothing is wrong with this one."""

    order = "abs_dot_descending"

    def vertices(self, x):
        x = x.to(torch.promote_types(x.dtype, torch.float32)).T
        zero = (x == 0).all(1, keepdim=True)
        x = torch.where(zero, 1, x)
        x = x / x.detach().abs().amax(1, keepdim=True)
        return torch.where(zero, 0, x / x.norm(dim=1, keepdim=True))

    def edge_values(self, v, i, j):
        return 1 - (v[i] * v[j]).sum(-1).abs()


class WrongSign(Cosine):
    def vertices(self, x):
        return autograd.Negated.apply(super().vertices(x))


class DifferentiableOnce(Cosine):
    def vertices(self, x):
        return autograd.DifferentiableOnce.apply(super().vertices(x))


class WrongSignInFloat32(Cosine):
    def vertices(self, x):
        return autograd.NegatedInFloat32.apply(super().vertices(x))


class Detached(Cosine):
    def edge_values(self, v, i, j):
        return super().edge_values(v.detach(), i, j)


class PartlyDetached(Cosine):
    def edge_values(self, v, i, j):
        return 1 - (v[i].detach() * v[j]).sum(-1).abs()


class OffByOne(Cosine):
    def edge_values(self, v, i, j):
        return super().edge_values(v, i - 1, j)


class OffByOneAtBothEnds(Cosine):
    def edge_values(self, v, i, j):
        return super().edge_values(v, i - 1, j - 1)


class Asymmetric(Cosine):
    order = None

    def edge_values(self, v, i, j):
        return super().edge_values(v, i, j) + 0.01 * v[i, 0]


class WrongOrder(Cosine):
    order = "dot_descending"


class TwoValuesOfOneKey(Cosine):
    """Puts constant neurons further off than orthogonal ones: both have the dot product 0."""

    def edge_values(self, v, i, j):
        zero = (v[i] == 0).all(-1) | (v[j] == 0).all(-1)
        return super().edge_values(v, i, j) + zero.to(v.dtype)


class ReversedOrder(topoloss.Filtration):
    order = "sq_dist_ascending"

    def vertices(self, x):
        return x.T.to(torch.promote_types(x.dtype, torch.float32))

    def edge_values(self, v, i, j):
        return torch.exp(-(v[i] - v[j]).square().mean(-1))


class MisspeltOrder(Cosine):
    order = "abs_dot_descendin"


class CentresInPlace(Cosine):
    def vertices(self, x):
        x -= x.mean(0)
        return super().vertices(x)


class HalvesVerticesInPlace(Cosine):
    def edge_values(self, v, i, j):
        return super().edge_values(v.mul_(0.5), i, j)


class Noisy(Cosine):
    def __init__(self):
        super().__init__()
        self.noise = torch.Generator().manual_seed(0)

    def edge_values(self, v, i, j):
        values = super().edge_values(v, i, j)
        return values + 1e-3 * torch.rand(i.shape, generator=self.noise)


class SeedsTheWorld(Cosine):
    def vertices(self, x):
        torch.manual_seed(0)
        return super().vertices(x)


class NanAtConstants(Cosine):
    def vertices(self, x):
        x = x.to(torch.promote_types(x.dtype, torch.float32)).T
        x = x / x.detach().abs().amax(1, keepdim=True)
        return x / x.norm(dim=1, keepdim=True)


class LogarithmOfProducts(topoloss.Filtration):
    """NaN wherever a product is below 0, also in general position."""

    def vertices(self, x):
        return x.T.to(torch.promote_types(x.dtype, torch.float32))

    def edge_values(self, v, i, j):
        return (v[i] * v[j]).mean(-1).log()


class NanGradientAtDuplicates(topoloss.Filtration):
    order = "sq_dist_ascending"

    def vertices(self, x):
        return x.T.to(torch.promote_types(x.dtype, torch.float32))

    def edge_values(self, v, i, j):
        largest = v.detach().abs().amax()
        scale = torch.where(largest > 0, largest, 1)
        return ((v[i] - v[j]) / scale).square().sum(-1).sqrt() * scale


class SinglePrecision(Cosine):
    def vertices(self, x):
        return super().vertices(x.float())


class RefusesHalf(Cosine):
    def vertices(self, x):
        if x.dtype == torch.float16:
            raise ValueError("float16 is not implemented")
        return super().vertices(x)


class Branching(Cosine):
    def vertices(self, x):
        return super().vertices(x if x.sum() > 0 else -x)


class WrongSignUnderVmap(Cosine):
    def vertices(self, x):
        return autograd.NegatedUnderVmap.apply(super().vertices(x))


class Prints(Cosine):
    def vertices(self, x):
        print(end="")
        return super().vertices(x)


class KeepsALambda(Cosine):
    def __init__(self):
        super().__init__()
        self.function = lambda x: x


class KeepsALock(Cosine):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


class RefusesToBeCopied(Cosine):
    def __deepcopy__(self, memo):
        raise TypeError("there is only one of me")


class HidesAParameter(Cosine):
    def __init__(self):
        super().__init__()
        self.scale = 1 + torch.rand(()).item()

    def edge_values(self, v, i, j):
        return self.scale * super().edge_values(v, i, j)


class SwitchesToEval(Cosine):
    def vertices(self, x):
        self.eval()
        return super().vertices(x)


class CountsCalls(Cosine):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def vertices(self, x):
        self.calls += 1
        return super().vertices(x)


class OtherPairs(Cosine):
    @torch.no_grad()
    def pairwise(self, v):
        return 1 - v @ v.T


class PairsWithAGraph(Cosine):
    def pairwise(self, v):
        return 1 - (v @ v.T).abs()


class Column(Cosine):
    def edge_values(self, v, i, j):
        return super().edge_values(v, i, j)[:, None]


class Transposed(Cosine):
    def vertices(self, x):
        return super().vertices(x).T


class DoubledAtDuplicates(topoloss.Filtration):
    """The gradient is doubled between two equal neurons, and right everywhere else."""

    def vertices(self, x):
        return x.T.to(torch.promote_types(x.dtype, torch.float32))

    def edge_values(self, v, i, j):
        dot = (v[i] * v[j]).mean(-1)
        return -torch.where((v[i] == v[j]).all(-1), 2 * dot - dot.detach(), dot)


class SteepAtRightAngles(Cosine):
    """Slope 2 where the value has a kink of slopes -1 and 1."""

    def edge_values(self, v, i, j):
        dot = (v[i] * v[j]).sum(-1)
        return 1 - torch.where(dot == 0, 2 * dot, dot.abs())


class WrongFrom300(Cosine):
    def edge_values(self, v, i, j):
        return super().edge_values(v, i, j) * (1 if len(v) < 300 else 1.1)


class WrongGradientFrom300(Cosine):
    def edge_values(self, v, i, j):
        values = super().edge_values(v, i, j)
        return values if len(v) < 300 else autograd.Negated.apply(values)


class WrongPairsOfOddMany(Cosine):
    @torch.no_grad()
    def pairwise(self, v):
        values = 1 - (v @ v.T).abs()
        if len(v) > 40 and len(v) % 2:
            values[-1] = 0
        return values


class WrongPairsOfOddManyInFloat32(Cosine):
    @torch.no_grad()
    def pairwise(self, v):
        values = 1 - (v @ v.T).abs()
        if len(v) > 40 and len(v) % 2 and v.dtype == torch.float32:
            values[-1] = 0
        return values


class PairsOf512(Cosine):
    @torch.no_grad()
    def pairwise(self, v):
        values = 1 - (v @ v.T).abs()
        values[512:] = 0
        return values


class PairsReadFromMemory(Cosine):
    @torch.no_grad()
    def pairwise(self, v):
        rows = v.as_strided(v.shape, (v.shape[1], 1))
        return 1 - (rows @ rows.T).abs()


class CachesByShape(Cosine):
    def __init__(self):
        super().__init__()
        self.cache = {}

    def vertices(self, x):
        key = x.shape, x.dtype
        if key not in self.cache:
            self.cache[key] = x.detach().norm(dim=0)
        return super().vertices(x) + 1e-3 * self.cache[key][:, None].to(x.dtype)


class RoundsToSingle(Cosine):
    def edge_values(self, v, i, j):
        return super().edge_values(v, i, j).float().to(v.dtype)


class ReadsMemory(Cosine):
    """Takes rows to lie one after another in memory."""

    def vertices(self, x):
        return super().vertices(x.as_strided(x.shape, (x.shape[1], 1)))


class RelativeToTheLargest(Cosine):
    def edge_values(self, v, i, j):
        values = super().edge_values(v, i, j)
        return values / values.detach().amax().clamp(min=0.1) if len(i) else values


class SlightlyAsymmetric(Cosine):
    def edge_values(self, v, i, j):
        return super().edge_values(v, i, j) * (1 + 1e-9 * v[i, 0])


class NanWeights(Cosine):
    def edge_weights(self, v, i, j):
        return v[i].norm(dim=1) / v[i].norm(dim=1)


class AsymmetricWeights(Cosine):
    def edge_weights(self, v, i, j):
        return v[i, 0].abs()


class WeightsOfTheEdgeBefore(Cosine):
    def edge_weights(self, v, i, j):
        live = (v != 0).any(1)
        return (live[i - 1] & live[j - 1]).to(v.dtype)


class BooleanWeights(Cosine):
    def edge_weights(self, v, i, j):
        return (v[i] != 0).any(1) & (v[j] != 0).any(1)


class WeightsOnTheCpu(Cosine):
    def edge_weights(self, v, i, j):
        return torch.ones(len(i), dtype=v.dtype)


class BranchingWeights(Cosine):
    def edge_weights(self, v, i, j):
        weights = (v[i] * v[j] != 0).any(1).to(v.dtype)
        return weights if weights.sum() >= 0 else weights + 1


class PairsOnTheCpu(Cosine):
    @torch.no_grad()
    def pairwise(self, v):
        return torch.ones(len(v), len(v), dtype=v.dtype) - (v @ v.T).abs()


class BranchingPairs(Cosine):
    @torch.no_grad()
    def pairwise(self, v):
        values = 1 - (v @ v.T).abs()
        return values if values.min() >= 0 else values.clamp(min=0)


class PairsCachedByShape(Cosine):
    def __init__(self):
        super().__init__()
        self.cache = {}

    @torch.no_grad()
    def pairwise(self, v):
        key = v.shape, v.dtype
        if key not in self.cache:
            self.cache[key] = 1 - (v @ v.T).abs()
        return self.cache[key]


class PairsThatSeedTheWorld(Cosine):
    @torch.no_grad()
    def pairwise(self, v):
        torch.manual_seed(0)
        return 1 - (v @ v.T).abs()


class ValuesAllPairs(Cosine):
    def edge_values(self, v, i, j):
        return (1 - (v @ v.T).abs())[i, j]


class CubicPairs(Cosine):
    @torch.no_grad()
    def pairwise(self, v):
        values = 1 - (v @ v.T).abs()
        return values + 0 * (values @ values)


class Overflows(Cosine):
    def vertices(self, x):
        x = x.to(torch.promote_types(x.dtype, torch.float32)).T
        zero = (x == 0).all(1, keepdim=True)
        return torch.where(zero, 0, x / torch.where(zero, 1, x).norm(dim=1, keepdim=True))


class Underflows(Cosine):
    """Divides by no number below 1 before it takes squares."""

    def vertices(self, x):
        x = x.to(torch.promote_types(x.dtype, torch.float32)).T
        zero = (x == 0).all(1, keepdim=True)
        x = torch.where(zero, 1, x)
        x = x / x.detach().abs().amax(1, keepdim=True).clamp(min=1)
        return torch.where(zero, 0, x / x.norm(dim=1, keepdim=True))


class First32Samples(Cosine):
    def vertices(self, x):
        return super().vertices(x[:32])


class DividesByOneLess(topoloss.Filtration):
    """Divides by one less than the number of samples."""

    def vertices(self, x):
        x = x.T.to(torch.promote_types(x.dtype, torch.float32))
        return x / (x.shape[1] - 1)

    def edge_values(self, v, i, j):
        return (v[i] - v[j]).abs().sum(-1)


class OnTheCpu(Cosine):
    def edge_values(self, v, i, j):
        return super().edge_values(v, i, j) * torch.ones(len(i), dtype=v.dtype)


class BackwardOnTheCpu(Cosine):
    def vertices(self, x):
        return autograd.BackwardOnTheCpu.apply(super().vertices(x))


class TableOnTheCpu(Cosine):
    """Looks edges up in a table that does not follow the input."""

    def __init__(self):
        super().__init__()
        self.table = torch.ones(2000)

    def edge_values(self, v, i, j):
        return super().edge_values(v, i, j) * self.table[i].to(v.dtype)


class ZeroSurrogate(Cosine):
    """Declares a surrogate gradient, and has none."""

    surrogate_gradient = True

    def edge_values(self, v, i, j):
        return super().edge_values(v, i, j).detach() + 0 * v.sum()


class Path(topoloss.Filtration):
    """Nothing is wrong with this graph: each neuron is joined to the next one."""

    first = 0

    def vertices(self, x):
        return (x.mean(0),)

    def edges(self, v):
        start = torch.arange(len(v[0]) - 1, device=v[0].device) + self.first
        return len(v[0]), torch.stack((start, start + 1), 1)

    def edge_values(self, v, i, j):
        return (v[0][i] - v[0][j]).abs()


class PathFromOne(Path):
    first = 1


class PathOfLoops(Path):
    def edges(self, v):
        n, edges = super().edges(v)
        return n, edges[:, :1].expand(-1, 2)


class PathOfInt32(Path):
    def edges(self, v):
        n, edges = super().edges(v)
        return n, edges.int()


class WeightsByPlace(Path):
    def edge_weights(self, v, i, j):
        return torch.arange(len(i), dtype=v[0].dtype, device=i.device)


def do_nothing(*_):
    pass


class AddsHooks(Cosine):
    def vertices(self, x):
        self.register_load_state_dict_post_hook(do_nothing)
        return super().vertices(x)


class Teeth(Cosine):
    """Falls from 1 to 0 at each of a few places, where the edge enters the tree."""

    order = None

    def edge_values(self, v, i, j):
        values = 7.3 * super().edge_values(v, i, j) + 0.123
        return values - values.detach().floor()


# The rules that each component breaks, in the order in which they are checked: what the
# component is about comes first.
BREAKS = {
    Cosine: "",
    WrongSign: "gradient second_gradient ties many change_of_tree",
    DifferentiableOnce: "second_gradient",
    WrongSignInFloat32: "precision",
    Detached: "graph change_of_tree",
    PartlyDetached: "gradient second_gradient ties many change_of_tree",
    OffByOne: "locality symmetry pairwise order_hint",
    OffByOneAtBothEnds: "locality order_hint",
    Asymmetric: "symmetry pairwise",
    WrongOrder: "order_hint",
    TwoValuesOfOneKey: "order_hint",
    ReversedOrder: "order_hint",
    MisspeltOrder: "order_hint",
    CentresInPlace: "input_unchanged determinism memory leftovers precision layout scale tiny "
    "graph gradient second_gradient finite_gradients ties many change_of_tree vmap compilation "
    "pickling deepcopy state_dict device",
    HalvesVerticesInPlace: "vertices_unchanged edges_alone symmetry pairwise cost change_of_tree",
    Noisy: "determinism memory precision edges_alone locality symmetry pairwise order_hint "
    "gradient many vmap compilation device",
    SeedsTheWorld: "random_state compilation",
    LogarithmOfProducts: "finite precision edges_alone locality symmetry pairwise scale tiny "
    "samples gradient finite_gradients ties many change_of_tree",
    NanAtConstants: "finite order_hint finite_gradients",
    NanGradientAtDuplicates: "finite_gradients ties",
    SinglePrecision: "precision scale gradient second_gradient ties many change_of_tree",
    RefusesHalf: "precision",
    Branching: "vmap compilation",
    WrongSignUnderVmap: "vmap",
    Prints: "compilation",
    KeepsALambda: "pickling",
    KeepsALock: "pickling deepcopy",
    RefusesToBeCopied: "deepcopy",
    HidesAParameter: "state_dict",
    SwitchesToEval: "module_state",
    CountsCalls: "module_state",
    OtherPairs: "pairwise",
    PairsWithAGraph: "pairwise",
    Column: "shapes input_unchanged vertices_unchanged determinism memory random_state "
    "module_state leftovers layout locality pairwise order_hint cost change_of_tree vmap "
    "compilation pickling deepcopy state_dict device",
    Transposed: "shapes edges_alone locality symmetry pairwise order_hint edge_weights cost "
    "samples many",
    DoubledAtDuplicates: "ties",
    SteepAtRightAngles: "ties",
    WrongFrom300: "locality",
    WrongGradientFrom300: "many",
    WrongPairsOfOddMany: "pairwise",
    WrongPairsOfOddManyInFloat32: "pairwise",
    PairsOf512: "pairwise",
    PairsReadFromMemory: "layout pairwise",
    CachesByShape: "memory",
    RoundsToSingle: "precision gradient second_gradient ties many change_of_tree",
    ReadsMemory: "layout",
    RelativeToTheLargest: "edges_alone pairwise gradient second_gradient ties many change_of_tree",
    SlightlyAsymmetric: "symmetry",
    NanWeights: "edge_weights",
    AsymmetricWeights: "edge_weights",
    WeightsOfTheEdgeBefore: "edge_weights",
    BooleanWeights: "edge_weights",
    ValuesAllPairs: "cost",
    CubicPairs: "cost",
    WeightsOnTheCpu: "device",
    BranchingWeights: "vmap compilation",
    PairsOnTheCpu: "device",
    BranchingPairs: "vmap compilation",
    PairsCachedByShape: "memory",
    PairsThatSeedTheWorld: "random_state compilation",
    Overflows: "scale tiny",
    Underflows: "tiny",
    First32Samples: "samples",
    DividesByOneLess: "samples",
    OnTheCpu: "device",
    BackwardOnTheCpu: "device",
    TableOnTheCpu: "device",
    ZeroSurrogate: "graph",
    Path: "",
    PathFromOne: "listed_edges shapes finite input_unchanged vertices_unchanged determinism "
    "memory random_state module_state leftovers precision layout edges_alone scale tiny samples "
    "graph gradient second_gradient finite_gradients ties many vmap compilation pickling deepcopy "
    "state_dict device",
    PathOfLoops: "listed_edges",
    PathOfInt32: "listed_edges shapes finite input_unchanged vertices_unchanged determinism "
    "memory random_state module_state leftovers precision layout edges_alone locality symmetry "
    "pairwise edge_weights cost scale tiny samples graph gradient second_gradient "
    "finite_gradients ties many change_of_tree vmap compilation pickling deepcopy state_dict "
    "device",
    WeightsByPlace: "edge_weights",
    AddsHooks: "leftovers compilation",
    Teeth: "change_of_tree",
}
