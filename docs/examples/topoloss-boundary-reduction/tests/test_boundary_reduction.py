"""These tests use only public names of topoloss."""

import numpy as np
import pytest
import torch
from ripser import ripser
from topoloss_boundary_reduction import BoundaryReduction

import topoloss
from topoloss.testing import check, parametrize_with_checks


@parametrize_with_checks("plugin", "boundary-reduction")
def test_conforms(check):
    check()


def test_conforms_to_the_rules_on_other_examples():
    check("persistence", BoundaryReduction, seed=1)


@pytest.mark.parametrize("seed", range(10))
def test_births_and_deaths_are_those_of_ripser(seed):
    points = torch.randn(30, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    regulariser = topoloss.pipeline("euclidean", "boundary-reduction", "total-persistence")
    found = regulariser.diagrams(points.T)[1].to_numpy()
    expected = ripser(points.numpy(), maxdim=1)["dgms"][1]
    assert len(expected) > 0
    # Ripser rounds to float32.
    found, expected = (rows[np.lexsort(rows.T)] for rows in (found, expected))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_under_ties_the_last_side_is_the_birth_and_the_first_diagonal_the_death():
    corners = torch.tensor([[0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    _, circles = BoundaryReduction().from_matrix(torch.cdist(corners.T, corners.T))
    assert circles.birth_edges.tolist() == [[2, 3]]
    assert circles.death_edges.tolist() == [[0, 2]]


def test_a_circle_of_listed_edges_is_essential():
    edges = torch.tensor([[1, 0], [2, 1], [3, 2], [0, 3]])
    joined, circles = BoundaryReduction().from_edges(4, edges, torch.tensor([1.0, 4.0, 3.0, 2.0]))
    assert joined.death_edges.tolist() == [[1, 0], [0, 3], [3, 2]]
    assert circles.death_edges.tolist() == []
    assert circles.essential_births.tolist() == [[2, 1]]


def test_births_have_a_gradient_too():
    points = torch.randn(8, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    regulariser = topoloss.pipeline("euclidean", "boundary-reduction", "total-persistence")

    def circles(x):
        diagram = regulariser.diagrams(x)[1]
        return diagram.births, diagram.deaths

    births, _ = circles(points)
    assert len(births) > 0
    assert torch.autograd.gradcheck(circles, points.requires_grad_())


def test_more_vertices_than_stated_are_refused():
    with pytest.raises(topoloss.TooLargeError, match=r"5 vertices .* at most 4"):
        BoundaryReduction(max_vertices=4).from_matrix(torch.zeros(5, 5))
