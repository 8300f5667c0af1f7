"""Regularisers with one thing wrong each, after one with nothing wrong."""

import itertools

import torch
from testing.broken import autograd, persistence

import topoloss


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
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        scale = 1 + x.detach().abs().amax()
        return (x / scale).square().sum(0).sqrt().sum() * scale


class Underflows(Mse):
    """Divides by no number below 1 before it takes squares."""

    def compute(self, x):
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        zero = (x == 0).all()
        unit = x.detach().abs().amax().clamp(min=1)
        squares = (x / unit).square().sum()
        return unit * torch.where(zero, squares, squares / torch.where(zero, 1, squares).sqrt())


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


class WrongSignOfABatch(Mse):
    def compute(self, x):
        return super().compute(autograd.NegatedUnderVmap.apply(x))


class CentresActivations(Mse):
    def compute(self, x):
        x -= x.mean(0)
        return super().compute(x)


class WeighsByEdge(topoloss.Loss):
    """Weighs deaths by where they are, and so jumps when the tree does."""

    def forward(self, diagrams):
        d = diagrams[0]
        return (d.deaths * (1 + d.death_edges.sum(1))).sum()


class ByEdge(topoloss.Pipeline):
    def __init__(self):
        stages = topoloss.filtration("correlation"), topoloss.persistence("mst")
        super().__init__(*stages, WeighsByEdge())


class ShortDiagrams(topoloss.Pipeline):
    def __init__(self):
        filtration = topoloss.filtration("correlation")
        super().__init__(filtration, persistence.DropsZeroDeaths(), topoloss.loss("t1"))


class NegatedMse(Mse):
    def compute(self, x):
        return autograd.Negated.apply(super().compute(x))


class HalfMse(Mse):
    def compute(self, x):
        return super().compute(x.bfloat16())


class DetachedInFloat32(Mse):
    def compute(self, x):
        value = super().compute(x)
        return value.detach() + 0 * value if value.dtype == torch.float32 else value


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
        return sum(self.norm(w) for w in weights.values())

    def norm(self, w):
        scale = 1 + w.detach().abs().amax()
        return (w / scale).square().sum().sqrt() * scale


class GramOfRows(topoloss.Regulariser):
    """Takes every weight to be a matrix."""

    source = "weights"

    def compute(self, weights):
        return sum((w @ w.T).square().sum() for w in self.promoted(weights))

    def promoted(self, weights):
        return [w.to(torch.promote_types(w.dtype, torch.float32)) for w in weights.values()]


class RefusesConvolutionsVaguely(GramOfRows):
    def compute(self, weights):
        if any(w.ndim > 2 for w in weights.values()):
            raise topoloss.InputError("expected matrices")
        return super().compute(weights)


class WeightsCalledByNumbers(GramOfRows):
    def compute(self, weights):
        return sum(weights[str(k)].square().sum() for k in range(len(weights)))


class SpectralOfFullPrecision(topoloss.Regulariser):
    """Takes norms that torch has in float32 and float64 alone."""

    source = "weights"

    def compute(self, weights):
        return sum(torch.linalg.matrix_norm(w.flatten(1), 2) for w in weights.values())


class ParametersInFloat32(topoloss.Regulariser):
    source = "parameters"

    def compute(self, parameters):
        return sum(p.float().square().sum() for p in parameters.values())


class FirstColumnsOfWeights(topoloss.Regulariser):
    source = "weights"

    def compute(self, weights):
        first = (w.flatten(1)[:, :3] for w in weights.values())
        return sum(w.to(torch.promote_types(w.dtype, torch.float32)).abs().sum() for w in first)


def do_nothing(*_):
    pass


class AddsHooks(Mse):
    def compute(self, x):
        self.register_load_state_dict_post_hook(do_nothing)
        return super().compute(x)


class ClearsGradients(topoloss.Regulariser):
    source = "parameters"

    def compute(self, parameters):
        for p in parameters.values():
            p.grad = None
        return sum(p.square().sum() for p in parameters.values())


class SwitchesGradientsOff(Mse):
    def compute(self, x):
        torch.set_grad_enabled(False)
        return super().compute(x)


class KeepsTheFirst(Mse):
    def __init__(self):
        super().__init__()
        self.first = None

    def compute(self, x):
        if self.first is None:
            self.first = 1 / (1 + x.detach().square().mean()).item()
        return super().compute(x) * self.first


class DetachesItsLayers(Mse):
    """Values one layer as it should, and forgets the graph of several."""

    def of_layers(self, layers):
        return super().of_layers(layers).detach()


