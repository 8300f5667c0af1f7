"""The singular value representation: by hand, by numpy, and its null distribution by simulation."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.sparse import coo_array
from scipy.sparse.csgraph import minimum_spanning_tree
from topoloss_svr import (
    overlaps,
    plot,
    sequential_weights,
    significance_threshold,
    spectral_graph,
)
from topoloss_svr.decomposition import spectrum
from torch import nn

import topoloss
from topoloss.testing import parametrize_with_checks


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def tensor(rows):
    return torch.tensor(rows, dtype=torch.float64)


def unit_rows(rows, size, seed):
    x = np.random.default_rng(seed).standard_normal((rows, size))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def overlaps_by_numpy(first, second):
    """The effective filter of each pair of spectral neurons, and its squared norm."""
    first, second = (np.asarray(w.detach(), dtype=np.float64) for w in (first, second))
    u = np.linalg.svd(first.reshape(len(first), -1), full_matrices=False)[0]
    v = np.linalg.svd(second.reshape(len(second), -1), full_matrices=False)[2].T
    channels, later = len(first), v.shape[1]
    filters = np.einsum("km,kpn->nmp", u, v.reshape(channels, -1, later))
    return (filters**2).sum(-1)


# Values worked out by hand


def test_the_overlaps_of_two_layers():
    """The first layer scales its inputs by 3 and 2: U is the identity.

    The second has the rows (3, 4) and (-8, 6), which are orthogonal: the right singular vectors are
    (-4, 3)/5, of value 10, and (3, 4)/5, of value 5.
    """
    a = overlaps(tensor([[3, 0], [0, 2]]), tensor([[3, 4], [-8, 6]]))
    torch.testing.assert_close(a, tensor([[0.64, 0.36], [0.36, 0.64]]))


def test_the_overlaps_of_two_convolutions():
    """Two output channels, 3 and 2 times an input channel each: U is the identity.

    The second layer has one filter of two positions: channel 0 is seen with (1, 2) and channel 1
    with (2, 4). Its norm is 5, and its squares by channel are 5/25 and 20/25.
    """
    first = tensor([[[3], [0]], [[0], [2]]])
    second = tensor([[[1, 2], [2, 4]]])
    torch.testing.assert_close(overlaps(first, second), tensor([[0.2, 0.8]]))


def test_the_overlaps_of_a_fully_connected_layer_after_a_convolution():
    """As above, and the inputs of the second layer are channel 0 and 1 at two positions each."""
    first = tensor([[[3], [0]], [[0], [2]]])
    second = tensor([[1, 2, 2, 4]])
    torch.testing.assert_close(overlaps(first, second), tensor([[0.2, 0.8]]))


def test_a_singular_value_of_zero_overlaps_with_nothing():
    """Of the first layer only the direction (1, 1)/sqrt(2) is left, and half of (1, 0) is in it."""
    first = tensor([[1, 1], [1, 1]]).requires_grad_()
    a = overlaps(first, tensor([[1, 0]]))
    torch.testing.assert_close(a, tensor([[0.5, 0]]))
    (gradient,) = torch.autograd.grad(a[0, 1], first)
    assert (gradient == 0).all()
    zeros = torch.zeros(3, 2, requires_grad=True)
    a = overlaps(zeros, torch.ones(2, 3))
    a.sum().backward()
    assert (a == 0).all()
    assert (zeros.grad == 0).all()


@pytest.mark.parametrize(
    "first", [torch.eye(2).double(), torch.linalg.qr(randn(5, 5))[0]], ids=["exactly", "rounded"]
)
def test_repeated_singular_values_share_a_space_and_have_no_gradient_within_it(first):
    """All directions are as good as any others: a row sums up to 1. Nothing lies outside them."""
    first.requires_grad_()
    a = overlaps(first, tensor([[0.6, 0.8, 0, 0, 0][: len(first)]]))
    assert a.sum().item() == pytest.approx(1, rel=1e-15)
    (gradient,) = torch.autograd.grad(a[0, 0], first)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-14)


# Independent ways to the same numbers

PAIRS = {
    "narrow to wide": ((5, 3), (7, 5)),
    "wide to narrow": ((5, 9), (2, 5)),
    "images": ((6, 3, 3, 3), (4, 6, 3, 3)),
    "kernels of other sizes": ((6, 3, 5, 5), (40, 6, 2, 1)),
    "signals": ((4, 2, 3), (5, 4, 4)),
    "flattened images": ((6, 3, 3, 3), (10, 6 * 16)),
    "pooled images": ((6, 3, 3, 3), (10, 6)),
}


@pytest.mark.parametrize("shapes", PAIRS.values(), ids=PAIRS)
def test_overlaps_are_those_by_numpy(shapes):
    first, second = (randn(*shape, seed=k) for k, shape in enumerate(shapes))
    expected = overlaps_by_numpy(first, second)
    found = overlaps(first, second)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(overlaps(first.float(), second.float()), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shapes", PAIRS.values(), ids=PAIRS)
def test_overlaps_ignore_a_positive_factor_of_a_layer(shapes):
    first, second = (randn(*shape, seed=k) for k, shape in enumerate(shapes))
    expected = overlaps(first, second)
    torch.testing.assert_close(overlaps(1e-200 * first, 1e200 * second), expected)
    torch.testing.assert_close(overlaps(7 * first, second / 3), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_overlaps_ignore_the_unit_of_a_layer_up_to_the_ends_of_the_numbers(dtype):
    first, second = randn(6, 5).to(dtype), randn(4, 6, seed=1).to(dtype)
    expected = overlaps(first, second)
    # To the largest numbers, and to subnormal ones that still have some digits.
    most = torch.finfo(dtype).max / first.abs().max()
    torch.testing.assert_close(overlaps(0.99 * most * first, second), expected)
    least = torch.finfo(dtype).tiny / 64
    digits = 200 * torch.finfo(dtype).eps
    torch.testing.assert_close(overlaps(least * first, second), expected, rtol=0, atol=digits)


def test_layers_of_two_dtypes_are_valued_in_the_wider():
    first, second = randn(6, 5), randn(4, 6, seed=1).float()
    found = overlaps(first, second)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, overlaps(first, second.double()), rtol=0, atol=1e-6)


def test_the_overlaps_of_a_neuron_with_a_whole_basis_add_up_to_1():
    """A square layer has left singular vectors in all directions."""
    a = overlaps(randn(6, 6), randn(9, 6, seed=1))
    torch.testing.assert_close(a.sum(1), torch.ones(6, dtype=torch.float64))


@pytest.mark.parametrize(
    "shapes", [((3, 4), (3, 3)), ((4, 2), (2, 4)), ((2, 2, 2), (3, 2, 2))], ids=str
)
def test_derivatives_are_those_of_finite_differences(shapes):
    weights = [randn(*shape, seed=k).requires_grad_() for k, shape in enumerate(shapes)]
    assert torch.autograd.gradcheck(overlaps, weights)
    assert torch.autograd.gradgradcheck(overlaps, weights)


# The null distribution


@pytest.mark.parametrize(("channels", "positions"), [(8, 1), (200, 1), (5, 4), (64, 9)])
def test_between_random_directions_overlaps_have_the_stated_distribution(channels, positions):
    """Beta(p / 2, (c - 1) p / 2), by a Kolmogorov-Smirnov test of 20,000 pairs of directions."""
    u = unit_rows(20_000, channels, seed=0)
    v = unit_rows(20_000, channels * positions, seed=1).reshape(-1, channels, positions)
    a = (np.einsum("ic,icp->ip", u, v) ** 2).sum(1)
    exact = stats.beta(positions / 2, (channels - 1) * positions / 2)
    assert stats.kstest(a, exact.cdf).pvalue > 0.01


@pytest.mark.parametrize(("channels", "positions"), [(500, 1), (300, 9), (100, 49)])
def test_random_layers_exceed_the_threshold_as_rarely_as_stated(channels, positions):
    """Layers of independent normal weights, at 2 sigma: 2.275 per cent of their overlaps.

    Overlaps of one singular vector depend on one another, which the allowance accounts for.
    """
    first = randn(channels, 2 * channels)
    second = randn(60, channels * positions, seed=1)
    if positions > 1:
        first, second = first[..., None], second.reshape(60, channels, positions)
    threshold = significance_threshold(channels, positions, sigma=2)
    share = (overlaps(first, second) >= threshold).double().mean().item()
    assert share == pytest.approx(stats.norm.sf(2), rel=0.1)


@pytest.mark.parametrize("sigma", [0, 1, 3, 6, 37])
@pytest.mark.parametrize(("channels", "positions"), [(1, 1), (512, 9), (512, 49), (10, 1000)])
def test_the_threshold_is_the_quantile_of_scipy(channels, positions, sigma):
    expected = stats.chi2.isf(stats.norm.sf(sigma), positions) / (channels * positions)
    found = significance_threshold(channels, positions, sigma=sigma)
    assert found == pytest.approx(expected, rel=1e-9)


# How exact it is


def of_known_spectrum(rows, columns, lowest):
    """A float32 matrix whose singular values fall evenly, in logarithms, from 1 to 10**lowest."""
    k = min(rows, columns)
    left, right = (torch.linalg.qr(randn(n, k, seed=n))[0] for n in (rows, columns))
    return (left * torch.logspace(0, lowest, k, dtype=torch.float64) @ right.mT).float()


@pytest.mark.parametrize("shape", [(40, 300), (300, 40), (64, 64), (1500, 30), (1, 5)])
def test_float32_is_decomposed_as_exactly_as_by_svd_in_float64(shape):
    """Relative to each singular value, where LAPACK's float32 is only so relative to the largest.

    The vectors come from products in float64, so overlaps are those of float64 up to rounding.
    """
    matrix = of_known_spectrum(*shape, lowest=-3)
    found = spectrum(matrix)
    assert found.left.dtype == torch.float32
    assert found.live.all()
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    torch.testing.assert_close(found.values.double(), values, rtol=1e-6, atol=0)
    for ours, exact in ((found.left, left), (found.right, right.mT)):
        agreement = (ours.double() * exact).sum(0).abs()
        torch.testing.assert_close(agreement, torch.ones_like(agreement), rtol=0, atol=5e-7)
    rebuilt = found.left * found.values @ found.right.mT
    torch.testing.assert_close(rebuilt, matrix, rtol=0, atol=2e-6)


def test_overlaps_in_float32_are_those_in_float64():
    first, second = randn(90, 70), randn(50, 90, seed=1)
    exact = overlaps(first.float().double(), second.float().double())
    found = overlaps(first.float(), second.float()).double()
    torch.testing.assert_close(found, exact, rtol=0, atol=5e-7)


@pytest.mark.parametrize(
    ("shape", "lowest"),
    [((64, 64), -4.5), ((64, 2000), -3.5), ((2000, 64), -3.5), ((256, 256), -4), ((4, 6), -5.5)],
)
def test_vectors_of_an_ill_conditioned_matrix_in_float32_are_orthonormal(shape, lowest):
    """A layer that writes along the directions that the next one reads overlaps by 1, not more."""
    matrix = of_known_spectrum(*shape, lowest=lowest)
    found = spectrum(matrix)
    assert found.live.all()
    for vectors in (found.left.double(), found.right.double()):
        eye = torch.eye(min(shape), dtype=torch.float64)
        torch.testing.assert_close(vectors.mT @ vectors, eye, rtol=0, atol=1e-6)
    exact = torch.linalg.svd(matrix.double(), full_matrices=False)[2]
    a = overlaps(exact.mT.float() * torch.linspace(2, 1, min(shape)), matrix)
    assert a.max() <= 1
    assert a.max() == pytest.approx(1, abs=1e-6)


def test_directions_without_a_singular_value_are_left_out_in_float32_too():
    matrix = torch.zeros(6, 9)
    matrix[:3, :4] = randn(3, 4).float()
    found = spectrum(matrix)
    assert found.live.tolist() == [True] * 3 + [False] * 3
    assert torch.isfinite(found.right).all()


# The graph of a network


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(2, 12, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(12, 20, 3)),
        *(nn.Flatten(), nn.Linear(20 * 4, 30), nn.Dropout(0.5), nn.Linear(30, 5)),
    )


# torch's compiler makes instances of autograd functions, of which it warns itself.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_the_graph_compiles_as_a_whole_with_its_thresholds_as_constants():
    weights = {"first": randn(8, 6), "second": randn(5, 8, seed=1)}
    compiled = torch.compile(
        lambda w: spectral_graph(w, sigma=1.5), fullgraph=True, backend="aot_eager"
    )
    found, expected = compiled(weights), spectral_graph(weights, sigma=1.5)
    assert found.thresholds == expected.thresholds
    torch.testing.assert_close(found.overlaps, expected.overlaps)


def test_the_graph_of_a_network_has_its_layers_overlaps_and_thresholds():
    model = network()
    graph = spectral_graph(model, sigma=1.5)
    assert graph.layers == ("0.0", "0.3", "2", "4")
    weights = [model[0][0].weight, model[0][3].weight, model[2].weight, model[4].weight]
    for s, w in zip(graph.singular_values, weights, strict=True):
        expected = np.linalg.svd(w.detach().flatten(1).numpy(), compute_uv=False)
        np.testing.assert_allclose(s.detach(), expected, rtol=1e-5)
    for k, (first, second) in enumerate(pairwise(weights)):
        torch.testing.assert_close(graph.overlaps[k], overlaps(first, second))
    sizes = [(12, 9), (20, 4), (30, 1)]
    assert list(graph.thresholds) == [significance_threshold(*size, sigma=1.5) for size in sizes]
    edges, values = graph.edges()
    assert len(edges) == sum(
        int((a >= t).sum()) for a, t in zip(graph.overlaps, graph.thresholds, strict=True)
    )
    a = graph.overlaps[1]
    row, column = (a == a.max()).nonzero()[0].tolist()
    at = edges.tolist().index([12 + column, 32 + row])
    assert values[at] == a.max()


# The second are of very different widths, and so of very different thresholds.
@pytest.mark.parametrize("widths", [(40, 30, 35, 20), (60, 80, 12, 80)], ids=str)
def test_the_filtration_is_the_forest_of_the_significant_edges(widths):
    """Single linkage of 1 - a by scipy, of the graph of significant edges only."""
    shapes = [(outputs, inputs) for inputs, outputs in pairwise(widths)]
    a, b, c = (randn(*shape, seed=k) for k, shape in enumerate(shapes))
    # So that some overlaps are large.
    weights = {"a": a, "b": b + 10 * a[:, :1].T, "c": c}
    reg = topoloss.pipeline(topoloss.filtration("svr", sigma=1.5), "mst", "total-persistence")
    edges, values = spectral_graph(weights, sigma=1.5).edges()
    n = sum(map(min, shapes))
    graph = coo_array((1 - values.numpy(), tuple(edges.T.numpy())), shape=(n, n)).tocsr()
    forest = minimum_spanning_tree(graph)
    (diagram,) = reg.diagrams(weights)
    assert int(diagram.weights.sum()) == forest.nnz > 0
    assert reg.of_layers(weights).item() == pytest.approx(forest.sum(), rel=1e-12)
    assert len(diagram.deaths) == n - 1


def test_attached_by_name_it_takes_the_weights_in_their_order():
    model = nn.Sequential(nn.Conv2d(2, 12, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 16))
    penalty = topoloss.attach(model, "svr[sigma=none]/mst/t1")
    model(torch.randn(3, 2, 4, 4))
    value = penalty()
    graph = spectral_graph({"0": model[0].weight, "3": model[3].weight})
    assert penalty.diagrams()[0].deaths.shape == (12 + 16 - 1,)
    between = np.zeros((12 + 16, 12 + 16))
    between[:12, 12:] = 1 - graph.overlaps[0].detach().numpy().T
    assert value.item() == pytest.approx(-minimum_spanning_tree(between).sum(), rel=1e-6)
    value.backward()
    assert model[0].weight.grad.abs().max() > 0


@pytest.mark.parametrize("sigma", [1, 30])
def test_a_plot_shows_each_spectral_neuron_and_the_strongest_edges(sigma):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    graph = spectral_graph(network(), sigma=sigma)
    assert bool(len(graph.edges()[0])) == (sigma == 1)
    ax = plot(graph, most=7)
    heights = [(s / s.max()).detach() for s in graph.singular_values]
    assert [len(height) for height in heights] == [12, 20, 30, 5]
    for line, height in zip(ax.lines, heights, strict=True):
        np.testing.assert_allclose(line.get_ydata(), height)
    for k, (a, t) in enumerate(zip(graph.overlaps, graph.thresholds, strict=True)):
        found = sorted((a[n, m].item(), n, m) for n, m in (a >= t).nonzero().tolist())[-7:]
        edges = [[(k, heights[k][m]), (k + 1, heights[k + 1][n])] for _, n, m in reversed(found)]
        drawn = np.reshape(ax.collections[k].get_segments(), (-1, 2, 2))
        np.testing.assert_allclose(drawn, np.reshape(edges, (-1, 2, 2)))
    matplotlib.pyplot.close(ax.figure)


# What is refused


def test_a_layer_in_two_places_is_a_layer_in_each():
    shared = nn.Linear(4, 4)
    graph = spectral_graph(nn.Sequential(nn.Linear(5, 4), shared, nn.ReLU(), shared))
    assert graph.layers == ("0", "1", "3")
    torch.testing.assert_close(graph.overlaps[1], overlaps(shared.weight, shared.weight))


class SequentialSkip(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


class Skips(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return x + self.fc(x)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 2, 1)], "layer '0' is a convolution of 2 gro"),
        ([nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1, groups=4)], "layer '1' is a convolution of 4 gro"),
        ([nn.Linear(4, 4), Skips(), nn.Linear(4, 2)], "layer '1' is a Skips"),
        ([nn.Linear(4, 4), SequentialSkip(nn.Linear(4, 4))], "layer '1' is a SequentialSkip"),
        ([nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)], "layer '1' is a BatchNorm1d"),
        ([nn.Conv2d(4, 4, 1), nn.ConvTranspose2d(4, 2, 1)], "layer '1' is a ConvTranspose2d"),
        ([nn.Linear(4, 4), nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 2, 1)], "layer '2' is a conv"),
        ([nn.Linear(4, 6), nn.Linear(4, 2)], "layer '1' has 4 inputs and follows layer '0' of 6"),
        ([nn.Conv2d(4, 6, 1), nn.Linear(13, 2)], "layer '1' has 13 inputs .* a multiple of"),
        ([nn.Linear(4, 6)], r"the weights of \['0'\] were given; expected .* at least 2"),
    ],
)
def test_what_is_not_defined_is_an_error_that_names_the_layer(layers, message):
    with pytest.raises(topoloss.InputError, match=message):
        spectral_graph(nn.Sequential(*layers))


@pytest.mark.parametrize("at", [0, 1])
def test_attached_to_a_grouped_convolution_it_names_the_layer(at):
    model = nn.Sequential(*(nn.Conv2d(4, 4, 1, groups=2 if k == at else 1) for k in (0, 1)))
    penalty = topoloss.attach(model, "svr/mst/t1")
    model(torch.randn(2, 4, 3, 3))
    with pytest.raises(topoloss.AttachmentError, match=f"'{at}' is a convolution of 2 groups"):
        penalty()


def test_attached_to_a_skip_connection_it_names_the_layer():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            h = self.a(x)
            return self.c(h + self.b(h))

    model = Residual()
    penalty = topoloss.attach(model, "svr/mst/t1")
    model(torch.randn(2, 4))
    with pytest.raises(topoloss.AttachmentError, match="'c' is fed by"):
        penalty()


def test_a_network_without_a_significant_edge_is_told_once():
    """Of 4 outputs the threshold is 9 / 4 and more, which no overlap reaches."""
    model, x = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 4)), torch.randn(3, 5)
    penalty = topoloss.attach(model, "svr/mst/t1")
    model(x)
    with pytest.warns(topoloss.AttachmentWarning, match=r"\(sigma=3.0\) lets no edge .* sigma="):
        assert penalty() == 0
    assert penalty() == 0
    every = topoloss.attach(model, "svr[sigma=none]/mst/t1")
    model(x)
    assert every() < 0


@pytest.mark.parametrize(
    "use",
    [
        lambda w: spectral_graph([w, w]),
        lambda w: spectral_graph(None),
        lambda w: sequential_weights(None),
        lambda w: overlaps(w[0], w),
        lambda w: overlaps(w.long(), w),
        lambda w: overlaps([1.0], w),
        lambda w: overlaps(w * torch.nan, w),
        lambda w: plot({"a": w}),
        lambda w: topoloss.filtration("svr", sigma=-1),
        lambda w: significance_threshold(3, sigma=-1.0),
        lambda w: significance_threshold(3, sigma=38),
        lambda w: topoloss.filtration("svr", sigma=38),
    ],
)
def test_wrong_uses_are_errors_of_the_library(use):
    with pytest.raises(topoloss.TopolossError, match=r"expected|holds NaN"):
        use(torch.ones(3, 3))


def test_a_network_that_is_no_sequential_is_told():
    with pytest.raises(topoloss.InputError, match=r"the network is a Skips, .*expected a Sequ"):
        spectral_graph(Skips())


@pytest.mark.parametrize("wrong", [torch.eye(3).to_sparse(), torch.empty(3, 3, device="meta")])
def test_a_weight_that_is_not_dense_is_refused(wrong):
    with pytest.raises(topoloss.InputError, match=r"layer 'b' has a weight of .*expected a dense"):
        spectral_graph({"a": torch.ones(3, 3), "b": wrong})


@pytest.mark.parametrize("wrong", [torch.ones(3), torch.ones(0, 3), torch.ones(2, 3).long()])
def test_what_is_no_weight_is_refused(wrong):
    with pytest.raises(topoloss.InputError, match="layer 'b' has a weight of shape"):
        spectral_graph({"a": torch.ones(3, 3), "b": wrong})


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_weight_that_is_not_finite_is_named(bad):
    with pytest.raises(topoloss.NonFiniteError, match="layer 'b'"):
        spectral_graph({"a": torch.ones(3, 3), "b": torch.tensor([[1.0, bad, 1.0]])})


@parametrize_with_checks("filtration", topoloss.filtration("svr", sigma=None))
@parametrize_with_checks("regulariser", "svr[sigma=none]/mst/total-persistence", "svr/mst/t2")
def test_options_conform(check):
    check()
