"""Losses with one thing wrong each, after one with nothing wrong."""

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
        variance = (d.weights * (d.deaths - mean).square()).sum() / (count - 1).clamp(min=1)
        positive = variance.detach() > 1e-30
        std = torch.where(positive, torch.where(positive, variance, 1).sqrt(), 0)
        return (std - mean) / 2


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


# The rules that each component breaks, in the order in which they are checked: what the
# component is about comes first.
BREAKS = {
    Sum: "",
    SampleT2: "",
    NegatedSum: "gradient",
    DetachedSum: "gradient",
    ForgetsTheDeaths: "graph empty",
    Weightless: "weights",
    Mean: "finite empty",
    Norm: "finite_gradients",
    NewZero: "empty",
    EachPoint: "shapes weights",
    HalvesDeaths: "input_unchanged determinism precision graph empty gradient "
    "second_gradient finite_gradients vmap compilation pickling deepcopy state_dict",
    BranchingSum: "vmap compilation",
    SingleSum: "precision gradient second_gradient",
    RandomSum: "determinism precision weights gradient second_gradient vmap compilation",
    TrainedSum: "module_state",
    HiddenScale: "state_dict",
}