class WrongGradientFrom300(Mse):
    def compute(self, x):
        value = super().compute(x)
        return value if x.shape[1] < 300 else autograd.Negated.apply(value)


class DifferenceOfSquares(Mse):
    """Half of |x|^2 less that of -x: infinity less infinity where x is huge."""

    def compute(self, x):
        return super().compute(x) - super().compute(-x) + x.abs().mean()


class RefusesLargeParameters(topoloss.Regulariser):
    """Grows with the scale, and refuses what it could hold."""

    source = "parameters"

    def compute(self, parameters):
        if any(bool((p.abs() > 1e20).any()) for p in parameters.values()):
            raise topoloss.InputError("too large")
        promoted = (p.to(torch.promote_types(p.dtype, torch.float32)) for p in parameters.values())
        return sum(p.abs().sum() for p in promoted)


class First32Samples(Mse):
    def compute(self, x):
        return super().compute(x[:32])


class OnTheCpu(Mse):
    def compute(self, x):
        return super().compute(x * torch.ones(x.shape[1], dtype=x.dtype))


class BetweenLayers(topoloss.Regulariser):
    """Nothing is wrong with this one: the mean product of each layer with the next."""

    def of_layers(self, layers):
        promoted = map(self.promoted, layers.values())
        return sum(self.product(a, b) for a, b in itertools.pairwise(promoted))

    def product(self, a, b):
        with torch.autocast(a.device.type, enabled=False):
            return (a.T @ b).abs().mean()

    def promoted(self, x):
        x, _ = self.guard(x)
        return x.to(torch.promote_types(x.dtype, torch.float32))


class LeavesAutocastOn(BetweenLayers):
    def product(self, a, b):
        return (a.T @ b).abs().mean()


class FirstTwoLayers(BetweenLayers):
    """Checks all layers, and values two."""

    def of_layers(self, layers):
        first, second, *_ = map(self.promoted, layers.values())
        return self.product(first, second)


class RawLayers(Mse):
    """Values one layer as it should, and neither guards nor promotes several."""

    def of_layers(self, layers):
        return sum(x.square().mean() for x in layers.values())


class DetachesOneLayer(BetweenLayers):
    def of_layers(self, layers):
        *others, last = layers
        return super().of_layers({k: layers[k] for k in others} | {last: layers[last].detach()})


class TwoLayersAlone(BetweenLayers):
    def of_layers(self, layers):
        first, second = layers
        return super().of_layers({first: layers[first], second: layers[second]})


class LayersOfOneWidth(BetweenLayers):
    def of_layers(self, layers):
        promoted = map(self.promoted, layers.values())
        return sum((a - b).abs().mean() for a, b in itertools.pairwise(promoted))


class GuardsTheFirstLayer(BetweenLayers):
    def of_layers(self, layers):
        first, *others = layers.values()
        self.guard(first)
        return sum(
            self.product(first, x).to(torch.promote_types(x.dtype, torch.float32)) for x in others
        )


class UnguardedLayers(BetweenLayers):
    def guard(self, x):
        return x, None


class KeepsALambda(Mse):
    def __init__(self):
        super().__init__()
        self.function = lambda x: x


class RefusesToBeCopied(Mse):
    def __deepcopy__(self, memo):
        raise TypeError("there is only one of me")


class Prints(Mse):
    def compute(self, x):
        print(end="")
        return super().compute(x)


class OtherWhereCompiled(Mse):
    """Leaves torch, and gives another value in what the compiler makes of the rest."""

    def compute(self, x):
        (first,) = topoloss.outside(self.first, x.detach())
        return super().compute(x) + first * (2 if torch.compiler.is_compiling() else 1)

    def first(self, x):
        return (torch.ones((), dtype=torch.int64, device=x.device),)


class DifferentiableOnce(Mse):
    def compute(self, x):
        return autograd.DifferentiableOnce.apply(super().compute(x))


class SwitchesToEval(Mse):
    def compute(self, x):
        self.eval()
        return super().compute(x)


class HiddenScale(Mse):
    def __init__(self):
        super().__init__()
        self.scale = 1 + torch.rand(()).item()

    def compute(self, x):
        return self.scale * super().compute(x)


class ReadsMemory(Mse):
    """Takes rows to lie one after another in memory."""

    def compute(self, x):
        weights = torch.arange(1, len(x) + 1, dtype=x.dtype, device=x.device)
        return super().compute(x.as_strided(x.shape, (x.shape[1], 1)) * weights[:, None])


