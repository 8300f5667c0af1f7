"""Components with one thing wrong each, and one of every kind with nothing wrong."""

import threading

import torch

import topoloss
from topoloss.testing.kruskal import Kruskal

# Filtrations


class Cosine(topoloss.Filtration):
    """Nothing is wrong with this one."""

    order = "abs_dot_descending"

    def vertices(self, x):
        x = x.to(torch.promote_types(x.dtype, torch.float32)).T
        zero = (x == 0).all(1, keepdim=True)
        return torch.where(zero, 0, x / torch.where(zero, 1, x).norm(dim=1, keepdim=True))

    def edge_values(self, v, i, j):
        return 1 - (v[i] * v[j]).sum(-1).abs()


class _Negated(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


class _DifferentiableOnce(_Negated):
    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return gradient.clone()


class WrongSign(Cosine):
    def vertices(self, x):
        return _Negated.apply(super().vertices(x))


class DifferentiableOnce(Cosine):
    def vertices(self, x):
        return _DifferentiableOnce.apply(super().vertices(x))


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
        return x / x.norm(dim=1, keepdim=True)


class NanGradientAtDuplicates(topoloss.Filtration):
    order = "sq_dist_ascending"

    def vertices(self, x):
        return x.T.to(torch.promote_types(x.dtype, torch.float32))

    def edge_values(self, v, i, j):
        return (v[i] - v[j]).square().sum(-1).sqrt()


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


class ForgetsItsBase(Cosine):
    def __init__(self):
        self.power = 2


class NeedsAnOption(Cosine):
    def __init__(self, power):
        super().__init__()


class NotAComponent(torch.nn.Module):
    pass


# Persistence


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


# Losses


class Sum(topoloss.Loss):
    """Nothing is wrong with this one."""

    def forward(self, diagrams):
        return -(diagrams[0].weights * diagrams[0].deaths).sum()


class SampleT2(topoloss.Loss):
    """Divides by one less than the number of deaths; a loss, but not T2."""

    def forward(self, diagrams):
        d = diagrams[0]
        count = d.weights.sum().clamp(min=1)
        mean = (d.weights * d.deaths).sum() / count
        variance = (d.weights * (d.deaths - mean).square()).sum() / (count - 1).clamp(min=1)
        positive = variance.detach() > 1e-30
        std = torch.where(positive, torch.where(positive, variance, 1).sqrt(), 0)
        return (std - mean) / 2


class NegatedSum(Sum):
    def forward(self, diagrams):
        return _Negated.apply(super().forward(diagrams))


class DetachedSum(Sum):
    def forward(self, diagrams):
        return super().forward(diagrams).detach() + 0 * diagrams[0].deaths.sum()


class ForgetsTheDeaths(Sum):
    def forward(self, diagrams):
        return super().forward(diagrams).detach()


class Weightless(Sum):
    def forward(self, diagrams):
        return diagrams[0].deaths.sum()


class Mean(Sum):
    def forward(self, diagrams):
        return super().forward(diagrams) / diagrams[0].weights.sum()


class Norm(Sum):
    def forward(self, diagrams):
        return (diagrams[0].weights * diagrams[0].deaths.square()).sum().sqrt()


class NewZero(Sum):
    def forward(self, diagrams):
        if len(diagrams[0].deaths) == 0:
            return diagrams[0].deaths.new_zeros(())
        return super().forward(diagrams)


class EachPoint(Sum):
    def forward(self, diagrams):
        return diagrams[0].weights * diagrams[0].deaths


class HalvesDeaths(Sum):
    def forward(self, diagrams):
        diagrams[0].deaths.mul_(0.5)
        return super().forward(diagrams)


class BranchingSum(Sum):
    def forward(self, diagrams):
        value = super().forward(diagrams)
        return value if value > -1 else 2 * value


class SingleSum(Sum):
    def forward(self, diagrams):
        return super().forward(diagrams).float()


class RandomSum(Sum):
    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, diagrams):
        return super().forward(diagrams) * (1 + torch.rand((), generator=self.generator))


class TrainedSum(Sum):
    def forward(self, diagrams):
        self.train()
        return super().forward(diagrams)


class HiddenScale(Sum):
    def __init__(self):
        super().__init__()
        self.scale = torch.rand(()).item()

    def forward(self, diagrams):
        return self.scale * super().forward(diagrams)


# Regularisers


