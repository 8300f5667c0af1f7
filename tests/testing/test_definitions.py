"""What only a definition can tell: a component that is consistent, but another than meant."""

import itertools

import numpy as np
import pytest
import torch
from testing.broken import losses, regularisers
from testing.unusual import filtrations as unusual
from testing.unusual import regularisers as unusual_regularisers

import topoloss
from topoloss.testing import CheckFailed, check
from topoloss.testing.cases import cases
from topoloss.testing.kinds import KINDS


def t2(diagrams):
    deaths = diagrams[0].deaths.numpy()
    # numpy's std divides by the number of deaths, as the paper does.
    return (deaths.std() - deaths.mean()) / 2 if len(deaths) else 0.0


def agrees(kind, component, expected):
    """Check the rule of the definition alone."""
    (case,) = (c for c in cases(kind, component, expected=expected) if c.rule == "definition")
    case()


def departs_alone(kind, component, expected, message=None):
    """Check all rules, of which no other may be broken."""
    with pytest.raises(CheckFailed, match=message) as failure:
        check(kind, component, expected=expected)
    assert failure.value.rule == "definition"
    assert "also broken" not in str(failure.value)


def test_the_divisor_of_a_standard_deviation_is_caught():
    agrees("loss", "t2", t2)
    departs_alone("loss", losses.SampleT2, t2, "correction=0")


def test_a_filtration_that_is_another_than_meant_is_caught():
    def by_definition(x):
        centred = (x - x.mean(0)) / (x - x.mean(0)).norm(dim=0).clamp(min=1e-9)
        return 1 - (centred.T @ centred).abs()

    agrees("filtration", "correlation", by_definition)
    departs_alone("filtration", "cosine", by_definition, "the value by definition")


def test_a_filtration_of_weights_is_compared_by_weights():
    def distances(weights):
        rows = weights["0"].numpy()
        return torch.from_numpy(abs(rows[:, None] - rows).sum(-1))

    agrees("filtration", unusual.RowsOfWeights, distances)
    departs_alone("filtration", unusual.RowsOfWeights, lambda weights: 2 * distances(weights))


def test_a_regulariser_that_is_another_than_meant_is_caught():
    mse = regularisers.Mse
    agrees("regulariser", mse, lambda x: x.numpy().var() + x.numpy().mean() ** 2)
    departs_alone("regulariser", mse, lambda x: x.numpy().var())


def test_a_regulariser_between_layers_is_compared_by_layers():
    def products(layers):
        arrays = [x.numpy() for x in layers.values()]
        return sum(abs(a.T @ b).mean() for a, b in itertools.pairwise(arrays))

    between = regularisers.BetweenLayers
    agrees("regulariser", between, products)
    departs_alone("regulariser", between, lambda layers: 2 * products(layers))


def test_a_regulariser_of_parameters_or_weights_is_compared_by_name():
    def absolute(parameters):
        return sum(abs(p.numpy()).sum() for p in parameters.values())

    def spectral(weights):
        return sum(np.linalg.norm(w.flatten(1).numpy(), 2) for w in weights.values())

    for component, value in (("l1", absolute), (unusual_regularisers.Spectral, spectral)):
        agrees("regulariser", component, value)
        departs_alone("regulariser", component, lambda named, value=value: 2 * value(named))


def raises(given):
    raise ValueError("no such value")


@pytest.mark.parametrize(
    ("kind", "component", "expected", "received"),
    [
        ("filtration", "cosine", raises, "ValueError: no such value"),
        ("filtration", "cosine", lambda x: torch.zeros(len(x), len(x)), "shape (7, 7)"),
        ("filtration", "cosine", lambda x: "a matrix", "TypeError"),
        ("loss", "t1", raises, "ValueError: no such value"),
        ("loss", "t1", lambda diagrams: diagrams[0].deaths, "converted"),
        ("loss", "t1", lambda diagrams: np.nan, "nan or infinity"),
        ("regulariser", regularisers.Mse, raises, "ValueError: no such value"),
        ("regulariser", regularisers.Mse, lambda x: x, "converted"),
        ("regulariser", "orthogonality", raises, "ValueError: no such value"),
    ],
)
def test_a_definition_that_fails_is_to_be_mended_itself(kind, component, expected, received):
    (case,) = (c for c in cases(kind, component, expected=expected) if c.rule == "definition")
    with pytest.raises(CheckFailed, match="fix the definition given as expected=") as failure:
        case()
    assert received in str(failure.value)


@pytest.mark.parametrize("kind", ["persistence", "sampler", "plugin"])
def test_a_kind_without_definitions_takes_none(kind):
    assert "definition" not in [rule.__name__ for rule in KINDS[kind].rules]
    with pytest.raises(topoloss.OptionError, match=r"only the kinds filtration, loss, regulari"):
        check(kind, "anything", expected=t2)
