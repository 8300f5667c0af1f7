"""These tests use only public names of topoloss."""

import itertools

import pytest
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import minimum_spanning_tree

import topoloss
from topoloss.testing import check, parametrize_with_checks


@parametrize_with_checks("plugin", "weight-graph")
def test_conforms(check):
    check()


def test_conforms_to_the_rules_on_other_examples():
    check("regulariser", "t1-weight-graph", seed=1)


def network(*sizes):
    layers = [torch.nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
    return torch.nn.Sequential(*layers).double()


def test_values_and_gradients_are_those_by_hand():
    """Two inputs, two hidden neurons and one output: four of the six weights form the tree.

    The weights 15, -7, 3 and 1 join all five vertices; 0.5 and 0 would close cycles.
    """
    hidden = torch.tensor([[15.0, 0.5], [-7.0, 3.0]], dtype=torch.float64, requires_grad=True)
    output = torch.tensor([[0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    regulariser = topoloss.regulariser("t1-weight-graph")
    diagram = regulariser.diagrams({"hidden": hidden, "output": output})[0]
    # Vertices 0 and 1 are the inputs, 2 and 3 the hidden neurons, 4 is the output.
    assert diagram.death_edges.tolist() == [[2, 0], [3, 0], [3, 1], [4, 3]]
    assert diagram.deaths.tolist() == [1 / 16, 1 / 8, 1 / 4, 1 / 2]
    regulariser({"hidden": hidden, "output": output}).backward()
    # The derivative of -1 / (1 + |w|) is sign(w) / (1 + |w|)^2.
    assert hidden.grad.tolist() == [[1 / 256, 0], [-1 / 64, 1 / 16]]
    assert output.grad.tolist() == [[0, 1 / 4]]


@pytest.mark.parametrize("sizes", [(1, 1), (1, 6), (6, 1), (5, 4, 3), (8, 30, 20, 2)])
def test_the_tree_is_that_of_scipy(sizes):
    weights = {name: p for name, p in network(*sizes).named_parameters() if "weight" in name}
    matrix = torch.zeros(sum(sizes), sum(sizes), dtype=torch.float64)
    row = sizes[0]
    column = 0
    for w in weights.values():
        matrix[row : row + len(w), column : column + w.shape[1]] = 1 / (1 + w.detach().abs())
        row, column = row + len(w), column + w.shape[1]
    expected = sorted(minimum_spanning_tree(csr_matrix(matrix.numpy())).data)
    (diagram,) = topoloss.regulariser("t1-weight-graph").diagrams(weights)
    assert diagram.deaths.tolist() == pytest.approx(expected, rel=1e-14)


def test_training_weakens_the_weights_of_the_tree_alone():
    model = network(4, 6, 3)
    penalty = topoloss.attach(model, "t1-weight-graph")
    model(torch.randn(2, 4).double())  # shows attach that the layers are a chain
    penalty().backward()
    touched = sum(int((p.grad != 0).sum()) for name, p in model.named_parameters() if p.ndim == 2)
    assert touched == 4 + 6 + 3 - 1


def test_layers_that_are_no_chain_are_refused():
    weights = {"first": torch.ones(3, 2), "second": torch.ones(1, 4)}
    with pytest.raises(topoloss.InputError, match=r"'second' has shape \(1, 4\); expected"):
        topoloss.regulariser("t1-weight-graph")(weights)
    with pytest.raises(topoloss.InputError, match=r"'first' has shape \(3, 2, 1, 1\); expected"):
        topoloss.regulariser("t1-weight-graph")({"first": torch.ones(3, 2, 1, 1)})
