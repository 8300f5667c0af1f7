"""Gradients: exact to second order at generic points, as stated at the others."""

import oracles
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.graph import saved_tensors_hooks
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

import topoloss

CORRELATION_REGULARISERS = ("t1", "t2", "naive")
BACKENDS = ("numba", "torch", "reference")

LOSSES = [
    ("t1", {}),
    ("t2", {}),
    ("t2", {"alpha": 0.0, "beta": 2.0}),
    ("total-persistence", {}),
    ("total-persistence", {"power": 2.5}),
    ("persistent-entropy", {}),
    ("beta-connectivity", {"beta": 0.3}),
    ("wasserstein", {"target": [(0.0, 0.2), (0.0, 0.7)], "power": 2.0}),
    ("bottleneck", {"target": [(0.0, 0.2)]}),
]
PIPELINES = {
    f"{filtration}, {loss}{options or ''}": (filtration, loss, options)
    # Not spearman, whose gradient is declared to be another than that of its value.
    for filtration, losses in {
        "correlation": LOSSES,
        "euclidean": LOSSES,
        "cosine": LOSSES[:2],
        "hsic": LOSSES[:2],
        "signed-correlation": LOSSES[:2],
    }.items()
    for loss, options in losses
}


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def gradient(function, x):
    x = x.detach().clone().requires_grad_()
    (g,) = torch.autograd.grad(function(x), x)
    return g


def has_correct_derivatives(function, *inputs):
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    return gradcheck(function, inputs) and gradgradcheck(function, inputs)


def generic(samples=7, neurons=5):
    """A point of Theorem 1's dense open set, and not close to its complement."""
    x = randn(samples, neurons)
    r = oracles.correlations(x)[torch.triu_indices(neurons, neurons, 1).unbind()]
    distinct = torch.tensor(abs(r)).sort().values.diff()
    assert distinct.min() > 1e-4
    assert abs(r).min() > 1e-3
    return x


@pytest.mark.parametrize("name", CORRELATION_REGULARISERS)
def test_regularisers_pass_gradcheck_and_gradgradcheck(name):
    assert has_correct_derivatives(topoloss.regulariser(name), generic())


@pytest.mark.parametrize("name", CORRELATION_REGULARISERS)
def test_a_value_and_a_penalty_of_its_gradient_are_differentiated_together(name):
    def penalised(x):
        value = topoloss.regulariser(name)(x)
        (g,) = torch.autograd.grad(value, x, create_graph=True)
        return value + g.square().sum()

    assert gradcheck(penalised, generic().requires_grad_())


@pytest.mark.parametrize("case", PIPELINES)
def test_pipelines_pass_gradcheck_and_gradgradcheck(case):
    filtration, loss, options = PIPELINES[case]
    reg = topoloss.pipeline(filtration, "mst", topoloss.loss(loss, **options))
    assert has_correct_derivatives(reg, generic(samples=5, neurons=4))


@pytest.mark.parametrize("name", CORRELATION_REGULARISERS)
def test_batches_pass_gradcheck_and_gradgradcheck(name):
    x = generic(samples=5, neurons=4)
    x = torch.stack((x, x.flip(0) * 2 + 1, randn(5, 4, seed=3)))
    assert has_correct_derivatives(topoloss.regulariser(name), x)


@pytest.mark.parametrize("name", CORRELATION_REGULARISERS)
def test_dropped_constants_pass_gradcheck_and_gradgradcheck(name):
    correlation = topoloss.filtration("correlation", constant="drop")
    options = {"constant": "drop"} if name == "naive" else {"filtration": correlation}
    reg, constant = topoloss.regulariser(name, **options), torch.ones(7, 1).double()
    assert has_correct_derivatives(lambda x: reg(torch.cat((constant, x), 1)), generic())


class Valued(torch.nn.Module):
    """A model whose output is the value of a regulariser of its inner network."""

    def __init__(self, name):
        super().__init__()
        self.regulariser = topoloss.regulariser(name)
        self.net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1)).double()

    def forward(self):
        return self.regulariser(dict(self.net.named_parameters()))


