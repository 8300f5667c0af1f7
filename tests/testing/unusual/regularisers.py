"""Regularisers that are right, each in a way of its own."""

import itertools

import numpy as np
import torch
from testing.unusual import filtrations

import topoloss


class LogMeanExp(topoloss.Regulariser):
    """A smooth function with no scale, and a parameter."""

    def __init__(self):
        super().__init__()
        self.sharpness = torch.nn.Parameter(torch.rand(()))

    def compute(self, x):
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        return torch.logsumexp(self.sharpness.to(x.dtype) * x.mean(0), 0)


class Gram(topoloss.Regulariser):
    """Work and memory of all pairs of neurons, which a regulariser may take."""

    def compute(self, x):
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        return (x.T @ x).abs().mean()


class LargestActivation(topoloss.Regulariser):
    """One sample alone decides."""

    def compute(self, x):
        return x.to(torch.promote_types(x.dtype, torch.float32)).abs().amax()


class ByNumpy(topoloss.Regulariser):
    """Leaves torch to find an index, which no graph of the compiler can hold."""

    def compute(self, x):
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        (largest,) = topoloss.outside(self.largest, x.detach())
        return x.flatten().gather(0, largest[None])[0].abs()

    def largest(self, x):
        return (torch.from_numpy(np.asarray(abs(x.cpu().numpy()).argmax())).to(x.device),)


class MeanGap(topoloss.Regulariser):
    """Compares the means of successive layers, which need not have one width."""

    def of_layers(self, layers):
        means = [
            self.guard(x)[0].to(torch.promote_types(x.dtype, torch.float32)).mean()
            for x in layers.values()
        ]
        return sum(((a - b).square() for a, b in itertools.pairwise(means)))


class Spectral(topoloss.Regulariser):
    source = "weights"

    def compute(self, weights):
        promoted = (w.to(torch.promote_types(w.dtype, torch.float32)) for w in weights.values())
        return sum(torch.linalg.matrix_norm(w.flatten(1), 2) for w in promoted)


class OfBinarised(topoloss.Pipeline):
    """A stage declares the surrogate; the pipeline need not."""

    def __init__(self):
        loss = topoloss.loss("total-persistence")
        super().__init__(filtrations.Binarised(), topoloss.persistence("mst"), loss)


class Couples(filtrations.FractionalWeights):
    """A listed graph of several components: every other vertex and the next."""

    def edges(self, v):
        first = torch.arange(0, len(v) - 1, 2, device=v.device)
        return len(v), torch.stack((first, first + 1), 1)


class OfCouples(topoloss.Pipeline):
    """Fewer deaths than a clique has."""

    def __init__(self):
        super().__init__(Couples(), topoloss.persistence("mst"), topoloss.loss("t1"))


class SquaredDistances(topoloss.Filtration):
    """Grow as the square of the scale, so that float32 cannot hold those of huge activations."""

    def vertices(self, x):
        return x.T.to(torch.promote_types(x.dtype, torch.float32))

    def edge_values(self, v, i, j):
        return (v[i] - v[j]).square().sum(-1)


class OfSquaredDistances(topoloss.Pipeline):
    """The pipeline refuses infinite edge values."""

    def __init__(self):
        stages = SquaredDistances(), topoloss.persistence("mst")
        super().__init__(*stages, topoloss.loss("t1"))


class FromTheInput(topoloss.Regulariser):
    """Compares each layer with what the model was given."""

    inputs = True

    def of_layers(self, layers):
        self.check_layers(layers)
        means = {name: self.mean(x) for name, x in layers.items()}
        given = means.pop("(input)")
        return sum((mean - given).square() for mean in means.values())

    def mean(self, x):
        return self.guard(x)[0].to(torch.promote_types(x.dtype, torch.float32)).mean()


UNUSUAL = (
    LogMeanExp,
    Gram,
    LargestActivation,
    ByNumpy,
    MeanGap,
    Spectral,
    OfBinarised,
    OfCouples,
    OfSquaredDistances,
    FromTheInput,
)
