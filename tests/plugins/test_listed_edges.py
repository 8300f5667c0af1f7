"""Minimum spanning forests of listed edges, and filtrations of listed graphs."""

import copy
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from topoloss_mst.operators import spanning_forest

import topoloss


def random_graph(n, e, seed, values="real"):
    """Edges without self-loops or repetitions, in a random order and direction, and values."""
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.triu_indices(n, n, 1).T
    edges = pairs[torch.randperm(len(pairs), generator=generator)[:e]]
    turned = torch.rand(len(edges), generator=generator) < 0.5
    edges = torch.where(turned[:, None], edges.flip(1), edges)
    if values == "tied":
        return edges, torch.randint(-1, 3, (len(edges),), generator=generator).double()
    return edges, torch.randn(len(edges), dtype=torch.float64, generator=generator)


def sparse(n, edges, values):
    # scipy takes a stored 0 for no edge, so every value is made positive.
    positive = values - values.min() + 1
    return coo_array((positive.numpy(), tuple(edges.T.numpy())), shape=(n, n)).tocsr()


def kruskal(n, edges, values):
    """Rows of the forest, by (value, lower index, higher index)."""
    lower, higher = edges.min(1).values.tolist(), edges.max(1).values.tolist()
    component, chosen = list(range(n)), []
    for e in sorted(range(len(edges)), key=lambda e: (values[e].item(), lower[e], higher[e])):
        a, b = component[lower[e]], component[higher[e]]
        if a != b:
            component = [a if c == b else c for c in component]
            chosen.append(e)
    return edges[sorted(chosen)]


def forest(n, edges, values):
    (critical,) = topoloss.persistence("mst").from_edges(n, edges, values)
    assert critical.birth_edges is None
    assert critical.essential_births is None
    return critical.death_edges


GRAPHS = [(2, 1), (3, 3), (5, 4), (12, 8), (40, 60), (64, 70), (65, 600), (129, 100)]


@pytest.mark.parametrize("values", ["real", "tied"])
@pytest.mark.parametrize(("n", "e"), GRAPHS)
def test_the_forest_weighs_what_scipy_says(n, e, values):
    edges, weights = random_graph(n, e, seed=n, values=values)
    found = forest(n, edges, weights)
    graph = sparse(n, edges, weights)
    expected = minimum_spanning_tree(graph)
    components = connected_components(graph, directed=False)[0]
    assert len(found) == expected.nnz == n - components
    rows = {tuple(edge): e for e, edge in enumerate(edges.tolist())}
    chosen = [rows[tuple(edge)] for edge in found.tolist()]
    kept = sparse(n, edges, weights).toarray()[tuple(edges[chosen].T.numpy())]
    np.testing.assert_allclose(np.sort(kept), np.sort(expected.data), rtol=1e-15)
    assert connected_components(sparse(n, found, weights[chosen]))[0] == n - len(found)


@pytest.mark.parametrize("values", ["real", "tied"])
@pytest.mark.parametrize(("n", "e"), GRAPHS)
def test_ties_go_to_the_lexicographically_first_edge(n, e, values):
    edges, weights = random_graph(n, e, seed=n + 1, values=values)
    assert torch.equal(forest(n, edges, weights), kruskal(n, edges, weights))


@pytest.mark.parametrize("n", [1, 4])
def test_a_graph_without_edges_has_an_empty_forest(n):
    found = forest(n, torch.empty(0, 2, dtype=torch.int64), torch.empty(0))
    assert found.shape == (0, 2)
    assert found.dtype == torch.int64


def test_the_clique_has_the_tree_of_its_matrix():
    edges, values = random_graph(30, 10**6, seed=0, values="tied")
    matrix = torch.zeros(30, 30, dtype=torch.float64)
    matrix[tuple(edges.T)] = matrix[tuple(edges.flip(1).T)] = values
    (expected,) = topoloss.persistence("mst", backend="reference").from_matrix(matrix)
    found = forest(30, edges, values).sort(1).values
    assert sorted(found.tolist()) == expected.death_edges.tolist()


def test_self_loops_join_nothing_and_of_parallel_edges_the_lightest_counts():
    edges = torch.tensor([[1, 1], [0, 1], [1, 0], [0, 1], [2, 2]])
    found = forest(3, edges, torch.tensor([-5.0, 2.0, 1.0, 1.0, 0.0]))
    assert found.tolist() == [[1, 0]]  # as it was listed


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_values_of_any_precision_are_compared_exactly(dtype):
    edges = torch.tensor([[0, 1], [1, 2], [2, 0]])
    values = torch.tensor([1 + torch.finfo(dtype).eps, 1.0, 1.0], dtype=dtype)
    assert forest(3, edges, values).tolist() == [[1, 2], [2, 0]]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_value_that_is_not_finite_is_an_error(bad):
    with pytest.raises(topoloss.InputError, match="NaN or infinity"):
        forest(3, torch.tensor([[0, 1], [1, 2]]), torch.tensor([1.0, bad]))