@pytest.mark.parametrize("name", ["l1", "l2"])
def test_norms_pass_gradcheck_and_gradgradcheck(name):
    valued = Valued(name)
    names, parameters = zip(*valued.named_parameters(), strict=True)
    assert min(p.abs().min() for p in parameters) > 1e-3

    def of_parameters(*values):
        return torch.func.functional_call(valued, dict(zip(names, values, strict=True)), ())

    assert has_correct_derivatives(of_parameters, *parameters)


def test_the_gradient_of_l1_at_a_zero_weight_is_zero():
    layer = torch.nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[2.0, 0.0, -3.0]]))
    topoloss.regulariser("l1")({"weight": layer.weight}).backward()
    assert layer.weight.grad.tolist() == [[1.0, 0.0, -1.0]]


# Constant neurons


def explicit(name, live, constants):
    """The formula on the live neurons, with one death 1 and correlations 0 per constant."""
    r = torch.corrcoef(live.T).abs()
    n = live.shape[1] + constants
    if name == "naive":
        return r.triu(1).sum() / (n * (n - 1) / 2)
    edges, _ = oracles.spanning_tree(oracles.MATRICES["correlation"](live))
    deaths = torch.cat((1 - r[tuple(edges.T)], r.new_ones(constants)))
    if name == "t1":
        return -deaths.sum()
    return -deaths.mean() / 2 + deaths.std(correction=0) / 2


@pytest.mark.parametrize("values", [[0.0], [0.1], [1e9, 0.0, -3.0]], ids=str)
@pytest.mark.parametrize("name", CORRELATION_REGULARISERS)
def test_constants_leave_the_others_the_gradient_of_the_formula(name, values):
    live = generic()
    constants = torch.tensor(values).double().expand(7, -1)
    # In the middle: every live neuron but the first comes after a constant.
    x = torch.cat((live[:, :1], constants, live[:, 1:]), 1)
    g = gradient(topoloss.regulariser(name), x)
    assert (g[:, 1 : 1 + len(values)] == 0).all()
    of_live = torch.cat((g[:, :1], g[:, 1 + len(values) :]), 1)
    expected = gradient(lambda x: explicit(name, x, len(values)), live)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(of_live, expected, rtol=0, atol=1e-13)


def test_a_constant_does_not_change_the_gradient_of_t1():
    live = generic()
    x = torch.cat((live, torch.full((7, 1), 0.1)), 1)
    t1 = topoloss.regulariser("t1")
    torch.testing.assert_close(gradient(t1, x)[:, :-1], gradient(t1, live), rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", CORRELATION_REGULARISERS)
def test_dead_relus_do_not_switch_the_regulariser_off(name):
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU())
    with torch.no_grad():
        model[0].bias[2:4] = -100
    activations = model(randn(32, 4, dtype=torch.float32))
    assert (activations == 0).all(0).tolist() == [False, False, True, True] + [False] * 4
    topoloss.regulariser(name)(activations).backward()
    weight = model[0].weight.grad
    assert torch.isfinite(weight).all()
    assert (weight[2:4] == 0).all()
    assert (weight[[0, 1, 4, 5, 6, 7]].abs().amax(1) > 1e-5).all()


@pytest.mark.parametrize("name", CORRELATION_REGULARISERS)
def test_constants_have_finite_second_derivatives(name):
    x = torch.cat((generic(), torch.ones(7, 2)), 1).requires_grad_()
    (g,) = torch.autograd.grad(topoloss.regulariser(name)(x), x, create_graph=True)
    (h,) = torch.autograd.grad(g.square().sum(), x)
    assert torch.isfinite(h).all()
    assert (h[:, -2:] == 0).all()
    assert h.abs().max() > 1e-3


@pytest.mark.parametrize("filtration", ["correlation", "cosine", "euclidean"])
@pytest.mark.parametrize("loss", ["t1", "t2", "total-persistence"])
def test_all_neurons_zero_has_zero_gradient(filtration, loss):
    reg = topoloss.pipeline(filtration, "mst", loss)
    assert (gradient(reg, torch.zeros(6, 4)) == 0).all()


