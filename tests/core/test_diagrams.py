"""The diagrams of a regulariser: shapes, values, batches."""

import numpy as np
import oracles
import pytest
import torch
from inputs import ON_PARAMETERS, with_bad, x_of

import topoloss


@pytest.mark.parametrize("filtration", oracles.MATRICES)
def test_a_diagram_of_one_problem(filtration):
    x = x_of(8, 6, dtype=torch.float64).requires_grad_()
    reg = topoloss.pipeline(filtration)
    diagrams = reg.diagrams(x)
    assert len(diagrams) == 1
    (d,) = diagrams
    assert d.dimension == 0
    assert d.deaths.shape == d.births.shape == d.weights.shape == d.lifetimes.shape == (5,)
    assert d.birth_edges is None
    assert d.death_edges.shape == (5, 2)
    assert (d.births == 0).all()
    assert d.essential_births.tolist() == [0]
    expected = oracles.h0_deaths(oracles.MATRICES[filtration](x))
    np.testing.assert_allclose(d.to_numpy()[:, 1], expected, atol=1e-13)
    # Differentiable: minus the sum of deaths is T1, in value and in gradient.
    (from_diagram,) = torch.autograd.grad(-d.deaths.sum(), x)
    (from_value,) = torch.autograd.grad(reg(x), x)
    assert torch.equal(from_diagram, from_value)


def test_to_numpy_gives_rows_of_birth_and_death():
    x = torch.tensor([[5.0, 0.0, 1.0]], requires_grad=True)
    (d,) = topoloss.pipeline("euclidean").diagrams(x)
    assert d.to_numpy().tolist() == [[0, 1], [0, 4]]
    assert d.to_numpy(essential=True).tolist() == [[0, 1], [0, 4], [0, np.inf]]
    assert d.to_numpy().dtype == np.float32


def test_diagrams_of_a_batch_have_a_leading_axis():
    reg, x = topoloss.regulariser("t1"), x_of(3, 8, 6)
    (d,) = reg.diagrams(x)
    assert d.deaths.shape == d.births.shape == d.weights.shape == (3, 5)
    assert d.death_edges.shape == (3, 5, 2)
    assert d.essential_births.shape == (3, 1)
    assert d.birth_edges is None
    assert d.to_numpy().shape == (3, 5, 2)
    assert d.to_numpy(essential=True).shape == (3, 6, 2)
    for k, problem in enumerate(x):
        assert torch.equal(d.deaths[k], reg.diagrams(problem)[0].deaths)
        assert torch.equal(d.death_edges[k], reg.diagrams(problem)[0].death_edges)


def test_diagrams_of_a_list_are_a_list():
    problems = [x_of(8, 6), x_of(4, 3), x_of(4, 1)]
    listed = topoloss.regulariser("t1").diagrams(problems)
    assert [[len(d.deaths) for d in diagrams] for diagrams in listed] == [[5], [2], [0]]


def test_the_diagram_of_one_neuron_has_only_the_essential_class():
    (d,) = topoloss.regulariser("t1").diagrams(x_of(4, 1))
    assert d.deaths.shape == (0,)
    assert d.death_edges.shape == (0, 2)
    assert d.to_numpy(essential=True).tolist() == [[0, np.inf]]


class TwoDimensions(topoloss.Persistence):
    """A made-up engine: two classes of dimension 1 die, the later one first, and one lives on."""

    def from_matrix(self, values):
        return [
            topoloss.CriticalEdges(torch.tensor([[0, 1], [0, 2], [2, 3]])),
            topoloss.CriticalEdges(
                death_edges=torch.tensor([[0, 3], [0, 2]]),
                birth_edges=torch.tensor([[0, 1], [2, 3]]),
                essential_births=torch.tensor([[1, 2]]),
            ),
        ]


def test_births_and_essential_classes_of_higher_dimensions_are_valued_too():
    x = torch.tensor([[0.0, 1.0, 5.0, 7.0]], dtype=torch.float64, requires_grad=True)
    reg = topoloss.pipeline("euclidean", TwoDimensions(), "total-persistence")
    h0, h1 = reg.diagrams(x)
    assert h0.to_numpy().tolist() == [[0, 1], [0, 2], [0, 5]]
    assert h1.dimension == 1
    rows = [[2, 5], [1, 7], [4, np.inf]]
    assert h1.to_numpy(essential=True).tolist() == rows
    assert reg(x).item() == (1 + 2 + 5) + (5 - 2) + (7 - 1)
    assert torch.autograd.gradcheck(reg, x)
    # From neuron 1 to neuron 2.
    (gradient,) = torch.autograd.grad(h1.essential_births.sum(), x)
    assert gradient.tolist() == [[0, -1, 1, 0]]
    batched = reg.diagrams(torch.stack((x, x)))[1]
    assert batched.to_numpy(essential=True).tolist() == [rows, rows]


