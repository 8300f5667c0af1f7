"""Filtrations beside plain correlation: its forms, the signed one, `spearman` and `hsic`."""

import math

import numpy as np
import oracles
import pytest
import torch
from scipy.stats import spearmanr

import topoloss
from topoloss.testing import check, parametrize_with_checks

FORMS = {
    "linear": lambda c: 1 - abs(c),
    "squared": lambda c: 1 - c**2,
    # What rounding leaves of copies is no angle.
    "root": lambda c: np.sqrt(np.where(1 - c**2 < 1e-14, 0, 1 - c**2)),
}


def values(filtration, x):
    """All edge values, off the diagonal."""
    v = filtration.vertices(x)
    i, j = torch.triu_indices(x.shape[1], x.shape[1], 1)
    return filtration.edge_values(v, i, j)


def off_diagonal(matrix):
    return torch.from_numpy(matrix[np.triu_indices(len(matrix), 1)])


def tree(filtration, x):
    edges = topoloss.pipeline(filtration).diagrams(x)[0].death_edges
    return {tuple(sorted(edge)) for edge in edges.tolist()}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("name", "cosines"), [("correlation", oracles.correlations), ("cosine", oracles.cosines)]
)
def test_forms_are_functions_of_the_correlation(name, cosines, form):
    x = torch.randn(9, 12, dtype=torch.float64)
    filtration = topoloss.filtration(name, form=form)
    torch.testing.assert_close(values(filtration, x), off_diagonal(FORMS[form](cosines(x))))
    assert tree(filtration, x) == tree(topoloss.filtration(name), x)


def test_forms_by_hand():
    """(3, 4) and (0, 1): the cosine is 4/5, so 1 - 4/5, 1 - 16/25 and sqrt(9/25)."""
    x = torch.tensor([[3.0, 0.0], [4.0, 1.0]])
    for form, expected in (("linear", 0.2), ("squared", 0.36), ("root", 0.6)):
        found = values(topoloss.filtration("cosine", form=form), x)
        assert found.item() == pytest.approx(expected, rel=1e-6)


def test_the_root_tells_neurons_that_differ_in_the_last_digits():
    """The sine of a small angle is the angle; ``1 - cos^2`` in float64 ends at 1e-16."""
    for angle in (1e-3, 1e-9, 1e-12):
        x = torch.tensor([[1.0, math.cos(angle)], [0.0, math.sin(angle)]], dtype=torch.float64)
        found = values(topoloss.filtration("cosine", form="root"), x)
        assert found.item() == pytest.approx(math.sin(angle), rel=1e-3)


@pytest.mark.parametrize("sign", [1, -1])
def test_at_the_kink_of_the_root_the_gradient_is_zero(sign):
    column = torch.randn(8, 1, dtype=torch.float64)
    x = torch.cat((column, sign * 3 * column + 1), 1).requires_grad_()
    value = values(topoloss.filtration("correlation", form="root"), x).sum()
    assert value.item() == 0
    (gradient,) = torch.autograd.grad(value, x)
    assert not gradient.any()


@pytest.mark.parametrize(("name", "form"), [("correlation", "squared"), ("cosine", "root")])
def test_forms_conform(name, form):
    cosines = {"correlation": oracles.correlations, "cosine": oracles.cosines}[name]
    check(
        "filtration",
        topoloss.filtration(name, form=form),
        expected=lambda x: FORMS[form](cosines(x)),
    )


def test_signed_correlation_by_hand():
    """(1, 2, 3) and (3, 2, 1) have r = -1; (1, 2, 3) and (1, 3, 2) have r = 1/2."""
    x = torch.tensor([[1.0, 3.0, 1.0], [2.0, 2.0, 3.0], [3.0, 1.0, 2.0]]).double()
    found = values(topoloss.filtration("signed-correlation"), x)
    torch.testing.assert_close(found, torch.tensor([2.0, 0.5, 1.5]).double())


@parametrize_with_checks(
    "filtration", "signed-correlation", expected=lambda x: 1 - oracles.correlations(x)
)
@parametrize_with_checks("filtration", topoloss.filtration("signed-correlation", constant="drop"))
def test_signed_correlation_conforms(check):
    check()