class Mse(topoloss.Regulariser):
    """Nothing is wrong with this one."""

    def compute(self, x):
        return x.to(torch.promote_types(x.dtype, torch.float32)).square().mean()


class DetachedMse(Mse):
    def compute(self, x):
        return super().compute(x.detach()) + 0 * x.sum()


class ForgetsTheGraph(Mse):
    def compute(self, x):
        return super().compute(x.detach())


class NewZeroForOne(Mse):
    def compute(self, x):
        return super().compute(x) if x.shape[1] > 1 else x.new_zeros(())


class MeanOfPairs(Mse):
    """Divides by the number of pairs, which is 0 for one neuron."""

    def compute(self, x):
        n = x.shape[1]
        return super().compute(x) / torch.tensor(n * (n - 1) / 2)


class NormOfNeurons(Mse):
    def compute(self, x):
        return x.to(torch.promote_types(x.dtype, torch.float32)).square().sum(0).sqrt().sum()


class TakesNan(Mse):
    def forward(self, x):
        return torch.stack([self(y) for y in x]) if isinstance(x, list) else self.each(x)

    def each(self, x):
        return x.nan_to_num().square().mean((-1, -2))


class OneForAll(Mse):
    def forward(self, x):
        return super().forward(x).mean()


class BranchingMse(Mse):
    def compute(self, x):
        return super().compute(x if x.sum() > 0 else -x)


class SumsOverTheBatch(Mse):
    def forward(self, x):
        value = super().forward(x)
        return value + value.sum()


class CentresActivations(Mse):
    def compute(self, x):
        x -= x.mean(0)
        return super().compute(x)


class ByEdge(topoloss.Pipeline):
    """Weighs deaths by where they are, and jumps when the tree does."""

    def __init__(self):
        stages = topoloss.filtration("correlation"), topoloss.persistence("mst")
        super().__init__(*stages, topoloss.loss("t1"))

    def compute(self, x):
        diagram = self._diagrams(x)[0]
        return (diagram.deaths * (1 + diagram.death_edges.sum(1))).sum()


class ShortDiagrams(topoloss.Pipeline):
    def __init__(self):
        filtration = topoloss.filtration("correlation")
        super().__init__(filtration, DropsZeroDeaths(), topoloss.loss("t1"))


class NegatedMse(Mse):
    def compute(self, x):
        return _Negated.apply(super().compute(x))


class HalfMse(Mse):
    def compute(self, x):
        return super().compute(x.bfloat16())


class NoisyMse(Mse):
    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def compute(self, x):
        return super().compute(x) * (1 + torch.rand((), generator=self.generator))


class SeedingMse(Mse):
    def compute(self, x):
        torch.manual_seed(0)
        return super().compute(x)


class EachNeuron(Mse):
    def compute(self, x):
        return x.square().mean(0)


class DetachedNorm(topoloss.Regulariser):
    source = "parameters"

    def compute(self, parameters):
        return sum(p.detach().square().sum() for p in parameters.values())


class DoublesTheWeights(topoloss.Regulariser):
    source = "parameters"

    def compute(self, parameters):
        return sum(p.data.mul_(2).square().sum() + 0 * p.sum() for p in parameters.values())


class NormOfWeights(topoloss.Regulariser):
    source = "weights"

    def compute(self, weights):
        return sum(w.square().sum().sqrt() for w in weights.values())


# Samplers


class First(topoloss.Sampler):
    """Nothing is wrong with this one."""

    def __init__(self, *, fraction=1.0):
        self.fraction = fraction

    def select(self, x):
        return torch.arange(x.shape[1] * round(1000 * self.fraction) // 1000)


class Mask(First):
    def select(self, x):
        return x[0] > 0


class FromOne(First):
    def select(self, x):
        return super().select(x) + 1


class Descending(First):
    def select(self, x):
        return super().select(x).flip(0)


class WithReplacement(First):
    def select(self, x):
        chosen = super().select(x)
        return chosen[: len(chosen) // 2].repeat_interleave(2)


class Rounds(First):
    def select(self, x):
        return torch.arange(round(x.shape[1] * self.fraction))


class Unseeded(First):
    def select(self, x):
        generator = torch.Generator()
        generator.seed()
        return torch.randperm(x.shape[1], generator=generator)[:3].sort().values


class Global(First):
    def select(self, x):
        torch.manual_seed(0)
        return super().select(x)


class Sorts(First):
    def select(self, x):
        x.abs_()
        return super().select(x)