class DiesAtBirth(TwoDimensions):
    """The same, but one class dies with the edge of its birth: it fills up a batch."""

    def from_matrix(self, values):
        h0, h1 = super().from_matrix(values)
        return [h0, h1._replace(birth_edges=torch.tensor([[0, 3], [2, 3]]))]


def test_a_class_that_dies_with_the_edge_of_its_birth_counts_for_nothing():
    x = torch.tensor([[0.0, 1.0, 5.0, 7.0]])
    reg = topoloss.pipeline("euclidean", DiesAtBirth(), "total-persistence")
    h1 = reg.diagrams(x)[1]
    assert h1.weights.tolist() == [1, 0]
    assert reg(x).item() == (1 + 2 + 5) + (5 - 2)


class CutOff(TwoDimensions):
    """The same with edges up to 2 alone, which leave two components."""

    def from_matrix(self, values):
        return [topoloss.CriticalEdges(torch.tensor([[0, 1], [2, 3]]))]


def test_each_component_that_an_engine_leaves_is_essential():
    x = torch.tensor([[0.0, 1.0, 5.0, 7.0]])
    (h0,) = topoloss.pipeline("euclidean", CutOff()).diagrams(x)
    assert h0.to_numpy(essential=True).tolist() == [[0, 1], [0, 2], [0, np.inf], [0, np.inf]]


class NothingLivesOn(TwoDimensions):
    """The same without the class that never dies."""

    def from_matrix(self, values):
        h0, h1 = super().from_matrix(values)
        return [h0, h1._replace(essential_births=None)]


def test_in_higher_dimensions_there_may_be_no_essential_class():
    x = torch.tensor([[0.0, 1.0, 5.0, 7.0]])
    h0, h1 = topoloss.pipeline("euclidean", NothingLivesOn()).diagrams(x)
    assert h0.essential_births.tolist() == [0]
    assert h1.essential_births.shape == (0,)
    assert h1.to_numpy(essential=True).tolist() == [[2, 5], [1, 7]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_all_of_a_diagram_is_in_the_dtype_of_its_deaths(dtype):
    x = torch.tensor([[0.0, 1.0, 5.0, 7.0]], dtype=dtype)
    for engine in (TwoDimensions(), NothingLivesOn()):
        for d in topoloss.pipeline("euclidean", engine).diagrams(x):
            for values in (d.births, d.deaths, d.weights, d.essential_births):
                assert values.dtype == dtype


def test_a_batch_whose_diagrams_differ_in_size_is_an_error():
    class LiveOnly(topoloss.Persistence):
        def from_matrix(self, values):
            # Points per problem differ, as with an engine that drops zero deaths.
            count = 1 + int(values[0, 1] > 2)
            return [topoloss.CriticalEdges(torch.tensor([[0, 1], [0, 2]])[:count])]

    reg = topoloss.pipeline("euclidean", LiveOnly())
    x = torch.tensor([[[0.0, 1.0, 5.0]], [[0.0, 3.0, 5.0]]])
    assert reg(x).tolist() == [-1, -8]
    with pytest.raises(topoloss.InputError, match="differing numbers of points"):
        reg.diagrams(x)


@pytest.mark.parametrize("name", ["naive", *ON_PARAMETERS])
def test_a_regulariser_without_diagrams_says_so(name):
    with pytest.raises(topoloss.TopolossError, match="has no persistence diagrams"):
        topoloss.regulariser(name).diagrams(x_of(6, 5))


def test_diagrams_refuse_what_is_not_finite():
    with pytest.raises(topoloss.NonFiniteError, match="1 of 5 neurons"):
        topoloss.regulariser("t1", on_nonfinite="skip").diagrams(with_bad(torch.nan, (0, 0)))


def test_a_diagram_equals_itself_alone_and_may_be_a_key():
    """Its tensors have no truth value, so that comparing them would raise."""
    reg, x = topoloss.regulariser("t1"), torch.randn(6, 4)
    one, other = reg.diagrams(x)[0], reg.diagrams(x)[0]
    assert one == one
    assert one != other
    assert len({one, one, other}) == 2