# Duplicates, opposites, orthogonal neurons, ties, equal deaths


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("seed", range(6))
def test_copies_have_the_derivatives_of_a_smooth_function(sign, seed):
    # 1 - |r| is smooth at r = +-1. Some of these seeds round it below zero: a clamp that
    # swallowed the gradient there would give a zero second derivative.
    a = randn(6, 1, seed=seed)
    x = torch.cat((a, sign * 3 * a + 1), 1)
    t1 = topoloss.regulariser("t1")
    assert gradient(t1, x).abs().max() < 1e-12
    assert has_correct_derivatives(t1, x)
    assert torch.autograd.functional.hessian(t1, x).abs().max() > 1e-3


@pytest.mark.parametrize("name", CORRELATION_REGULARISERS)
def test_the_gradient_at_correlation_zero_is_zero(name):
    h = torch.ones(1, 1).double()
    for _ in range(3):
        h = torch.cat((torch.cat((h, h), 1), torch.cat((h, -h), 1)))
    x = h[:, 1:]
    assert torch.equal(x.T @ x, 8 * torch.eye(7).double())
    assert (x.sum(0) == 0).all()
    assert (gradient(topoloss.regulariser(name), x) == 0).all()


def line(*positions):
    """Neurons on a line: one sample, so that Euclidean distances are differences."""
    return torch.tensor([positions], dtype=torch.float64)


def test_the_kink_of_the_standard_deviation_has_gradient_zero():
    reg = topoloss.pipeline("euclidean", "mst", "t2")
    # Deaths 1, 1, 1; what is left is the mean, -(x_3 - x_0) / 3 / 2.
    x = line(0, 1, 2, 3)
    assert reg(x).item() == -0.5
    torch.testing.assert_close(gradient(reg, x), line(1 / 6, 0, 0, -1 / 6))


@pytest.mark.parametrize("n", range(3, 12))
def test_equal_deaths_whose_mean_is_rounded_are_equal_all_the_same(n):
    # The corners of a simplex: all deaths are one number, but for some n it is not their
    # computed mean, and the standard deviation of the difference would be a division of noise.
    corners = torch.eye(n, dtype=torch.float64) / 3
    mean_only = topoloss.pipeline("euclidean", "mst", topoloss.loss("t2", beta=0.0))
    with_std = topoloss.pipeline("euclidean", "mst", "t2")
    assert torch.equal(with_std(corners), mean_only(corners))
    assert torch.equal(gradient(with_std, corners), gradient(mean_only, corners))


@pytest.mark.parametrize("gap", [1.0, 1e-3, 1e-9])
def test_beside_the_kink_the_standard_deviation_keeps_a_gradient_of_constant_norm(gap):
    std = topoloss.pipeline("euclidean", "mst", topoloss.loss("t2", alpha=0.0, beta=1.0))
    # Deaths 1 and 1 + gap: their standard deviation is (x_2 - 2 x_1 + x_0) / 2.
    x = line(0, 1, 2 + gap)
    assert std(x).item() == pytest.approx(gap / 2, rel=1e-6)
    torch.testing.assert_close(gradient(std, x), line(0.5, -1, 0.5))


def test_a_spread_whose_square_underflows_keeps_its_gradient():
    x = line(0, 1e-200, 3e-200)
    g = gradient(topoloss.pipeline("euclidean", "mst", "t2"), x)
    # -(x_2 - x_0) / 4 for the mean, and (x_2 - 2 x_1 + x_0) / 4 for the deviation.
    torch.testing.assert_close(g, line(0.5, -0.5, 0))


@pytest.mark.parametrize("backend", BACKENDS)
def test_at_a_tie_the_gradient_is_that_of_the_lexicographically_first_tree(backend):
    # The corners of a square: all four sides tie, the tree takes 01, 02 and 13.
    corners = torch.tensor([[0.0, 1, 0, 1], [0, 0, 1, 1]]).double()
    reg = topoloss.pipeline("euclidean", topoloss.persistence("mst", backend=backend), "t1")
    expected = torch.tensor([[1.0, -1, 0, 0], [1, 1, -1, -1]]).double()
    assert torch.equal(gradient(reg, corners), expected)