def test_neurons_that_move_against_each_other_are_copies_only_without_the_sign():
    x = torch.randn(20, 3, dtype=torch.float64)
    x[:, 1] = 1 - 2 * x[:, 0]
    deaths = {
        name: topoloss.pipeline(name).diagrams(x)[0].deaths.min().item()
        for name in ("correlation", "signed-correlation")
    }
    assert deaths["correlation"] == pytest.approx(0, abs=1e-12)
    assert deaths["signed-correlation"] > 0.5


def test_spearman_by_hand():
    """Ranks 1, 2, 3, 4 and 1, 3, 2, 4: r_s = 1 - 6 (0 + 1 + 1 + 0) / (4 * 15) = 4/5."""
    x = torch.tensor([[10.0, 0.1], [20.0, 0.5], [21.0, 0.4], [99.0, 7.0]]).double()
    assert values(topoloss.filtration("spearman"), x).item() == pytest.approx(0.2)


@pytest.mark.parametrize("tied", [False, True])
def test_spearman_is_that_of_scipy(tied):
    x = torch.randn(30, 8, dtype=torch.float64)
    x = (2 * x).round() if tied else x
    expected = off_diagonal(1 - abs(spearmanr(x.numpy()).statistic))
    torch.testing.assert_close(values(topoloss.filtration("spearman"), x), expected)


