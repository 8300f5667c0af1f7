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
        return torch.where(zero, 0, x / torch.where(zero, 1, x).norm(dim=1, keepdim=True))

    def edge_values(self, v, i, j):
        return 1 - (v[i] * v[j]).sum(-1).abs()


class WrongSign(Cosine):
    def vertices(self, x):
        return autograd.Negated.apply(super().vertices(x))


class DifferentiableOnce(Cosine):
    def vertices(self, x):
        return autograd.DifferentiableOnce.apply(super().vertices(x))


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


# The rules that each component breaks, in the order in which they are checked: what the
# component is about comes first.
BREAKS = {
    Cosine: "",
    WrongSign: "gradient second_gradient change_of_tree",
    DifferentiableOnce: "second_gradient",
    Detached: "graph change_of_tree",
    PartlyDetached: "gradient second_gradient change_of_tree",
    OffByOne: "symmetry locality pairwise order_hint",
    OffByOneAtBothEnds: "locality order_hint",
    Asymmetric: "symmetry pairwise",
    WrongOrder: "order_hint",
    ReversedOrder: "order_hint",
    MisspeltOrder: "order_hint",
    CentresInPlace: "input_unchanged determinism pairwise graph gradient second_gradient "
    "finite_gradients change_of_tree compilation pickling deepcopy state_dict",
    HalvesVerticesInPlace: "vertices_unchanged symmetry pairwise change_of_tree",
    Noisy: "determinism precision symmetry locality pairwise order_hint gradient "
    "change_of_tree vmap compilation",
    SeedsTheWorld: "random_state compilation",
    NanAtConstants: "finite finite_gradients",
    NanGradientAtDuplicates: "finite_gradients",
    SinglePrecision: "precision gradient second_gradient change_of_tree",
    RefusesHalf: "precision",
    Branching: "vmap compilation",
    Prints: "compilation",
    KeepsALambda: "pickling",
    KeepsALock: "pickling deepcopy",
    RefusesToBeCopied: "deepcopy",
    HidesAParameter: "state_dict",
    SwitchesToEval: "module_state",
    CountsCalls: "module_state",
    OtherPairs: "pairwise",
    PairsWithAGraph: "pairwise",
    Column: "shapes vertices_unchanged symmetry locality pairwise order_hint change_of_tree",
    Transposed: "shapes",
}
