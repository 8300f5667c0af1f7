"""What a custom filtration may get wrong, and is told."""

import pytest
import torch

import topoloss


class Manhattan(topoloss.Filtration):
    def vertices(self, x):
        return x.T

    def edge_values(self, v, i, j):
        return (v[i] - v[j]).abs().sum(-1)


def t1_of(filtration):
    return topoloss.pipeline(filtration, "mst", "t1")(torch.eye(5))


class Counted(Manhattan):
    """Tells how many entries of features each call gathers for one end of its edges."""

    def __init__(self):
        super().__init__()
        self.gathered = []

    def edge_values(self, v, i, j):
        self.gathered.append(v[i].numel())
        return super().edge_values(v, i, j)


@pytest.mark.parametrize(("n", "d"), [(7, 3), (1, 0), (2100, 1), (601, 129), (6, 1_000_000)])
def test_pairwise_is_the_edge_values_of_all_pairs(n, d):
    v, filtration = torch.randn(n, d, dtype=torch.float64), Counted()
    torch.testing.assert_close(filtration.pairwise(v), torch.cdist(v, v, p=1))
    assert sum(filtration.gathered) == n * n * d
    # Blocks of rows: 64 MiB in float32, or a single row.
    assert max(filtration.gathered) <= max(2**24, n * d)


class InTwoParts(topoloss.Filtration):
    """Vertices as a tuple, of which every edge weighs 1."""

    def vertices(self, x):
        return x.T, x.T.double()

    def edge_values(self, v, i, j):
        return (v[0][i] - v[0][j]).abs().sum(-1)

    def edges(self, v):
        return len(v[0]), torch.combinations(torch.arange(len(v[0])))


def test_vertices_may_be_a_tuple():
    x = torch.randn(6, 5)
    (found,) = topoloss.pipeline(InTwoParts(), "mst").diagrams(x)
    (expected,) = topoloss.pipeline(Manhattan(), "mst").diagrams(x)
    assert torch.equal(found.deaths, expected.deaths)
    assert torch.equal(found.weights, torch.ones(4))


class Joined(Manhattan):
    """Its vertices are two tensors."""

    def vertices(self, x):
        return x.T, x.sum(0)

    def edges(self, v):
        return len(v[0]), torch.combinations(torch.arange(len(v[0])))

    def edge_values(self, v, i, j):
        return super().edge_values(v[0], i, j) + (v[1][i] - v[1][j]).abs()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("filtration", [Manhattan(), Joined()])
def test_edges_weigh_one_in_the_dtype_of_the_vertices(filtration, dtype):
    """So that a loss is of the dtype of the deaths."""
    i = torch.arange(3)
    weights = filtration.edge_weights(filtration.vertices(torch.eye(5, dtype=dtype)), i, i + 1)
    assert weights.tolist() == [1, 1, 1]
    assert weights.dtype == dtype


@pytest.mark.parametrize("order", [None, "dot_descending"])
def test_edge_values_of_the_wrong_shape_are_refused(order):
    class Forgetful(Manhattan):
        def edge_values(self, v, i, j):
            return (v[i] - v[j]).abs()

    Forgetful.order = order
    with pytest.raises(topoloss.InputError, match=r"Forgetful.edge_values.*one value for each"):
        t1_of(Forgetful())


@pytest.mark.parametrize("wrong", [lambda ones: ones[:, None], lambda ones: ones[:1], list])
def test_edge_weights_of_the_wrong_shape_are_refused(wrong):
    """A column would be broadcast, to the sum over all pairs of weights and deaths."""

    class Column(Manhattan):
        def edge_weights(self, v, i, j):
            return wrong(torch.ones(len(i)))

    with pytest.raises(
        topoloss.InputError, match=r"Column.edge_weights.*\(4,\), one value for each"
    ):
        t1_of(Column())


def test_vertices_of_the_wrong_shape_are_refused():
    class Transposed(Manhattan):
        def vertices(self, x):
            return x[:3]

    with pytest.raises(topoloss.InputError, match=r"Transposed.vertices.*expected \(5, features\)"):
        t1_of(Transposed())


def test_an_unknown_order_is_refused():
    class Misspelt(Manhattan):
        order = "sq_dist_ascendin"

    with pytest.raises(topoloss.OptionError, match="Did you mean 'sq_dist_ascending'"):
        t1_of(Misspelt())