class LoudestOfAll(Mse):
    """The largest mean square of a neuron, with a gradient of 1 at each of several equal ones."""

    def compute(self, x):
        squares = x.to(torch.promote_types(x.dtype, torch.float32)).square().mean(0)
        largest = squares.detach().amax()
        equal = squares.detach() == largest
        return (equal * squares).sum() - (equal.sum() - 1) * largest


class DoubledWhereNeuronsAreEqual(topoloss.Pipeline):
    """Twice the gradient where two neurons are equal, of distances that kink there."""

    def __init__(self):
        stages = topoloss.filtration("euclidean"), topoloss.persistence("mst")
        super().__init__(*stages, topoloss.loss("t1"))

    def compute(self, x):
        itself = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
        equal = (x[:, :, None] == x[:, None]).all(0) & ~itself
        value = super().compute(x)
        return torch.where(equal.any(), autograd.Doubled.apply(value), value)


# The rules that each component breaks, in the order in which they are checked: what the
# component is about comes first.
BREAKS = {
    Mse: "",
    DetachedMse: "gradient many",
    ForgetsTheGraph: "graph one_neuron",
    NewZeroForOne: "one_neuron",
    MeanOfPairs: "finite one_neuron finite_gradients",
    NormOfNeurons: "finite_gradients ties",
    TakesNan: "nonfinite",
    OneForAll: "batch",
    BranchingMse: "batch compilation",
    SumsOverTheBatch: "batch",
    WrongSignOfABatch: "batch",
    CentresActivations: "input_unchanged determinism memory leftovers precision layout scale tiny "
    "graph one_neuron gradient second_gradient finite_gradients ties many batch compilation "
    "pickling deepcopy state_dict device",
    ByEdge: "change_of_tree",
    ShortDiagrams: "diagrams",
    NegatedMse: "gradient ties many",
    HalfMse: "precision gradient second_gradient ties many",
    DetachedInFloat32: "precision",
    NoisyMse: "determinism memory precision autocast gradient second_gradient many batch "
    "compilation",
    SeedingMse: "random_state compilation",
    EachNeuron: "shapes batch",
    DetachedNorm: "graph",
    Underflows: "tiny",
    DoublesTheWeights: "input_unchanged precision autocast gradient many",
    NormOfWeights: "finite_gradients ties",
    GramOfRows: "convolution",
    RefusesConvolutionsVaguely: "convolution",
    WeightsCalledByNumbers: "shapes finite input_unchanged determinism memory random_state "
    "module_state leftovers precision layout scale tiny autocast samples convolution graph "
    "gradient second_gradient finite_gradients ties many pickling deepcopy state_dict device",
    SpectralOfFullPrecision: "precision",
    ParametersInFloat32: "precision gradient second_gradient many",
    AddsHooks: "leftovers compilation",
    ClearsGradients: "leftovers",
    SwitchesGradientsOff: "leftovers graph one_neuron",
    KeepsTheFirst: "memory",
    DetachesItsLayers: "of_layers",
    WrongGradientFrom300: "many",
    DifferenceOfSquares: "scale",
    RefusesLargeParameters: "scale",
    First32Samples: "samples",
    FirstColumnsOfWeights: "samples",
    OnTheCpu: "device",
    BetweenLayers: "",
    TwoLayersAlone: "shapes finite input_unchanged determinism memory random_state module_state "
    "leftovers precision layout scale tiny autocast samples each_layer nonfinite graph one_neuron "
    "gradient second_gradient finite_gradients ties many compilation pickling deepcopy state_dict "
    "device",
    LayersOfOneWidth: "shapes finite input_unchanged determinism memory random_state module_state "
    "leftovers precision layout scale tiny autocast samples each_layer nonfinite graph gradient "
    "second_gradient finite_gradients ties many compilation pickling deepcopy state_dict device",
    GuardsTheFirstLayer: "nonfinite",
    LeavesAutocastOn: "autocast",
    FirstTwoLayers: "each_layer",
    RawLayers: "of_layers",
    DetachesOneLayer: "gradient second_gradient ties many",
    UnguardedLayers: "nonfinite",
    KeepsALambda: "pickling",
    RefusesToBeCopied: "deepcopy",
    Prints: "compilation",
    OtherWhereCompiled: "compilation",
    DifferentiableOnce: "second_gradient",
    SwitchesToEval: "module_state",
    HiddenScale: "state_dict",
    ReadsMemory: "layout batch",
    LoudestOfAll: "ties",
    DoubledWhereNeuronsAreEqual: "ties",
}
