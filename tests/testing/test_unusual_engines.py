"""Persistence engines that are unusual but right pass the kit."""

import pytest
from testing.unusual import persistence

import topoloss
from topoloss.testing import check, parametrize_with_checks


@parametrize_with_checks("persistence", *persistence.UNUSUAL)
def test_unusual_engines_conform(check):
    check()


@pytest.mark.parametrize("options", [{"warm_start": True}, {"max_vertices": 20}], ids=str)
def test_options_of_mst_conform(options):
    check("persistence", topoloss.persistence("mst", **options))


@pytest.mark.parametrize("seed", range(1, 4))
def test_another_seed_finds_nothing_wrong_with_ripser(seed):
    check("persistence", persistence.ByRipser, seed=seed)
