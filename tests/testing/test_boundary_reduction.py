"""The kit's oracle of higher dimensions, against ripser and against diagrams known by hand."""

import itertools

import numpy as np
import pytest
import torch
from ripser import ripser
from scipy.sparse import coo_array

from topoloss.testing import boundary_reduction


def distances(n, seed, tied=False):
    generator = torch.Generator().manual_seed(seed)
    if tied:
        points = torch.randint(-1, 2, (n, 3), generator=generator).double()
    else:
        points = torch.randn(n, 3, dtype=torch.float64, generator=generator)
    return (points[:, None] - points[None]).square().sum(-1)


def of_ripser(matrix, dimension):
    points = ripser(matrix, distance_matrix=True, maxdim=dimension)["dgms"][dimension]
    return sorted(map(tuple, points.tolist()))


def values_of(points, matrix):
    """Sorted (birth, death) of positive length; with them the classes that never die."""
    births = matrix[tuple(points.birth_edges.T)].tolist()
    deaths = matrix[tuple(points.death_edges.T)].tolist()
    essential = matrix[tuple(points.essential_births.T)].tolist()
    rows = [row for row in zip(births, deaths, strict=True) if row[0] < row[1]]
    return sorted(rows + [(birth, torch.inf) for birth in essential])


def ranks(matrix):
    """The matrix with the numbers of its pairs in the order (value, lower, higher) instead."""
    i, j = torch.triu_indices(len(matrix), len(matrix), 1)
    rank = torch.empty(len(i), dtype=torch.float64)
    rank[matrix[i, j].argsort(stable=True)] = torch.arange(len(i), dtype=torch.float64)
    numbers = torch.zeros_like(matrix)
    numbers[i, j] = numbers[j, i] = rank
    return numbers


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("n", "dimension"), [(4, 1), (12, 1), (25, 1), (12, 2)])
def test_the_points_of_random_points_are_those_of_ripser(n, dimension, seed):
    matrix = distances(n, seed)
    found = boundary_reduction.of_matrix(matrix, dimension + 1)[dimension]
    # Ripser rounds to float32.
    np.testing.assert_allclose(
        np.reshape(values_of(found, matrix), (-1, 2)),
        np.reshape(of_ripser(matrix.numpy(), dimension), (-1, 2)),
        rtol=1e-6,
    )


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("n", "dimension"), [(12, 1), (25, 1), (12, 2)])
def test_the_edges_are_those_that_ripser_names_where_no_values_tie(n, dimension, seed, tied):
    matrix = distances(n, seed, tied)
    found = boundary_reduction.of_matrix(matrix, dimension + 1)[dimension]
    # Small integers are exact in float32, and here each is one edge.
    assert values_of(found, ranks(matrix)) == of_ripser(ranks(matrix).numpy(), dimension)


@pytest.mark.parametrize("seed", range(5))
def test_ties_change_no_value(seed):
    matrix = distances(14, seed, tied=True)
    found = boundary_reduction.of_matrix(matrix, 2)[1]
    assert values_of(found, matrix) == of_ripser(matrix.numpy(), 1)


@pytest.mark.parametrize("seed", range(5))
def test_a_listed_graph_has_the_points_of_ripser_on_a_sparse_matrix(seed):
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.triu_indices(15, 15, 1).T
    edges = pairs[torch.randperm(len(pairs), generator=generator)[:50]]
    values = torch.randint(1, 9, (50,), generator=generator).double()
    graph = coo_array((values.numpy(), tuple(edges.T.numpy())), shape=(15, 15))
    matrix = torch.from_numpy(graph.toarray())
    found = boundary_reduction.of_edges(15, edges, values, 2)[1]
    assert len(found.essential_births) > 0
    assert values_of(found, matrix) == of_ripser(graph + graph.T, 1)


def test_an_octahedron_encloses_a_void():
    matrix = 1 - torch.eye(6)
    opposite = torch.arange(6).reshape(3, 2)
    matrix[tuple(opposite.T)] = matrix[tuple(opposite.flip(1).T)] = 2
    _, circles, voids = boundary_reduction.of_matrix(matrix, 3)
    assert values_of(circles, matrix) == []
    assert voids.birth_edges.tolist() == [[3, 5]]  # the last of 12 edges of length 1
    assert voids.death_edges.tolist() == [[0, 1]]  # the first of 3 diagonals


def test_rows_are_named_as_they_were_listed():
    around = [[1, 0], [1, 2], [3, 2], [0, 3]]
    edges = torch.tensor([[2, 2], *around, [2, 3]])
    values = torch.tensor([-1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    joined, circles = boundary_reduction.of_edges(5, edges, values, 2)
    assert joined.death_edges.tolist() == [[2, 3], [1, 0], [0, 3]]
    assert circles.death_edges.tolist() == []
    assert circles.essential_births.tolist() == [[1, 2]]


def test_a_graph_without_edges_has_no_points():
    joined, circles = boundary_reduction.of_edges(
        3, torch.empty(0, 2, dtype=torch.int64), torch.empty(0), 2
    )
    for edges in (joined.death_edges, *circles):
        assert edges.shape == (0, 2)
        assert edges.dtype == torch.int64


def test_every_class_of_the_full_clique_dies():
    for critical in boundary_reduction.of_matrix(distances(9, 0), 3)[1:]:
        assert critical.essential_births.tolist() == []
        births, deaths = (
            [tuple(edge) for edge in edges.tolist()]
            for edges in (critical.birth_edges, critical.death_edges)
        )
        pairs = set(itertools.combinations(range(9), 2))
        assert set(births) <= pairs
        assert set(deaths) <= pairs
