"""Deaths and values of anything that is finite are those of numpy, scipy and ripser."""

import numpy as np
import oracles
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from properties import exact
from properties.strategies import activations

import topoloss

BACKENDS = ("numba", "torch", "reference")
backends = pytest.mark.parametrize("backend", BACKENDS)
angular = pytest.mark.parametrize("filtration", exact.ANGULAR)
LOSSES = {"t1": oracles.t1, "t2": oracles.t2}


def deaths_of(filtration, x, backend="auto"):
    mst = topoloss.persistence("mst", backend=backend)
    deaths = topoloss.pipeline(filtration, mst, "t1").diagrams(x)[0].deaths
    assert deaths.shape == (x.shape[1] - 1,)
    assert (deaths.diff() >= 0).all()
    assert (deaths >= 0).all()
    return deaths.double().numpy()


def expected_of(filtration, x):
    expected = exact.ANGULAR[filtration](x)
    assume(not expected.doubtful)
    return expected


def of_a_nearly_minimum_tree(x, backend):
    """How much deaths may be off because the backend's keys are rounded.

    The tree is minimum for the rounded keys, so that its sorted values are off by that rounding
    once where they are sorted and once where they are valued. ``torch`` rounds keys of d features
    by d eps of the features' dtype, the others by that of float64.
    """
    return 2 * len(x) * (exact.eps(x) if backend == "torch" else exact.EPS64)


@backends
@angular
@given(data=st.data())
def test_angular_deaths_equal_the_oracle(filtration, backend, data):
    x = data.draw(activations(min_samples=2 if filtration == "correlation" else 1))
    matrix, atol, _ = expected_of(filtration, x)
    atol += of_a_nearly_minimum_tree(x, backend)
    deaths = deaths_of(filtration, x, backend)
    np.testing.assert_allclose(deaths, oracles.h0_deaths(matrix), rtol=0, atol=atol)


@backends
@given(x=activations())
def test_euclidean_deaths_equal_the_oracle(backend, x):
    matrix, unit = exact.distances(x)
    deaths = deaths_of("euclidean", x, backend) / unit
    expected = oracles.h0_deaths(matrix)
    # Squares of distances are what keys hold: 'torch' rounds them by 4 d eps of float64 times the
    # square of the largest distance, once where deaths are sorted and once where they are valued.
    # The others round them relative to themselves.
    relative = (len(x) + 8) * (exact.eps(x) + 2 * exact.EPS64)
    largest = matrix.max() ** 2
    absolute = (8 * len(x) * exact.EPS64 if backend == "torch" else 0) * largest
    # The smallest numbers are their own rounding errors.
    smallest = torch.finfo(torch.promote_types(x.dtype, torch.float32)).smallest_normal / unit
    np.testing.assert_allclose(
        deaths**2, expected**2, rtol=relative, atol=absolute + smallest**2 + 1e-300
    )


@angular
@given(x=activations(min_samples=2))
def test_angular_deaths_equal_those_of_ripser(filtration, x):
    assume(x.shape[1] > 1)
    matrix, atol, _ = expected_of(filtration, x)
    expected = oracles.ripser_deaths(matrix)
    # ripser rounds the matrix to float32.
    np.testing.assert_allclose(
        deaths_of(filtration, x), expected, rtol=0, atol=atol + torch.finfo(torch.float32).eps
    )


@given(x=activations(min_samples=2))
def test_t1_is_minus_the_weight_of_the_minimum_spanning_tree(x):
    matrix, atol, _ = expected_of("correlation", x)
    _, weight = oracles.spanning_tree(matrix)
    n = x.shape[1]
    # A sum of n - 1 numbers of at most 1 rounds by eps / 2 for each pair of them.
    atol = n * (atol + of_a_nearly_minimum_tree(x, "numba")) + n**2 * exact.eps(x)
    assert topoloss.regulariser("t1")(x).item() == pytest.approx(-weight, rel=0, abs=atol)


@pytest.mark.parametrize("loss", LOSSES)
@angular
@given(data=st.data())
def test_losses_of_angles_equal_the_oracle(filtration, loss, data):
    x = data.draw(activations(min_samples=2 if filtration == "correlation" else 1))
    matrix, atol, _ = expected_of(filtration, x)
    deaths, n = oracles.h0_deaths(matrix), x.shape[1]
    # Of a sum of n numbers of at most 1 the rounding is at most n^2 / 2 eps. T2 is Lipschitz in the
    # deaths with constant 1, and its mean, squares, sum of squares and root round less than 3 n + 8
    # numbers do.
    atol += of_a_nearly_minimum_tree(x, "numba")
    atol = n * atol + n**2 * exact.eps(x) if loss == "t1" else atol + (3 * n + 8) * exact.eps(x)
    reg = topoloss.pipeline(filtration, "mst", loss)
    expected = LOSSES[loss](deaths)
    for value in (reg(x), *reg(x.expand(2, *x.shape))):
        assert value.item() == pytest.approx(expected, rel=0, abs=atol)


@pytest.mark.parametrize("loss", LOSSES)
@given(x=activations())
def test_losses_of_distances_equal_the_oracle(loss, x):
    matrix, unit = exact.distances(x)
    deaths, n = oracles.h0_deaths(matrix), x.shape[1]
    largest = max(deaths, default=0)
    atol = (len(x) + 8 + 3 * n) * (exact.eps(x) + 2 * exact.EPS64) * largest
    smallest = torch.finfo(torch.promote_types(x.dtype, torch.float32)).smallest_normal / unit
    atol = (atol + smallest) * (n if loss == "t1" else 1)
    reg = topoloss.pipeline("euclidean", "mst", loss)
    expected = LOSSES[loss](deaths)
    for value in (reg(x), *reg(x.expand(2, *x.shape))):
        assert value.item() / unit == pytest.approx(expected, rel=0, abs=atol)


@given(x=activations(min_samples=2))
def test_naive_equals_numpy(x):
    columns_matrix, atol, doubtful = exact.correlation(x)
    assume(not doubtful)
    n = x.shape[1]
    r = 1 - columns_matrix
    expected = oracles.naive(r)
    # n^2 numbers are summed, in some order.
    atol += (n**2 + 4) * exact.eps(x) / 2 * expected
    assert topoloss.regulariser("naive")(x).item() == pytest.approx(expected, rel=0, abs=atol)
