"""Samplers with one thing wrong each, after one with nothing wrong."""

import torch

import topoloss


class First(topoloss.Sampler):
    """Nothing is wrong with this one."""

    def __init__(self, *, fraction=1.0):
        self.fraction = fraction

    def select(self, x):
        return torch.arange(x.shape[1] * round(1000 * self.fraction) // 1000, device=x.device)


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


class MultipliesFloats(First):
    def select(self, x):
        return torch.arange(int(x.shape[1] * self.fraction), device=x.device)


class TakesFractionsAsText(First):
    """Takes 0.5 for a text, which raises a TypeError that is no lack of the option."""

    def __init__(self, *, fraction=None):
        super().__init__(fraction=1.0 if fraction is None else fraction + "0")


class Unseeded(First):
    def select(self, x):
        generator = torch.Generator()
        generator.seed()
        return torch.randperm(x.shape[1], generator=generator)[:3].sort().values.to(x.device)


class Global(First):
    def select(self, x):
        torch.manual_seed(0)
        return super().select(x)


class Sorts(First):
    def select(self, x):
        x.abs_()
        return super().select(x)


class OnTheCpu(First):
    def select(self, x):
        return super().select(x).cpu()


class ReadsMemory(topoloss.Sampler):
    """Takes rows to lie one after another in memory."""

    def select(self, x):
        rows = x.as_strided(x.shape, (x.shape[1], 1))
        return rows.abs().mean(0).argsort()[: x.shape[1] // 2].sort().values


class KeepsALambda(First):
    def __init__(self):
        super().__init__()
        self.function = lambda x: x


class RefusesToBeCopied(First):
    def __deepcopy__(self, memo):
        raise TypeError("there is only one of me")


# The rules that each component breaks, in the order in which they are checked: what the
# component is about comes first.
BREAKS = {
    First: "",
    Mask: "indices fraction",
    FromOne: "indices",
    Descending: "indices",
    WithReplacement: "indices fraction",
    MultipliesFloats: "fraction",
    TakesFractionsAsText: "fraction",
    Unseeded: "determinism layout fraction pickling deepcopy device",
    Global: "random_state",
    Sorts: "input_unchanged",
    OnTheCpu: "device",
    ReadsMemory: "layout",
    KeepsALambda: "pickling",
    RefusesToBeCopied: "deepcopy",
}
