"""Each contestant computes T1, and one that does not is refused."""

import oracles
import pytest
import torch

from benchmarks.cases import Case
from benchmarks.contestants import CONTESTANTS, cpu_round_trip, topoloss_t1
from benchmarks.reference import DisagreementError, Reference, check, reference
from topoloss import MissingExtraError

SMALL = Case(neurons=40, samples=16, turns=1, steps=1)
PREPARE = {c.name: c.prepare for c in CONTESTANTS["cpu"] if c.computes != "product"}
# What takes part on a GPU and runs on a CPU too.
PREPARE |= {
    "topoloss_dense": lambda x: topoloss_t1(x, backend="torch"),
    "topoloss_on_cpu": cpu_round_trip,
}
FORWARD_ONLY = {c.name for c in CONTESTANTS["cpu"] if c.computes == "forward"}


@pytest.fixture
def x():
    return SMALL.activations("cpu")


def expected(x):
    """By scipy, from the matrix of all correlations in float64, and autograd of that matrix."""
    deaths = oracles.h0_deaths(oracles.MATRICES["correlation"](x))
    edges, _ = oracles.spanning_tree(oracles.MATRICES["correlation"](x))
    x = x.double().requires_grad_()
    i, j = torch.from_numpy(edges).long().unbind(1)
    (torch.corrcoef(x.T).abs() - 1)[i, j].sum().backward()
    return Reference(torch.from_numpy(deaths), x.grad)


@pytest.mark.parametrize("name", PREPARE)
def test_contestant_agrees_with_scipy_and_autograd(name, x):
    own = x.clone().requires_grad_()
    try:
        deaths = PREPARE[name](own)()
    except MissingExtraError as error:
        pytest.skip(str(error))
    assert (own.grad is None) == (name in FORWARD_ONLY)
    check(name, deaths, own.grad, expected(x))


def test_a_second_step_gives_the_same_gradient(x):
    x.requires_grad_()
    step = topoloss_t1(x)
    step()
    first = x.grad
    step()
    assert torch.equal(first, x.grad)


def test_the_limit_is_the_product_of_the_neurons(x):
    product = CONTESTANTS["cpu"][0].prepare(x)()
    torch.testing.assert_close(product, x.T @ x)


def test_reference_agrees_with_scipy_and_autograd(x):
    for found, oracle in zip(reference(x), expected(x), strict=True):
        torch.testing.assert_close(found, oracle, rtol=0, atol=1e-14)


def test_reference_leaves_the_activations_alone(x):
    x.requires_grad_()
    reference(x)
    assert x.grad is None


def changed(tensor, value):
    tensor = tensor.clone()
    tensor.view(-1)[-1] += value
    return tensor


@pytest.mark.parametrize("by", [1e-3, torch.nan, torch.inf])
def test_other_deaths_and_other_gradients_are_refused(by, x):
    right = expected(x)
    check("right", *right, right)
    with pytest.raises(DisagreementError, match="deaths of wrong"):
        check("wrong", changed(right.deaths, by), None, right)
    with pytest.raises(DisagreementError, match="gradients of wrong"):
        check("wrong", right.deaths, changed(right.gradient, by), right)


def test_deaths_that_were_dropped_are_refused(x):
    right = expected(x)
    with pytest.raises(DisagreementError, match=r"\(38,\) deaths of 40 neurons"):
        check("wrong", right.deaths[1:], None, right)


def test_a_tree_that_is_not_minimal_is_refused(x):
    """A path through all neurons has a gradient as well."""
    own = x.clone().requires_grad_()
    r = torch.corrcoef(own.T)
    deaths = 1 - r.diagonal(1).abs()
    (-deaths.sum()).backward()
    with pytest.raises(DisagreementError, match="deaths of path"):
        check("path", deaths.detach(), own.grad, expected(x))
