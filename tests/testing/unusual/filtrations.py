"""Filtrations that are right, each in a way of its own."""

import torch

import topoloss


class NearestNeighbours(topoloss.Filtration):
    """A graph that depends on the activations, of vertices that are a tuple."""

    def vertices(self, x):
        x = x.T.to(torch.promote_types(x.dtype, torch.float32))
        return x, x.detach().abs().amax(1)

    def edges(self, v):
        points, _ = v
        n = len(points)
        if n == 1:
            return 1, torch.zeros(0, 2, dtype=torch.int64, device=points.device)
        scale = points.abs().amax()
        scaled = points / torch.where(scale > 0, scale, 1)
        distances = (scaled[:, None] - scaled[None]).square().sum(-1)
        distances = distances + 10 * distances.amax() * torch.eye(n, device=points.device)
        vertex = torch.arange(n, device=points.device)
        # Among equal points the nearest may be the point itself: then take the next one.
        nearest = torch.where(distances.argmin(1) == vertex, (vertex + 1) % n, distances.argmin(1))
        return n, torch.stack((vertex, nearest), 1)

    def edge_values(self, v, i, j):
        points, _ = v
        return (points[i] - points[j]).abs().sum(-1)


class DirectedRing(topoloss.Filtration):
    """A listed graph whose values depend on which end comes first."""

    def vertices(self, x):
        return x.mean(0).to(torch.promote_types(x.dtype, torch.float32))

    def edges(self, v):
        n = len(v)
        start = torch.arange(n if n > 1 else 0, device=v.device)
        return n, torch.stack((start, (start + 1) % n), 1)

    def edge_values(self, v, i, j):
        return torch.nn.functional.softplus(v[i] - 2 * v[j])


class FractionalWeights(topoloss.Filtration):
    """Weighs edges by how live their ends are."""

    def vertices(self, x):
        return x.T.to(torch.promote_types(x.dtype, torch.float32))

    def edge_values(self, v, i, j):
        return (v[i] - v[j]).abs().amax(-1)

    def edge_weights(self, v, i, j):
        return (1 / (1 + (v[i] == 0).sum(-1) + (v[j] == 0).sum(-1))).to(v.dtype)


class NegativeDots(topoloss.Filtration):
    """Values below 0, and an order without absolute values."""

    order = "dot_descending"

    def vertices(self, x):
        return x.T.to(torch.promote_types(x.dtype, torch.float32))

    def edge_values(self, v, i, j):
        return -(v[i] * v[j]).sum(-1)


class Whitened(topoloss.Filtration):
    """Vertices that depend on all neurons, by an n x n matrix."""

    def vertices(self, x):
        x = x.T.to(torch.promote_types(x.dtype, torch.float32))
        x = x / (1 + x.abs().amax())
        gram = x @ x.T + torch.eye(len(x), dtype=x.dtype, device=x.device)
        return torch.linalg.solve(gram, x)

    def edge_values(self, v, i, j):
        return (v[i] - v[j]).abs().sum(-1)


class Learnt(topoloss.Filtration):
    """A parameter of its own, and buffers that do not change."""

    def __init__(self):
        super().__init__()
        self.power = torch.nn.Parameter(torch.rand(()))
        self.register_buffer("shift", torch.rand(()))

    def vertices(self, x):
        return x.T.to(torch.promote_types(x.dtype, torch.float32))

    def edge_values(self, v, i, j):
        factor = self.power.exp() + self.shift
        return factor.to(v.dtype) * (v[i] - v[j]).abs().mean(-1)


class Binarised(topoloss.Filtration):
    """Signs of activations, with a straight-through gradient."""

    surrogate_gradient = True

    def vertices(self, x):
        soft = x.T.to(torch.promote_types(x.dtype, torch.float32)).tanh()
        return soft + (soft.sign() - soft).detach()

    def edge_values(self, v, i, j):
        return 1 - (v[i] * v[j]).mean(-1)


class RowsOfWeights(topoloss.Filtration):
    """A clique on the rows of the weights: here as many as there are samples."""

    source = "weights"

    def vertices(self, weights):
        w = next(iter(weights.values()))
        return w.flatten(1).to(torch.promote_types(w.dtype, torch.float32))

    def edge_values(self, v, i, j):
        return (v[i] - v[j]).abs().sum(-1)


class EntriesOfWeights(RowsOfWeights):
    """A listed graph: each entry of the first weights joins an output to an input."""

    def edges(self, v):
        rows, columns = v.shape
        row, column = (
            torch.arange(rows * columns, device=v.device).div(columns, rounding_mode="floor"),
            torch.arange(rows * columns, device=v.device) % columns,
        )
        return rows + columns, torch.stack((row, rows + column), 1)

    def edge_values(self, v, i, j):
        return -v[i, j - len(v)].abs()


class MakesTensorsBesideTheInput(FractionalWeights):
    """Makes tensors that follow the input, and numbers and indices that need not."""

    def edge_values(self, v, i, j):
        factor = v.new_tensor([2.0]) * torch.tensor([0.5], device=v.device) * torch.tensor(1.0)
        v = v.clone()
        v[torch.zeros(0, dtype=torch.int64)] = torch.tensor(1, dtype=v.dtype)
        return factor.to(v.dtype) * super().edge_values(v, i, j)


class Smallest(topoloss.Filtration):
    """A minimum over samples, which ties, with the gradient of one of its places."""

    def vertices(self, x):
        return x.T.to(torch.promote_types(x.dtype, torch.float32))

    def edge_values(self, v, i, j):
        return (v[i] + v[j]).min(-1).values


class PartialCorrelation(topoloss.Filtration):
    """As many features as there are neurons, from the inverse of a covariance."""

    def vertices(self, x):
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        x = x - x[:1]
        x = x - x.mean(0)
        largest = x.abs().amax()
        x = x / torch.where(largest == 0, 1, largest)
        covariance = x.T @ x / len(x) + 0.1 * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        v = torch.linalg.inv(torch.linalg.cholesky(covariance)).T
        return v / v.norm(dim=1, keepdim=True)

    def edge_values(self, v, i, j):
        return (1 - (v[i] * v[j]).sum(-1).abs()).clamp(min=0)


UNUSUAL = (
    NearestNeighbours,
    DirectedRing,
    FractionalWeights,
    NegativeDots,
    Whitened,
    Learnt,
    Binarised,
    MakesTensorsBesideTheInput,
    RowsOfWeights,
    EntriesOfWeights,
    Smallest,
)
