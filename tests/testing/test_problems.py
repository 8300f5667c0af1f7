"""The known diagrams of the problems are those of independent oracles."""

import oracles
import pytest
import torch

import topoloss
from topoloss.testing import problems

PROBLEMS = [
    problems.two_clusters(),
    problems.duplicated(),
    problems.constant_column(),
    problems.orthogonal(),
    problems.generic(),
    problems.generic(samples=33, neurons=32, seed=7),
    problems.generic(neurons=2),
]


def by_name(problem):
    return problem.name


@pytest.mark.parametrize("problem", PROBLEMS, ids=by_name)
def test_the_deaths_are_those_of_single_linkage(problem):
    expected = oracles.h0_deaths(oracles.MATRICES["correlation"](problem.activations))
    torch.testing.assert_close(problem.deaths, torch.tensor(expected), rtol=0, atol=1e-12)
    assert problem.t1 == pytest.approx(oracles.t1(expected), abs=1e-12)
    assert problem.t2 == pytest.approx(oracles.t2(expected), abs=1e-12)


@pytest.mark.parametrize("problem", PROBLEMS, ids=by_name)
def test_the_shipped_pipeline_finds_them(problem):
    for name, value in (("t1", problem.t1), ("t2", problem.t2)):
        regulariser = topoloss.regulariser(name)
        assert regulariser(problem.activations).item() == pytest.approx(value, abs=1e-12)
        deaths = regulariser.diagrams(problem.activations)[0].deaths
        torch.testing.assert_close(deaths, problem.deaths, rtol=0, atol=1e-12)


@pytest.mark.parametrize("problem", PROBLEMS, ids=by_name)
def test_the_name_makes_the_problem_again(problem):
    again = eval(problem.name, vars(problems))
    assert torch.equal(again.activations, problem.activations)


@pytest.mark.parametrize("seed", range(20))
def test_generic_neurons_have_distinct_correlations_that_are_neither_0_nor_1(seed):
    r = torch.tensor(oracles.correlations(problems.generic(seed=seed).activations)).abs()
    values = r[torch.triu_indices(6, 6, 1).unbind()].sort().values
    assert values[0] > 0.3
    assert values[-1] < 0.96
    assert values.diff().min() > 1e-5
    # No edge between others comes near those that join its ends to the first.
    others = r[1:, 1:].fill_diagonal_(0)
    assert (torch.minimum(r[0, 1:, None], r[0, 1:]) - others).min() > 0.01


def test_one_neuron_has_no_deaths():
    problem = problems.generic(neurons=1)
    assert problem.deaths.shape == (0,)
    assert (problem.t1, problem.t2) == (0, 0)


def test_too_few_samples_are_an_error():
    with pytest.raises(topoloss.InputError, match="more samples than neurons"):
        problems.generic(samples=6, neurons=6)
