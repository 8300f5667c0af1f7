"""The limits that a persistence engine states."""

import pytest
import torch

import topoloss


class Star(topoloss.Persistence):
    """Joins every vertex to the first; takes 4 vertices in float64."""

    max_vertices = 4
    dtypes = frozenset({torch.float64})

    def from_matrix(self, values):
        self.check_limits(len(values), values.dtype)
        others = torch.arange(1, len(values))
        return [topoloss.CriticalEdges(torch.stack((0 * others, others), 1))]


class Unfilled(topoloss.Filtration):
    def vertices(self, x):
        return x.T

    def pairwise(self, v):
        raise AssertionError("the matrix was filled")


def test_limits_are_no_limits_by_default():
    topoloss.Persistence().check_limits(10**9, torch.float32)
    topoloss.Persistence().check_matrix(10**9, torch.float64)


def test_up_to_the_limits_an_engine_is_asked():
    points = torch.tensor([[0.0, 1.0, 5.0, 7.0]], dtype=torch.float64)
    assert topoloss.pipeline("euclidean", Star())(points).item() == -(1 + 5 + 7)


@pytest.mark.parametrize("filtration", ["euclidean", Unfilled()])
def test_more_vertices_than_stated_are_refused_before_the_matrix_is_filled(filtration):
    with pytest.raises(topoloss.TooLargeError, match=r"5 vertices .* Star, .* at most 4; take a f"):
        topoloss.pipeline(filtration, Star())(torch.zeros(3, 5, dtype=torch.float64))


@pytest.mark.parametrize("filtration", ["euclidean", Unfilled()])
def test_another_dtype_than_stated_is_refused_before_the_matrix_is_filled(filtration):
    with pytest.raises(topoloss.InputError, match=r"float32 .* takes torch\.float64; convert"):
        topoloss.pipeline(filtration, Star())(torch.zeros(3, 4))


def test_an_option_may_set_a_limit():
    class Option(Star):
        def __init__(self, *, max_vertices=2):
            super().__init__()
            self.max_vertices = max_vertices

    matrix = torch.zeros(3, 3, dtype=torch.float64)
    assert len(Option(max_vertices=3).from_matrix(matrix)[0].death_edges) == 2
    with pytest.raises(topoloss.TooLargeError, match="at most 2"):
        Option().from_matrix(matrix)
