"""These tests use only public names of topoloss."""

import math

import pytest
import torch
from topoloss_distance_correlation import DistanceCorrelation

import topoloss
from topoloss.testing import parametrize_with_checks


@parametrize_with_checks("plugin", "distance-correlation")
def test_conforms(check):
    check()


def by_definition(x):
    """Definitions 4 and 5 of the paper in plain Python: sums over samples, pair by pair."""
    columns = x.T.tolist()
    matrices = [centred([[abs(a - b) for a in column] for b in column]) for column in columns]
    values = [[1 - correlation(a, b) for a in matrices] for b in matrices]
    return torch.tensor(values, dtype=torch.float64)


def centred(distances):
    n = len(distances)
    rows = [sum(row) / n for row in distances]
    mean = sum(rows) / n
    return [[distances[k][m] - rows[k] - rows[m] + mean for m in range(n)] for k in range(n)]


def covariance(a, b):
    n = len(a)
    return sum(a[k][m] * b[k][m] for k in range(n) for m in range(n)) / n**2


def correlation(a, b):
    variances = covariance(a, a) * covariance(b, b)
    if variances < 1e-24:
        return 0
    return math.sqrt(max(0, covariance(a, b)) / math.sqrt(variances))


@parametrize_with_checks("filtration", DistanceCorrelation, expected=by_definition)
def test_values_are_those_of_the_definition(check):
    check()


def test_a_square_is_close_where_pearson_sees_nothing():
    x = torch.linspace(-1, 1, 21, dtype=torch.float64)
    activations = torch.stack((x, x**2), 1)
    pearson = topoloss.pipeline("correlation").diagrams(activations)[0].deaths
    assert pearson.item() == pytest.approx(1, abs=1e-12)
    ours = topoloss.pipeline("distance-correlation").diagrams(activations)[0].deaths
    assert ours.item() < 0.6


def test_shifts_reflections_and_scales_do_not_matter(generic):
    x = generic.activations
    scale = torch.tensor([1e-6, -1.0, 3.0, -1e6, 0.5, 2.0], dtype=x.dtype)
    regulariser = topoloss.regulariser("t1-distance-correlation")
    torch.testing.assert_close(regulariser(x * scale + scale.flip(0)), regulariser(x))


def test_copies_have_death_0_and_constants_1(duplicated, constant_column):
    def deaths(example):
        return topoloss.pipeline("distance-correlation").diagrams(example.activations)[0].deaths

    torch.testing.assert_close(deaths(duplicated)[:3], torch.zeros(3).double(), rtol=0, atol=1e-12)
    assert deaths(constant_column)[-1] == 1
