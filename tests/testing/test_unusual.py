"""Unusual components with nothing wrong: the kit passes them."""

import contextlib
import unittest

import pytest
from testing.unusual import filtrations, losses, persistence, regularisers, samplers

import topoloss
from topoloss.testing import check, parametrize_with_checks
from topoloss.testing.cases import cases


@parametrize_with_checks("filtration", *filtrations.UNUSUAL)
@parametrize_with_checks("persistence", *persistence.UNUSUAL)
@parametrize_with_checks("loss", *losses.UNUSUAL)
@parametrize_with_checks("regulariser", *regularisers.UNUSUAL)
@parametrize_with_checks("sampler", *samplers.UNUSUAL)
def test_unusual_components_conform(check):
    check()


def test_mst_of_few_vertices_conforms():
    check("persistence", topoloss.persistence("mst", max_vertices=20))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "component", "seed"),
    [
        *(
            pytest.param("persistence", persistence.ByRipser, k, id=f"ByRipser-{k}")
            for k in (1, 2, 3)
        ),
        *(
            pytest.param(kind, component, 1, id=f"{component.__name__}-1")
            for kind, module in {
                "filtration": filtrations,
                "loss": losses,
                "regulariser": regularisers,
                "sampler": samplers,
            }.items()
            for component in module.UNUSUAL
        ),
    ],
)
def test_another_seed_finds_nothing_wrong(kind, component, seed):
    for case in cases(kind, component, seed=seed):
        if case.rule != "compilation":  # of the same program, whatever the numbers
            with contextlib.suppress(unittest.SkipTest):
                case()


def test_features_may_grow_in_number_with_the_neurons():
    component = filtrations.PartialCorrelation
    (cost,) = (c for c in cases("filtration", component) if c.rule == "cost")
    cost()