def test_between_equal_vertices_the_euclidean_gradient_is_zero_to_every_order():
    reg = topoloss.pipeline("euclidean", "mst", "t1")
    x = torch.tensor([[1.0, 1.0], [2.0, 2.0]]).double()
    assert (gradient(reg, x) == 0).all()
    assert (torch.autograd.functional.hessian(reg, x) == 0).all()


@pytest.mark.parametrize("name", CORRELATION_REGULARISERS)
@pytest.mark.parametrize("factor", [1e-30, 1e30], ids=str)
def test_gradients_scale_inversely_with_the_activations(name, factor):
    reg, x = topoloss.regulariser(name), generic().float()
    scaled = gradient(reg, x * factor) * factor
    # Rescaling rounds each entry by eps; the gradients are of order 1.
    torch.testing.assert_close(scaled, gradient(reg, x), rtol=0, atol=5e-7)


@pytest.mark.parametrize("name", CORRELATION_REGULARISERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_gradients_are_those_of_float32_rounded_once(name, dtype):
    reg = topoloss.regulariser(name)
    x = torch.cat((generic(), torch.ones(7, 1)), 1).to(dtype)
    g = gradient(reg, x)
    assert g.dtype == dtype
    assert torch.equal(g, gradient(reg, x.float()).to(dtype))
    assert torch.isfinite(g).all()


@pytest.mark.parametrize("name", CORRELATION_REGULARISERS)
def test_one_neuron_has_value_zero_and_gradient_zero(name):
    x = randn(5, 1).requires_grad_()
    value = topoloss.regulariser(name)(x)
    assert value.item() == 0
    value.backward()
    assert (x.grad == 0).all()


# What backward costs


def saved_sizes(function, x):
    sizes = []

    def pack(tensor):
        sizes.append(tensor.numel())
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        function(x.requires_grad_()).backward()
    return sizes


@pytest.mark.parametrize("filtration", ["correlation", "cosine", "euclidean"])
@pytest.mark.parametrize("loss", ["t1", "t2", "total-persistence"])
def test_backward_saves_nothing_of_the_size_of_the_matrix(filtration, loss):
    n, samples = 300, 4
    reg = topoloss.pipeline(filtration, "mst", loss)
    sizes = saved_sizes(reg, randn(samples, n))
    assert 0 < max(sizes) <= n * samples


class MadeSizes(TorchDispatchMode):
    """The numbers of elements of every tensor that an operation makes inside."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.sizes += [t.numel() for t in pytree.tree_leaves(made) if isinstance(t, torch.Tensor)]
        return made


def sizes_made_by_backward(function, x):
    value = function(x.requires_grad_())
    with MadeSizes() as made:
        value.backward()
    return made.sizes


@pytest.mark.parametrize("filtration", ["correlation", "cosine", "euclidean"])
@pytest.mark.parametrize("loss", ["t1", "t2", "total-persistence"])
def test_backward_makes_nothing_of_the_size_of_the_matrix(filtration, loss):
    n, samples = 300, 4
    reg = topoloss.pipeline(filtration, "mst", loss)
    assert 0 < max(sizes_made_by_backward(reg, randn(samples, n))) <= n * samples


@pytest.mark.parametrize("sizes", [saved_sizes, sizes_made_by_backward])
def test_naive_decorrelation_needs_no_matrix_either(sizes):
    assert 0 < max(sizes(topoloss.regulariser("naive"), randn(4, 300))) <= 300 * 4


@pytest.mark.parametrize("sizes", [saved_sizes, sizes_made_by_backward])
def test_a_matrix_would_be_seen(sizes):
    assert max(sizes(lambda x: (x.T @ x).abs().sum(), randn(4, 300))) >= 300**2