def test_spearman_sees_what_increases_alone():
    x = torch.randn(15, 5, dtype=torch.float64)
    filtration = topoloss.filtration("spearman")
    torch.testing.assert_close(values(filtration, x.exp()), values(filtration, x))
    torch.testing.assert_close(values(filtration, -(x**3)), values(filtration, x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_what_correlation_takes_for_rounding_has_no_ranks(dtype):
    x = torch.randn(12, 3, dtype=torch.float64)
    x[:, 1] = 10 + 5 * torch.finfo(dtype).eps * (x[:, 1] > 0).double()  # by the last digit
    x = x.to(dtype).requires_grad_()
    assert x[:, 1].unique().numel() == 2
    regulariser = topoloss.pipeline("spearman")
    constant = topoloss.filtration("correlation").vertices(x)[1]
    assert not constant.any()
    assert not topoloss.filtration("spearman").vertices(x)[1].any()
    (gradient,) = torch.autograd.grad(regulariser(x), x)
    assert not gradient[:, 1].any()
    assert gradient.abs().max() < 100


@pytest.mark.parametrize("scale", [1e-37, 1e30])
def test_tiny_and_huge_activations_have_the_ranks_of_others(scale):
    x = torch.randn(12, 4)
    small = (scale * x).requires_grad_()
    regulariser = topoloss.pipeline("spearman")
    value = regulariser(small)
    torch.testing.assert_close(value, regulariser(x))
    (gradient,) = torch.autograd.grad(value, small)
    assert torch.isfinite(gradient).all()


def test_where_activations_are_their_ranks_the_gradient_is_that_of_correlation():
    x = torch.stack([torch.randperm(10) + 1 for _ in range(4)], 1).double().requires_grad_()
    ours, pearsons = (
        torch.autograd.grad(topoloss.pipeline(name)(x), x)[0]
        for name in ("spearman", "correlation")
    )
    torch.testing.assert_close(ours, pearsons)
    # Ranks do not depend on the scale, so that the gradient is as much smaller as x is larger.
    (scaled,) = torch.autograd.grad(topoloss.pipeline("spearman")(100 * x), x)
    torch.testing.assert_close(scaled, ours)


def test_steps_against_the_gradient_take_neurons_apart():
    base = torch.randn(40, 1, dtype=torch.float64)
    x = (base + 0.3 * torch.randn(40, 6, dtype=torch.float64)).requires_grad_()
    regulariser = topoloss.pipeline("spearman")
    before = regulariser(x).item()
    optimiser = torch.optim.Adam([x], lr=0.02)
    for _ in range(100):
        optimiser.zero_grad()
        regulariser(x).backward()
        optimiser.step()
    assert regulariser(x).item() < 2 * before < 0


def by_definition(x, bandwidth=1.0):
    """One minus the cosines of centred matrices of kernels; a constant neuron has cosine 0."""
    columns = oracles.as_float64(x).T
    centring = np.eye(columns.shape[1]) - 1 / columns.shape[1]
    live = (columns != columns[:, :1]).any(1)
    features = np.zeros((len(columns), columns.shape[1] ** 2))
    for k in np.flatnonzero(live):
        kernels = kernels_of(columns[k] / columns[k].std(), bandwidth)
        features[k] = (centring @ kernels @ centring).ravel()
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    features /= np.where(live[:, None], lengths, 1)
    return 1 - features @ features.T


def kernels_of(column, bandwidth):
    return np.exp(-((column[:, None] - column) ** 2) / (2 * bandwidth**2))


@pytest.mark.parametrize("bandwidth", [0.3, 1.0, 40.0])
def test_hsic_is_that_of_the_definition(bandwidth):
    x = torch.randn(9, 7, dtype=torch.float64)
    x[:, 3] = 0.1
    expected = off_diagonal(by_definition(x, bandwidth))
    found = values(topoloss.filtration("hsic", bandwidth=bandwidth), x)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("bandwidth", [1e4, 1e12, 1e100, 1e300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_with_a_wide_bandwidth_hsic_is_the_squared_correlation(bandwidth, dtype):
    """Kernels then descend as squared distances, whose centred matrix is -2 x x^T."""
    x = torch.randn(9, 7, dtype=dtype).requires_grad_()
    filtration = topoloss.filtration("hsic", bandwidth=bandwidth)
    found = values(filtration, x)
    expected = off_diagonal(1 - oracles.correlations(x) ** 2).to(dtype)
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    (expected,) = torch.autograd.grad(
        values(topoloss.filtration("correlation", form="squared"), x).sum(), x
    )
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bandwidth", [1e-12, 1e-100, 1e-300])
def test_with_a_narrow_bandwidth_all_neurons_without_ties_are_copies(bandwidth):
    """Each sample is like itself alone, so that all matrices of kernels are the identity."""
    x = torch.randn(9, 7).requires_grad_()
    found = values(topoloss.filtration("hsic", bandwidth=bandwidth), x)
    torch.testing.assert_close(found, torch.zeros(21))
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert not gradient.any()


def test_hsic_by_hand():
    """Any centred 2 x 2 matrix of kernels is a multiple of (1, -1; -1, 1): all neurons are copies.

    Three samples -1, 0, 1 of one neuron and 0, 1, 0 of another do not correlate, and HSIC sees that
    they depend on each other. In units of their standard deviations, sqrt(2/3) and sqrt(2)/3, the
    kernels of the first are p = exp(-3/4) at distance 1 and q = exp(-3) at distance 2. Its centred
    matrix has the eigenvectors (1, -2, 1) and (1, 0, -1), with the eigenvalues (3 - 4 p + q)/3 and
    1 - q. That of the second neuron has the first of these eigenvectors alone.
    """
    x = torch.tensor([[0.0, 5.0], [1.0, -7.0]]).double()
    assert values(topoloss.filtration("hsic"), x).item() == pytest.approx(0, abs=1e-12)
    x = torch.tensor([[-1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]).double()
    assert values(topoloss.filtration("correlation"), x).item() == pytest.approx(1)
    p, q = math.exp(-3 / 4), math.exp(-3)
    shared, own = (3 - 4 * p + q) / 3, 1 - q
    expected = 1 - shared / math.hypot(shared, own)
    assert values(topoloss.filtration("hsic"), x).item() == pytest.approx(expected, rel=1e-12)


def test_hsic_conforms_with_another_bandwidth():
    check(
        "filtration",
        topoloss.filtration("hsic", bandwidth=0.4),
        expected=lambda x: by_definition(x, 0.4),
    )


@pytest.mark.parametrize("bandwidth", [0, -1.0, "wide"])
def test_a_bandwidth_is_above_0(bandwidth):
    with pytest.raises(topoloss.OptionError, match="bandwidth > 0"):
        topoloss.filtration("hsic", bandwidth=bandwidth)