@pytest.mark.parametrize("end", [-1, 3])
def test_a_vertex_that_does_not_exist_is_an_error(end):
    with pytest.raises(topoloss.InputError, match=r"graph of 3 vertices; expected .* 0 to 2"):
        forest(3, torch.tensor([[0, 1], [1, end]]), torch.tensor([1.0, 2.0]))


# The operator in PyTorch


@pytest.mark.parametrize("batch", [(0,), (2, 0), (0, 3)])
@pytest.mark.parametrize("e", [0, 3])
def test_an_empty_batch_has_no_forests(batch, e):
    # Vertices 0, 1, 2 and 3, 4 are the components of all edges.
    edges = torch.tensor([[0, 1], [1, 2], [3, 4]])[:e]
    found = spanning_forest(5, edges, torch.empty(*batch, e))
    assert found.shape == (*batch, e, 2)
    assert found.dtype == torch.int64


@pytest.mark.parametrize("batch", [(), (2,)])
def test_the_operator_passes_opcheck(batch):
    edges, _ = random_graph(6, 8, seed=3)
    values = torch.randn(*batch, len(edges))
    torch.library.opcheck(spanning_forest, (6, edges, values))


@pytest.mark.parametrize("in_dim", [0, 1])
def test_the_operator_maps_over_values(in_dim):
    edges, _ = random_graph(12, 10, seed=4)
    values = torch.randn(5, len(edges))
    mapped = torch.vmap(lambda x: spanning_forest(12, edges, x), in_dims=in_dim)
    expected = torch.stack([kruskal(12, edges, x) for x in values])
    assert torch.equal(mapped(values.movedim(0, in_dim)), expected)


def test_the_operator_maps_over_graphs_of_as_many_components():
    graphs = torch.stack([random_graph(5, 10, seed=s)[0] for s in range(3)])
    values = torch.randn(3, graphs.shape[1])
    both = torch.vmap(lambda edges, x: spanning_forest(5, edges, x))(graphs, values)
    assert torch.equal(both, torch.stack(list(map(kruskal, [5] * 3, graphs, values))))
    one = torch.vmap(lambda edges: spanning_forest(5, edges, values[0]))(graphs)
    assert torch.equal(one, torch.stack([kruskal(5, g, values[0]) for g in graphs]))
    graphs[0] = graphs[0, :1]
    with pytest.raises(topoloss.InputError, match="differing numbers of components"):
        torch.vmap(lambda edges, x: spanning_forest(5, edges, x))(graphs, values)


# Filtrations of listed graphs


class Grid(topoloss.Filtration):
    """Neurons in rows of `width`, joined to their neighbours to the right and below."""

    def __init__(self, width=3):
        super().__init__()
        self.width = width

    def vertices(self, x):
        return x.T, x.mean(0)  # a tuple: the distance is scaled by the means

    def edges(self, v):
        n = len(v[1])
        index = torch.arange(n)
        right = index[(index + 1) % self.width != 0]
        right = right[right + 1 < n]
        below = index[: max(n - self.width, 0)]
        ends = torch.cat((right, below)), torch.cat((right + 1, below + self.width))
        return n, torch.stack(ends, 1)

    def edge_values(self, v, i, j):
        features, means = v
        difference = features.index_select(0, i) - features.index_select(0, j)
        scale = 1 + means.index_select(0, i).square() + means.index_select(0, j).square()
        return difference.square().sum(-1) / scale


class Split(Grid):
    """The neurons of the first row alone are joined."""

    def edges(self, v):
        n, edges = super().edges(v)
        return n, edges[edges.max(1).values < self.width]


def activations(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("filtration", "components"), [(Grid(), 1), (Split(), 6 - 2)])
def test_a_diagram_of_a_graph_has_a_death_less_for_each_component(filtration, components):
    x = activations(5, 6)
    (d,) = topoloss.pipeline(filtration).diagrams(x)
    v = filtration.vertices(x)
    n, edges = filtration.edges(v)
    expected = kruskal(n, edges, filtration.edge_values(v, *edges.T))
    torch.testing.assert_close(d.deaths, filtration.edge_values(v, *expected.T).sort().values)
    assert d.deaths.shape == (6 - components,)
    assert d.births.tolist() == [0] * (6 - components)
    assert d.weights.tolist() == [1] * (6 - components)
    assert d.essential_births.tolist() == [0] * components
    assert np.isinf(d.to_numpy(essential=True)[:, 1]).sum() == components


