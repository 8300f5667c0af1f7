"""Losses with one thing wrong each, after one with nothing wrong."""

import random

import torch
from testing.broken import autograd

import topoloss


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
        scale = 1 + d.deaths.detach().sum()
        deviation = d.weights * ((d.deaths - mean) / scale).square()
        variance = deviation.sum() / (count - 1).clamp(min=1)
        positive = variance.detach() > 1e-30
        std = torch.where(positive, torch.where(positive, variance, 1).sqrt(), 0)
        return (std * scale - mean) / 2


class NegatedSum(Sum):
    def forward(self, diagrams):
        return autograd.Negated.apply(super().forward(diagrams))


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


class GuardedMean(Sum):
    """The mean, but of no weight at all NaN."""

    def forward(self, diagrams):
        d = diagrams[0]
        return d.deaths.sum() if len(d.deaths) == 0 else super().forward(diagrams) / d.weights.sum()


class Weighed(torch.autograd.Function):
    """The sum of weighted deaths, with a gradient that forgets the weights."""

    generate_vmap_rule = True

    @staticmethod
    def forward(weights, deaths):
        return (weights * deaths).sum()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.shape = inputs[1].shape

    @staticmethod
    def backward(ctx, gradient):
        return None, gradient.expand(ctx.shape)


class WeightlessGradient(Sum):
    def forward(self, diagrams):
        return Weighed.apply(diagrams[0].weights, diagrams[0].deaths)


class Norm(Sum):
    def forward(self, diagrams):
        scale = 1 + diagrams[0].deaths.detach().sum()
        squares = (diagrams[0].deaths / scale).square()
        return (diagrams[0].weights * squares).sum().sqrt() * scale


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


class SeedsPython(Sum):
    def forward(self, diagrams):
        random.seed(0)
        return super().forward(diagrams)


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


class LargestOfAll(Sum):
    """The largest death, with a gradient of 1 at each of several equal ones."""

    def forward(self, diagrams):
        d = diagrams[0]
        x = torch.cat((0 * d.deaths.sum()[None], d.weights * d.deaths))
        largest = x.detach().amax()
        equal = x.detach() == largest
        return (equal * x).sum() - (equal.sum() - 1) * largest


class WeightlessInDimension1(Sum):
    def forward(self, diagrams):
        return super().forward(diagrams) + sum(d.lifetimes.sum() for d in diagrams[1:])


class NeedsDimension1(Sum):
    def forward(self, diagrams):
        return super().forward(diagrams) + 0 * diagrams[1].deaths.sum()


class OneDiagram(Sum):
    def forward(self, diagrams):
        (diagram,) = diagrams
        return super().forward([diagram])


class First300(Sum):
    def forward(self, diagrams):
        d = diagrams[0]
        return -(d.weights * d.deaths)[:300].sum()


class WrongGradientFrom300(Sum):
    def forward(self, diagrams):
        value = super().forward(diagrams)
        return value if len(diagrams[0].deaths) < 300 else 2 * value - value.detach()


class RemembersByShape(Sum):
    def __init__(self):
        super().__init__()
        self.means = {}

    def forward(self, diagrams):
        deaths = diagrams[0].deaths
        mean = self.means.setdefault((deaths.shape, deaths.dtype), deaths.detach().sum())
        return super().forward(diagrams) * (1 + mean / (1 + mean))


class SquaresFirst(Sum):
    def forward(self, diagrams):
        squares = (diagrams[0].weights * diagrams[0].deaths.square()).sum()
        return torch.where(squares > 0, torch.where(squares > 0, squares, 1).sqrt(), squares)


class FourthPowersFirst(Sum):
    """Overflows at the scale 2**40 already."""

    def forward(self, diagrams):
        powers = (diagrams[0].weights * diagrams[0].deaths ** 4).sum()
        return torch.where(powers > 0, torch.where(powers > 0, powers, 1) ** 0.25, powers)


class Underflows(Sum):
    """Divides by no number below 1 before it takes squares."""

    def forward(self, diagrams):
        d = diagrams[0].weights * diagrams[0].deaths
        zero = (d == 0).all()
        unit = torch.cat((d.detach().abs(), d.new_ones(1))).amax()
        squares = (d / unit).square().sum()
        return unit * torch.where(zero, squares, squares / torch.where(zero, 1, squares).sqrt())


class OnTheCpu(Sum):
    def forward(self, diagrams):
        d = diagrams[0]
        return -(torch.ones(len(d.deaths)) * d.weights * d.deaths).sum()


class StacksAZeroOfTheCpu(Sum):
    def forward(self, diagrams):
        values = [torch.tensor(0.0, dtype=diagrams[0].deaths.dtype), super().forward(diagrams)]
        return torch.stack(values).sum()


def do_nothing(*_):
    pass


class KeepsALambda(Sum):
    def __init__(self):
        super().__init__()
        self.function = lambda x: x


class RefusesToBeCopied(Sum):
    def __deepcopy__(self, memo):
        raise TypeError("there is only one of me")


class Prints(Sum):
    def forward(self, diagrams):
        print(end="")
        return super().forward(diagrams)


class AddsHooks(Sum):
    def forward(self, diagrams):
        self.register_load_state_dict_post_hook(do_nothing)
        return super().forward(diagrams)


class DifferentiableOnce(Sum):
    def forward(self, diagrams):
        return autograd.DifferentiableOnce.apply(super().forward(diagrams))


class ReadsMemory(Sum):
    """Takes deaths to lie one after another in memory."""

    def forward(self, diagrams):
        deaths = diagrams[0].deaths
        return -(diagrams[0].weights * deaths.as_strided(deaths.shape, (1,))).sum()


# The rules that each component breaks, in the order in which they are checked: what the
# component is about comes first.
BREAKS = {
    Sum: "",
    SampleT2: "",
    NegatedSum: "gradient ties many",
    DetachedSum: "gradient many",
    ForgetsTheDeaths: "graph empty",
    Weightless: "weights",
    Mean: "finite empty weights",
    GuardedMean: "weights",
    WeightlessGradient: "weights",
    Norm: "finite_gradients ties weights",
    NewZero: "empty",
    EachPoint: "shapes weights",
    HalvesDeaths: "input_unchanged determinism memory leftovers precision layout scale tiny graph "
    "empty gradient second_gradient finite_gradients many weights vmap compilation pickling "
    "deepcopy state_dict device",
    BranchingSum: "vmap compilation",
    SingleSum: "precision gradient second_gradient ties many",
    RandomSum: "determinism memory precision gradient second_gradient many weights vmap "
    "compilation",
    SeedsPython: "random_state compilation",
    TrainedSum: "module_state",
    HiddenScale: "state_dict",
    LargestOfAll: "ties",
    WeightlessInDimension1: "weights",
    NeedsDimension1: "dimensions",
    OneDiagram: "dimensions shapes finite input_unchanged determinism memory random_state "
    "module_state leftovers precision layout scale tiny graph empty gradient second_gradient "
    "finite_gradients ties many weights vmap compilation pickling deepcopy state_dict device",
    First300: "weights",
    WrongGradientFrom300: "many weights",
    RemembersByShape: "memory weights",
    SquaresFirst: "scale",
    FourthPowersFirst: "scale",
    Underflows: "tiny",
    OnTheCpu: "device",
    StacksAZeroOfTheCpu: "device",
    KeepsALambda: "pickling",
    RefusesToBeCopied: "deepcopy",
    Prints: "compilation",
    AddsHooks: "leftovers compilation",
    DifferentiableOnce: "second_gradient",
    ReadsMemory: "layout",
}
