"""The known diagrams of the examples are those of independent oracles."""

import oracles
import pytest
import torch

import topoloss
from topoloss.testing import examples

EXAMPLES = [
    examples.two_clusters(),
    examples.duplicated(),
    examples.constant_column(),
    examples.orthogonal(),
    examples.generic(),
    examples.generic(samples=33, neurons=32, seed=7),
    examples.generic(neurons=2),
]


def by_name(example):
    return example.name


@pytest.mark.parametrize("example", EXAMPLES, ids=by_name)
def test_the_deaths_are_those_of_single_linkage(example):
    expected = oracles.h0_deaths(oracles.MATRICES["correlation"](example.activations))
    torch.testing.assert_close(example.deaths, torch.tensor(expected), rtol=0, atol=1e-12)
    assert example.t1 == pytest.approx(oracles.t1(expected), abs=1e-12)
    assert example.t2 == pytest.approx(oracles.t2(expected), abs=1e-12)


@pytest.mark.parametrize("example", EXAMPLES, ids=by_name)
def test_the_shipped_pipeline_finds_them(example):
    for name, value in (("t1", example.t1), ("t2", example.t2)):
        regulariser = topoloss.regulariser(name)
        assert regulariser(example.activations).item() == pytest.approx(value, abs=1e-12)
        deaths = regulariser.diagrams(example.activations)[0].deaths
        torch.testing.assert_close(deaths, example.deaths, rtol=0, atol=1e-12)


@pytest.mark.parametrize("example", EXAMPLES, ids=by_name)
def test_the_name_makes_the_example_again(example):
    again = eval(example.name, vars(examples))
    assert torch.equal(again.activations, example.activations)


@pytest.mark.parametrize("seed", range(20))
def test_generic_neurons_have_distinct_correlations_that_are_neither_0_nor_1(seed):
    r = torch.tensor(oracles.correlations(examples.generic(seed=seed).activations)).abs()
    values = r[torch.triu_indices(6, 6, 1).unbind()].sort().values
    assert values[0] > 0.3
    assert values[-1] < 0.96
    assert values.diff().min() > 1e-5
    # No edge between others comes near those that join its ends to the first.
    others = r[1:, 1:].fill_diagonal_(0)
    assert (torch.minimum(r[0, 1:, None], r[0, 1:]) - others).min() > 0.01


def test_one_neuron_has_no_deaths():
    example = examples.generic(neurons=1)
    assert example.deaths.shape == (0,)
    assert (example.t1, example.t2) == (0, 0)


def test_too_few_samples_are_an_error():
    with pytest.raises(topoloss.InputError, match="more samples than neurons"):
        examples.generic(samples=6, neurons=6)