@pytest.mark.parametrize("loss", ["t1", "t2", "total-persistence"])
@pytest.mark.parametrize("filtration", [Grid(), Split()], ids=["grid", "split"])
def test_values_of_a_graph_pass_gradcheck_and_gradgradcheck(filtration, loss):
    reg, x = topoloss.pipeline(filtration, "mst", loss), activations(4, 6).requires_grad_()
    assert torch.autograd.gradcheck(reg, x)
    assert torch.autograd.gradgradcheck(reg, x)


def test_batches_and_sequences_of_graphs_equal_the_loop():
    reg, x = topoloss.pipeline(Grid()), activations(3, 5, 6)
    looped = torch.stack([reg(element) for element in x])
    torch.testing.assert_close(reg(x), looped)
    torch.testing.assert_close(reg(list(x)), looped)
    (d,) = reg.diagrams(x)
    assert d.deaths.shape == (3, 5)
    assert d.essential_births.shape == (3, 1)
    torch.testing.assert_close(-d.deaths.sum(1), looped)


def test_half_precision_tensors_of_a_tuple_are_promoted():
    x = activations(5, 6).bfloat16()
    reg = topoloss.pipeline(Grid())
    assert reg(x).dtype == torch.float32
    (d,) = reg.diagrams(x)
    assert d.weights.dtype == torch.float32


def test_the_edges_of_a_diagram_point_as_they_were_listed():
    class Downwards(Grid):
        def edges(self, v):
            n, edges = super().edges(v)
            return n, edges.flip(1)

        def edge_values(self, v, i, j):
            assert (i > j).all()
            return super().edge_values(v, i, j)

    x = activations(5, 6)
    down, up = (topoloss.pipeline(f()).diagrams(x)[0] for f in (Downwards, Grid))
    assert torch.equal(down.death_edges, up.death_edges.flip(1))
    torch.testing.assert_close(down.deaths, up.deaths)


def test_an_order_is_not_looked_at_where_edges_are_listed():
    class Ordered(Grid):
        order = "sq_dist_ascending"

    x = activations(5, 6)
    assert torch.equal(topoloss.pipeline(Ordered())(x), topoloss.pipeline(Grid())(x))


def test_weights_of_edges_are_asked_for_with_the_tuple():
    class Excluding(Grid):
        def edge_weights(self, v, i, j):
            return super().edge_weights(v, i, j) * (v[1].index_select(0, i) > -torch.inf) * 0.5

    x = activations(5, 6)
    (d,) = topoloss.pipeline(Excluding()).diagrams(x)
    assert d.weights.tolist() == [0.5] * 5
    assert d.weights.dtype == torch.float64


class WeightGraph(topoloss.Filtration):
    """The neurons of a chain of layers, joined by their weights: large ones come first."""

    source = "weights"

    def vertices(self, weights):
        return tuple(weights.values())

    def edges(self, v):
        before, edges = 0, []
        for w in v:
            out, into = torch.meshgrid(*map(torch.arange, w.shape), indexing="ij")
            edges.append(torch.stack((before + into, before + w.shape[1] + out), -1).flatten(0, 1))
            before += w.shape[1]
        return before + v[-1].shape[0], torch.cat(edges)

    def edge_values(self, v, i, j):
        # As the edges are listed layer by layer, an edge's place is that of its weight.
        weights = torch.cat([w.flatten() for w in v])
        _, edges = self.edges(v)
        place = {tuple(edge): e for e, edge in enumerate(edges.tolist())}
        return 1 - weights[[place[edge] for edge in zip(i.tolist(), j.tolist(), strict=True)]].abs()


def test_a_pipeline_of_weights_filters_the_graph_of_the_network():
    weights = {
        "0": torch.tensor([[0.5, 0.25]], dtype=torch.float64, requires_grad=True),
        "1": torch.tensor([[-0.75]], dtype=torch.float64, requires_grad=True),
    }
    reg = topoloss.pipeline(WeightGraph(), "mst", "t1")
    assert reg.source == "weights"
    assert reg.diagrams(weights)[0].deaths.tolist() == [0.25, 0.5, 0.75]
    value = reg.of_layers(weights)
    assert value.item() == -1.5
    value.backward()
    assert weights["0"].grad.tolist() == [[1, 1]]
    assert weights["1"].grad.tolist() == [[-1]]
    with pytest.raises(topoloss.InputError, match=r"the pipeline .* takes weights"):
        reg.diagrams(torch.ones(3, 2))


