"""Gradients: finite wherever values are, and one-sided derivatives where there is no gradient."""

import numpy as np
import oracles
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from properties.strategies import activations, small_integers
from scipy.sparse.csgraph import minimum_spanning_tree

import topoloss

FILTRATIONS = ("correlation", "cosine", "euclidean")
LOSSES = ("t1", "t2")
REGULARISERS = {
    f"{filtration}/mst/{loss}": topoloss.pipeline(filtration, "mst", loss)
    for filtration in FILTRATIONS
    for loss in (*LOSSES, "total-persistence")
} | {"naive": topoloss.regulariser("naive")}


def value_and_gradient(reg, x):
    x = x.detach().requires_grad_()
    value = reg(x)
    return value, torch.autograd.grad(value, x)[0]


def gradient_fits(name, x):
    """For each neuron, whether its gradient is far from overflowing in the dtype of `x`.

    A distance changes at most as much as its ends do. An angle between vectors changes at most as
    much as they do relative to their length, which is after centring for correlations. A neuron
    is in at most n - 1 deaths, or pairs, and none of them counts more than once.
    """
    a = oracles.as_float64(x)
    if "euclidean" in name:
        return np.ones(x.shape[1], np.bool_)
    if "cosine" not in name:
        a = a - a[0]
        a = a - a.mean(0)
    return np.abs(a).max(0) > 2 * x.shape[1] / torch.finfo(x.dtype).max


@pytest.mark.parametrize("name", REGULARISERS)
@given(data=st.data())
def test_gradients_are_finite(name, data):
    one = "cosine" in name or "euclidean" in name
    x = data.draw(activations(min_samples=1 if one else 2))
    value, gradient = value_and_gradient(REGULARISERS[name], x)
    assert torch.isfinite(value)
    assert gradient.dtype == x.dtype
    assert gradient.shape == x.shape
    assert not gradient.isnan().any()
    # What is larger than the dtype can say is infinite, as documented.
    assert torch.isfinite(gradient[:, gradient_fits(name, x)]).all()


# At ties


def _unit(x, u, centred):
    """Unit vectors of the columns of x, and how they change as x moves along u."""
    if centred:
        x, u = x - x.mean(0), u - u.mean(0)
    norm = np.linalg.norm(x, axis=0)
    unit = x / norm
    change = u / norm
    return unit, change - unit * (unit * change).sum(0)


def edges_along(filtration, x, u, flat_kinks):
    """Each edge's value, and its one-sided derivative as x moves along u; by hand.

    The kinks are at distance 0 and at correlation 0. They may count as flat, as they do in the
    gradients that the filtrations document.
    """
    i, j = np.triu_indices(x.shape[1], 1)
    if filtration == "euclidean":
        apart, moved = x[:, i] - x[:, j], u[:, i] - u[:, j]
        value = np.linalg.norm(apart, axis=0)
        inner = (apart * moved).sum(0) / np.where(value == 0, 1, value)
        at_kink = 0 if flat_kinks else np.linalg.norm(moved, axis=0)
        return i, j, value, np.where(value == 0, at_kink, inner)
    unit, change = _unit(x, u, filtration == "correlation")
    r = (unit[:, i] * unit[:, j]).sum(0)
    dr = (change[:, i] * unit[:, j] + unit[:, i] * change[:, j]).sum(0)
    at_kink = 0 if flat_kinks else np.abs(dr)
    return i, j, 1 - np.abs(r), -np.where(np.abs(r) < 1e-12, at_kink, np.sign(r) * dr)


def deaths_along(filtration, x, u, flat_kinks=False):
    """Deaths and their one-sided derivatives along u, in no order.

    Just beside x edges of equal value are ordered by their derivatives. The tree of that order is
    scipy's.
    """
    n = x.shape[1]
    i, j, value, derivative = edges_along(filtration, x.numpy(), u.numpy(), flat_kinks)
    # Distinct values of such small integers are further apart.
    order = np.lexsort((derivative, value.round(9)))
    rank = np.zeros((n, n))
    rank[i, j] = 1 + np.argsort(order)
    chosen = minimum_spanning_tree(rank).tocoo().data.astype(int) - 1
    return value[order[chosen]], derivative[order[chosen]]


def loss_along(loss, deaths, derivatives):
    if loss == "t1":
        return -derivatives.sum()
    if np.ptp(deaths) < 1e-9:
        change = np.std(derivatives)
    else:
        change = np.mean((deaths - deaths.mean()) * derivatives) / np.std(deaths)
    return -0.5 * np.mean(derivatives) + 0.5 * change


@st.composite
def at_ties(draw, filtration):
    """Points of a small grid, and a direction to leave them in."""
    x = draw(small_integers(high=1, min_rows=2, min_columns=2))
    u = draw(
        small_integers(
            high=3, min_rows=len(x), max_rows=len(x), min_columns=x.shape[1], max_columns=x.shape[1]
        )
    )
    # A constant neuron jumps away from r = 0: there is no derivative.
    live = {"correlation": x != x[0], "cosine": x != 0, "euclidean": x == x}[filtration]
    assume(live.any(0).all())
    return x, u


along_directions = pytest.mark.parametrize("filtration", FILTRATIONS)
# Second derivatives are of order 100 at most, so that a step off by so little is off by 1e-5; a
# quotient of differences of rounded values by 1e-7.
STEP = 2.0**-26
ATOL = 1e-5


@pytest.mark.parametrize("loss", LOSSES)
@along_directions
@given(data=st.data())
def test_at_ties_the_one_sided_derivative_is_that_of_the_edges_beside(filtration, loss, data):
    x, u = data.draw(at_ties(filtration))
    expected = loss_along(loss, *deaths_along(filtration, x, u))
    reg = topoloss.pipeline(filtration, "mst", loss)
    beside, gradient = value_and_gradient(reg, x + STEP * u)
    quotient = (beside.detach() - reg(x)) / STEP
    assert quotient.item() == pytest.approx(expected, rel=0, abs=ATOL)
    assert (gradient * u).sum().item() == pytest.approx(expected, rel=0, abs=ATOL)


@along_directions
@given(data=st.data())
def test_at_ties_the_gradient_of_t1_is_one_of_those_around(filtration, data):
    x, u = data.draw(at_ties(filtration))
    # T1 is the largest of minus the weights of the trees: its gradient at a tie is that of one of
    # the lightest, which leads no lower than the others do ahead, and no higher than behind.
    ahead, behind = (
        loss_along("t1", *deaths_along(filtration, x, side * u, flat_kinks=True))
        for side in (1, -1)
    )
    _, gradient = value_and_gradient(topoloss.pipeline(filtration, "mst", "t1"), x)
    assert -behind - 1e-12 <= (gradient * u).sum().item() <= ahead + 1e-12