COMPILED = """
import torch, topoloss

class Path(topoloss.Filtration):
    def vertices(self, x):
        return x.mean(0), x.square().mean(0)

    def edges(self, v):
        first = torch.arange(len(v[0]) - 1)
        return len(v[0]), torch.stack((first, first + 1), 1)

    def edge_values(self, v, i, j):
        return (v[0][i] - v[0][j]).abs() + (v[1][i] * v[1][j])

# T2 looks at the number of deaths, which is not known before the edges are looked at.
for loss, in_one_graph in (("t1", True), ("t2", False)):
    reg = topoloss.pipeline(Path(), "mst", loss)
    compiled = torch.compile(reg, fullgraph=in_one_graph, backend="aot_eager")
    for seed in (0, 1):
        x = torch.randn(6, 9, generator=torch.Generator().manual_seed(seed))
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        expected, actual = reg(a), compiled(b)
        expected.backward()
        actual.backward()
        torch.testing.assert_close(actual, expected)
        torch.testing.assert_close(b.grad, a.grad)
        assert a.grad.abs().max() > 1e-3
"""


@pytest.mark.slow
def test_a_pipeline_of_a_graph_equals_eager_when_it_is_compiled():
    # In a process of its own: the run-time checks of shapes here get in the compiler's way.
    ran = subprocess.run(
        [sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


# What is refused


@pytest.mark.parametrize(
    "graph",
    [
        torch.tensor([[0, 1]]),
        (torch.tensor([[0, 1]]), 6),
        (6, torch.tensor([0, 1])),
        (6, torch.tensor([[0, 1, 2]])),
        (6, torch.tensor([[0.0, 1.0]])),
        (0, torch.empty(0, 2, dtype=torch.int64)),
        (6, [[0, 1]]),
    ],
    ids=["edges", "turned", "one axis", "triangles", "floats", "no vertex", "list"],
)
def test_a_graph_of_another_form_is_an_error(graph):
    class Wrong(Grid):
        def edges(self, v):
            return graph

    with pytest.raises(topoloss.InputError, match=r"Wrong\.edges returned .*expected \(n, edges\)"):
        topoloss.pipeline(Wrong())(activations(5, 6))


@pytest.mark.parametrize("edge", [[0, 6], [-1, 2], [3, -7]])
def test_ends_that_are_no_vertices_are_an_error(edge):
    class Wrong(Grid):
        def edges(self, v):
            n, edges = super().edges(v)
            return n, torch.cat((edges, torch.tensor([edge])))

    with pytest.raises(topoloss.InputError, match=rf"the edge \[{edge[0]}, {edge[1]}\].* 0 to 5\."):
        topoloss.pipeline(Wrong())(activations(5, 6))


class Parts(NamedTuple):
    features: torch.Tensor
    means: torch.Tensor


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_vertices_may_be_a_named_tuple(dtype):
    class Named(Grid):
        def vertices(self, x):
            return Parts(*super().vertices(x))

        def edges(self, v):
            assert not v.features.requires_grad
            return super().edges(v)

        def edge_values(self, v, i, j):
            assert v.means.dtype == torch.promote_types(dtype, torch.float32)
            return super().edge_values(v, i, j)

    x = activations(5, 6).to(dtype).requires_grad_()
    assert torch.equal(topoloss.pipeline(Named())(x), topoloss.pipeline(Grid())(x))


def test_a_tuple_without_edges_is_an_error():
    class Clique(Grid):
        def edges(self, v):
            return None

    with pytest.raises(topoloss.InputError, match=r"2 tensors .*implement edges\(v\)"):
        topoloss.pipeline(Clique())(activations(5, 6))


@pytest.mark.parametrize("returned", [None, [torch.ones(6, 2)], (torch.ones(6, 2), 1)])
def test_vertices_that_are_no_tensors_are_an_error(returned):
    class Wrong(Grid):
        def vertices(self, x):
            return returned

    with pytest.raises(
        topoloss.InputError, match=r"(?s)Wrong\.vertices returned .* tuple of tensors"
    ):
        topoloss.pipeline(Wrong())(activations(5, 6))


def test_an_engine_without_this_operator_says_so():
    class MatrixOnly(topoloss.Persistence):
        pass

    with pytest.raises(NotImplementedError, match="MatrixOnly has no engine for listed edges"):
        topoloss.pipeline(Grid(), MatrixOnly())(activations(5, 6))


def test_a_pipeline_of_a_graph_can_be_copied():
    reg, x = topoloss.pipeline(Grid(2)), activations(5, 6)
    assert torch.equal(copy.deepcopy(reg)(x), reg(x))
