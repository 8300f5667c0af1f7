"""Spanning-tree backends: one tree, whoever finds it, and PyTorch operators around it."""

import itertools
import subprocess
import sys

import numpy as np
import oracles
import pytest
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from topoloss_mst.operators import spanning_tree_of_features, spanning_tree_of_matrix

import topoloss

ORDERS = ("abs_dot_descending", "dot_descending", "sq_dist_ascending")
FAST = ("numba", "torch")
BACKENDS = (*FAST, "reference")
# On the CPU Triton's kernels are interpreted, in float32.
if not torch.cuda.is_available():
    BACKENDS = (*BACKENDS, "triton")
# Prim's algorithm works in blocks of 1024 vertices, the torch backend's keys in blocks of 256.
SIZES = (1, 2, 3, 63, 64, 65, 127, 129, 255, 257, 1030)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=generator(seed))


def integers(*shape, high=1, seed=0):
    return torch.randint(-high, high + 1, shape, generator=generator(seed)).float()


def integer_matrix(n, *, high=3, seed=0):
    upper = integers(n, n, high=high, seed=seed).triu(1)
    return upper + upper.T


def tree_of_features(backend, v, order):
    return topoloss.persistence("mst", backend=backend).from_features(v, order)[0].death_edges


def tree_of_matrix(backend, values):
    return topoloss.persistence("mst", backend=backend).from_matrix(values)[0].death_edges


def keys(v, order):
    """Ascending keys in float64, exact where features are small integers."""
    v = v.double()
    if order == "sq_dist_ascending":
        return (v[:, None] - v[None]).square().sum(-1)
    dot = v @ v.T
    return -dot.abs() if order == "abs_dot_descending" else -dot


def assert_spanning_tree(edges, n):
    assert edges.shape == (n - 1, 2)
    assert edges.dtype == torch.int64
    i, j = edges.numpy().T
    assert (i < j).all()
    graph = coo_array((np.ones(n - 1), (i, j)), shape=(n, n))
    # n - 1 edges that connect n vertices close no cycle.
    assert connected_components(graph, directed=False)[0] == 1


def lexicographic_kruskal(key):
    """The tree of the order (key, lower index, higher index), by union-find in plain Python."""
    n = len(key)
    parent = list(range(n))

    def find(i):
        while parent[i] != i:
            i = parent[i]
        return i

    tree = []
    pairs = itertools.combinations(range(n), 2)
    for i, j in sorted(pairs, key=lambda pair: (float(key[pair]), pair)):
        a, b = find(i), find(j)
        if a != b:
            parent[b] = a
            tree.append([i, j])
    return sorted(tree)


@pytest.mark.parametrize("n", [2, 3, 17, 40])
@pytest.mark.parametrize("order", ORDERS)
def test_the_reference_takes_edges_by_key_then_lower_then_higher_index(order, n):
    v = integers(n, 3)
    expected = lexicographic_kruskal(keys(v, order))
    assert tree_of_features("reference", v, order).tolist() == expected
    assert tree_of_matrix("reference", keys(v, order)).tolist() == expected


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("order", ORDERS)
def test_backends_agree_edge_for_edge_among_masses_of_ties(order, n):
    # 27 distinct vertices at most, so that nearly every key is shared by many edges.
    v = integers(n, 3, seed=n)
    expected = tree_of_features("reference", v, order)
    assert_spanning_tree(expected, n)
    for backend in FAST:
        assert torch.equal(tree_of_features(backend, v, order), expected)
        assert torch.equal(tree_of_features(backend, v.double(), order), expected)


@pytest.mark.parametrize("n", SIZES)
def test_backends_agree_edge_for_edge_on_matrices(n):
    values = integer_matrix(n, seed=n)
    expected = tree_of_matrix("reference", values)
    assert_spanning_tree(expected, n)
    for backend in FAST:
        assert torch.equal(tree_of_matrix(backend, values), expected)
        assert torch.equal(tree_of_matrix(backend, values.double()), expected)


@pytest.mark.parametrize(
    ("backend", "n"),
    # Interpreted, a thousand vertices take a while.
    [(b, n) for b in BACKENDS for n in (2, 3, 64, 129, 1030) if b != "triton" or n < 1000],
)
def test_equal_keys_give_the_star_at_the_first_vertex(backend, n):
    # Where all keys are equal, components that each pick any lightest edge close a cycle.
    star = torch.stack((torch.zeros(n - 1), torch.arange(1, n)), 1).long()
    assert torch.equal(tree_of_matrix(backend, torch.full((n, n), 2.0)), star)
    assert torch.equal(tree_of_features(backend, torch.zeros(n, 3), "sq_dist_ascending"), star)


@pytest.mark.parametrize("backend", BACKENDS)
def test_vertices_that_arrive_late_in_a_block_are_found(backend):
    # A path in a scrambled order over two blocks of 1024: every edge has its own key.
    n = 1100
    order = torch.randperm(n, generator=generator(0))
    values = torch.full((n, n), 1e6)
    values[order[:-1], order[1:]] = torch.arange(n - 1).float()
    values = torch.minimum(values, values.T)
    edges = torch.stack((order[:-1], order[1:]), 1).sort(1).values
    expected = edges[(edges[:, 0] * n + edges[:, 1]).argsort()]
    assert torch.equal(tree_of_matrix(backend, values), expected)


@pytest.mark.parametrize(
    ("backend", "dtype"),
    [(b, torch.float32) for b in BACKENDS] + [(b, torch.float64) for b in (*FAST, "reference")],
)
@pytest.mark.parametrize("n", [64, 129, 300])
@pytest.mark.parametrize("order", ["abs_dot_descending", "dot_descending"])
def test_trees_of_unit_vectors_weigh_at_most_the_stated_bound_more(backend, n, order, dtype):
    d = 16
    v = torch.nn.functional.normalize(randn(n, d, seed=n), dim=1).to(dtype)
    # Copies up to rounding: near-ties, on which backends may differ.
    v[n // 2 :] = v[: n - n // 2] * (1 + torch.finfo(dtype).eps)
    edges = tree_of_features(backend, v, order)
    assert_spanning_tree(edges, n)
    key = keys(v, order).numpy()
    key -= key.min()
    _, minimum = oracles.spanning_tree(key * (1 - np.eye(n)))
    excess = key[tuple(edges.numpy().T)].sum() - minimum
    # The float64 sums of n - 1 terms of order 1 round as well.
    assert -n * 1e-15 <= excess <= 2 * (n - 1) * d * torch.finfo(dtype).eps


@pytest.mark.parametrize("backend", BACKENDS)
# Squares overflow from 2^64 on, and their sums somewhat before.
@pytest.mark.parametrize("scale", [1e-40, 1e-25, 2.0**60, 2.0**62, 2.0**63, 1e25, 1e38])
@pytest.mark.parametrize("order", ORDERS)
def test_no_scale_of_float32_features_loses_the_tree(backend, scale, order):
    # A power of two near the scale changes no bit of a mantissa, except of subnormals.
    v = integers(40, 3, high=3) * 2.0 ** round(np.log2(scale))
    assert torch.isfinite(v).all()
    assert v.abs().max() > 0
    assert torch.equal(
        tree_of_features(backend, v, order),
        tree_of_features("reference", integers(40, 3, high=3), order),
    )


@pytest.mark.parametrize(
    ("backend", "dtype", "order", "size"),
    [
        ("torch", torch.float16, "dot_descending", "0.5 GiB"),
        ("torch", torch.float32, "dot_descending", "0.5 GiB"),
        ("torch", torch.float64, "dot_descending", "1.1 GiB"),
        ("torch", torch.bfloat16, "sq_dist_ascending", "1.1 GiB"),
        ("reference", torch.float16, "dot_descending", "1.1 GiB"),
    ],
    ids=str,
)
def test_a_matrix_that_is_refused_is_measured_in_the_precision_of_its_keys(
    backend, dtype, order, size
):
    mst = topoloss.persistence("mst", backend=backend, max_vertices=11_999)
    with pytest.raises(topoloss.TooLargeError, match=f"12000 x 12000 keys, {size}"):
        mst.from_features(torch.zeros(12_000, 1, dtype=dtype), order)
    if order != "sq_dist_ascending":
        with pytest.raises(topoloss.TooLargeError, match=f"12000 x 12000 keys, {size}"):
            mst.check_matrix(12_000, dtype)


@pytest.mark.parametrize(
    ("backend", "dtype"),
    [
        *((backend, torch.float32) for backend in BACKENDS),
        *((backend, torch.float64) for backend in BACKENDS if backend != "triton"),
    ],
    ids=str,
)
@pytest.mark.parametrize("scale", ["least", "most"])
@pytest.mark.parametrize("order", ORDERS)
def test_an_ordinary_element_of_a_batch_lets_another_keep_its_tree(backend, dtype, scale, order):
    ordinary, zeros = integers(40, 3, high=3).to(dtype), torch.zeros(40, 3, dtype=dtype)
    # Squares of the one are 0, and those of the other are infinite.
    factor = {"least": torch.finfo(dtype).tiny, "most": torch.finfo(dtype).max / 8}[scale]
    extreme = ordinary.flip(0) * 2.0 ** round(np.log2(factor))
    batch = torch.stack((ordinary, extreme, zeros))
    found = spanning_tree_of_features(batch, order, backend)
    for tree, v in zip(found, (ordinary, ordinary.flip(0), zeros), strict=True):
        assert torch.equal(tree, tree_of_features("reference", v, order))


UNKNOWN_ORDER = """
import torch, topoloss

for backend in ("auto", "numba", "torch", "reference"):
    mst = topoloss.persistence("mst", backend=backend)
    for order in ("euclidean", "sq_dist_descending", ""):
        try:
            print("no error:", mst.from_features(torch.ones(4, 3), order))
        except topoloss.OptionError as error:
            assert f"order={order!r}" in str(error), error
            assert "'sq_dist_ascending'" in str(error), error
"""


def test_every_backend_refuses_an_unknown_order_and_lists_the_known_ones():
    # In a process of its own: the types of arguments are not checked there.
    run = [sys.executable, "-c", UNKNOWN_ORDER]
    assert subprocess.run(run, check=True, capture_output=True, text=True).stdout == ""


# Triton's tests of its own do the same, on a GPU where there is one.
@pytest.mark.parametrize("backend", [*FAST, "reference"])
def test_backends_are_deterministic_and_leave_their_input_alone(backend):
    v, values = randn(200, 8, dtype=torch.float32), integer_matrix(200)
    before = v.clone(), values.clone()
    trees = [tree_of_features(backend, v, ORDERS[0]) for _ in range(4)]
    assert all(torch.equal(tree, trees[0]) for tree in trees)
    tree_of_matrix(backend, values)
    assert torch.equal(v, before[0])
    assert torch.equal(values, before[1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_memory_layout_does_not_matter(backend):
    v, values = integers(50, 4), integer_matrix(50)
    expected = tree_of_features(backend, v, ORDERS[0])
    assert torch.equal(tree_of_features(backend, v.T.contiguous().T, ORDERS[0]), expected)
    wide = torch.zeros(100, 100)
    wide[::2, ::2] = values
    assert torch.equal(tree_of_matrix(backend, wide[::2, ::2]), tree_of_matrix(backend, values))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["t1", "t2"])
def test_every_backend_gives_the_regulariser_its_value_and_gradient(backend, name):
    x = randn(12, 70, dtype=torch.float32)
    results = []
    for persistence in ("mst", topoloss.persistence("mst", backend=backend)):
        a = x.clone().requires_grad_()
        value = topoloss.regulariser(name, persistence=persistence)(a)
        value.backward()
        results.append((value, a.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


# Edge values of custom filtrations


class Table(topoloss.Filtration):
    """Edge values from a matrix."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def vertices(self, x):
        return x.T

    def edge_values(self, v, i, j):
        return self.values[i, j]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_an_edge_value_that_is_not_finite_raises(backend, bad):
    values = integer_matrix(5)
    values[1, 3] = values[3, 1] = bad
    reg = topoloss.pipeline(Table(values), topoloss.persistence("mst", backend=backend), "t1")
    with pytest.raises(topoloss.InputError, match="NaN or infinity"):
        reg(torch.zeros(2, 5))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("diagonal", [torch.nan, torch.inf, -torch.inf, -100.0])
def test_the_diagonal_is_no_edge(backend, diagonal):
    # The logarithm of a distance, say, is -inf between a vertex and itself.
    values = integer_matrix(70) + 10
    expected = tree_of_matrix("reference", values)
    values.fill_diagonal_(diagonal)
    reg = topoloss.pipeline(Table(values), topoloss.persistence("mst", backend=backend), "t1")
    diagram = reg.diagrams(torch.zeros(2, 70))[0]
    edges = diagram.death_edges
    assert torch.equal(edges[(edges[:, 0] * 70 + edges[:, 1]).argsort()], expected)
    assert torch.isfinite(reg(torch.zeros(2, 70)))


@pytest.mark.parametrize("filtration", ["correlation", "cosine"])
def test_pairwise_holds_the_edge_values(filtration):
    made = topoloss.filtration(filtration)
    v = made.vertices(randn(6, 9))
    i, j = torch.triu_indices(9, 9, 1)
    torch.testing.assert_close(made.pairwise(v)[i, j], made.edge_values(v, i, j))


@pytest.mark.parametrize("filtration", ["correlation", "cosine"])
def test_pairwise_is_not_negative_where_rounding_leaves_copies_more_than_alike(filtration):
    made = topoloss.filtration(filtration)
    v = made.vertices(randn(50, 40, dtype=torch.float32).repeat(1, 2))
    i = torch.arange(40)
    assert ((v @ v.T)[i, i + 40] > 1).any(), "the case must have a product above 1"
    assert (made.pairwise(v) >= 0).all()


# Options


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_a_backend_that_holds_a_matrix_refuses_more_vertices_than_allowed(backend):
    mst = topoloss.persistence("mst", backend=backend, max_vertices=10)
    topoloss.pipeline("correlation", mst)(randn(4, 10))
    with pytest.raises(topoloss.TooLargeError, match=r"11 x 11 keys.*backend='numba'"):
        topoloss.pipeline("correlation", mst)(randn(4, 11))


def test_a_matrix_of_more_vertices_than_allowed_is_refused_before_it_is_filled():
    class Unfilled(Table):
        def pairwise(self, v):
            raise AssertionError("the matrix was filled")

    mst = topoloss.persistence("mst", max_vertices=10)
    with pytest.raises(topoloss.TooLargeError, match=r"without an order needs a matrix of 11 x 11"):
        topoloss.pipeline(Unfilled(torch.zeros(11, 11)), mst)(randn(4, 11))
    # Features need none.
    topoloss.pipeline("correlation", mst)(randn(4, 11))


def test_a_backend_that_is_not_known_is_an_error():
    with pytest.raises(topoloss.OptionError, match="'numba', 'triton', 'torch', 'reference'"):
        topoloss.persistence("mst", backend="cuda")


def test_the_former_name_of_the_option_is_an_error_that_names_the_new_one():
    with pytest.raises(topoloss.OptionError, match=r"engine='torch' .*; write backend='torch'"):
        topoloss.persistence("mst", engine="torch")


# PyTorch around the backends


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch", [(), (2,)])
def test_operators_pass_opcheck(backend, batch):
    v = randn(*batch, 6, 3, dtype=torch.float32)
    torch.library.opcheck(spanning_tree_of_features, (v, "abs_dot_descending", backend))
    torch.library.opcheck(spanning_tree_of_matrix, (v @ v.mT, backend))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("in_dim", "order"), [*zip([0, 1, -1], ORDERS, strict=True)])
def test_operators_map_over_any_axis(backend, in_dim, order):
    batch = torch.stack([integer_matrix(9, seed=s) for s in range(4)])
    expected = torch.stack([tree_of_matrix(backend, v) for v in batch])
    moved = batch.movedim(0, in_dim)
    mapped = torch.vmap(lambda v: spanning_tree_of_matrix(v, backend), in_dims=in_dim)(moved)
    assert torch.equal(mapped, expected)

    features = torch.stack([integers(9, 3, seed=s) for s in range(4)])
    expected = torch.stack([tree_of_features(backend, v, order) for v in features])
    mapped = torch.vmap(lambda v: spanning_tree_of_features(v, order, backend), in_dims=in_dim)(
        features.movedim(0, in_dim)
    )
    assert torch.equal(mapped, expected)


NAMES = ("t1", "t2", "naive")
# Under vmap a check for NaN would branch on data.
UNCHECKED = {"check_finite": False}


@pytest.mark.parametrize("name", NAMES)
def test_vmap_and_vmap_of_grad_equal_the_loop(name):
    reg, x = topoloss.regulariser(name, **UNCHECKED), randn(4, 8, 20)
    values = torch.stack([reg(problem) for problem in x])
    grads = torch.stack([torch.func.grad(reg)(problem) for problem in x])
    torch.testing.assert_close(torch.func.vmap(reg)(x), values)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(reg))(x), grads)
    assert grads.abs().max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", [{}, UNCHECKED, {"on_nonfinite": "skip"}], ids=str)
def test_a_regulariser_works_as_before_after_it_was_mapped(name, options):
    # Nothing that belongs to the mapping may be left in the module.
    reg, x = topoloss.regulariser(name, **options), randn(4, 8, 20)
    expected = reg(x[0])
    torch.func.vmap(reg)(x)
    torch.func.vmap(torch.func.grad(reg))(x)
    assert torch.equal(reg(x[0]), expected)
    assert int(reg.skipped) == 0


# torch.func loads decompositions that torch itself scripts.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", ["t1", "t2"])
def test_forward_over_reverse_equals_reverse_over_reverse(name):
    reg, x = topoloss.regulariser(name, **UNCHECKED), randn(6, 4)
    expected = torch.autograd.functional.hessian(reg, x)
    torch.testing.assert_close(torch.func.hessian(reg)(x), expected)


@pytest.mark.parametrize("name", NAMES)
def test_batches_and_lists_equal_the_loop(name):
    reg, x = topoloss.regulariser(name), randn(3, 8, 20)
    torch.testing.assert_close(reg(x), torch.stack([reg(problem) for problem in x]))
    ragged = [x[0], x[1, :5, :7], x[2, :, :2]]
    values = reg(ragged)
    assert values.shape == (3,)
    assert torch.equal(values, torch.stack([reg(problem) for problem in ragged]))


class ByScipy(topoloss.Persistence):
    """A plugin's engine in numpy, which neither vmap nor features reach."""

    def from_matrix(self, values):
        edges, _ = oracles.spanning_tree(values.numpy())
        return [topoloss.CriticalEdges(torch.from_numpy(edges).long())]


def test_an_engine_in_numpy_is_differentiable_and_takes_batches():
    x = randn(3, 8, 20)
    by_scipy, mst = (topoloss.pipeline("correlation", p, "t1") for p in (ByScipy(), "mst"))
    torch.testing.assert_close(by_scipy(x), mst(x))
    expected = torch.func.grad(lambda x: mst(x).sum())
    a = x.clone().requires_grad_()
    by_scipy(a).sum().backward()
    torch.testing.assert_close(a.grad, expected(x))
    assert torch.autograd.gradgradcheck(by_scipy, x[:2, :5, :4].clone().requires_grad_())


@pytest.mark.parametrize(
    "transform",
    [
        torch.vmap,
        lambda f: torch.func.grad(lambda x: f(x).sum()),
        lambda f: torch.vmap(torch.func.grad(f)),
        lambda f: lambda x: torch.vmap(torch.vmap(f), 1)(torch.stack((x, x + x**2), 1)),
        lambda f: lambda x: torch.func.jacrev(torch.func.grad(f))(x[0, :, :3]),
    ],
    ids=["vmap", "grad", "vmap of grad", "vmap of vmap", "hessian"],
)
def test_an_engine_in_numpy_works_under_transforms(transform):
    by_scipy, mst = (topoloss.pipeline("correlation", p, "t1") for p in (ByScipy(), "mst"))
    x = randn(3, 6, 5)
    torch.testing.assert_close(transform(by_scipy)(x), transform(mst)(x))


COMPILED = """
import copy, torch, topoloss

for name in ("t1", "t2", "naive"):
    torch.compiler.reset()
    x = torch.randn(6, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    eager, traced = topoloss.regulariser(name), topoloss.regulariser(name)
    compiled = torch.compile(traced, fullgraph=True, backend="aot_eager")
    for problem in (x, x * 3 + 1):
        a, b = problem.clone().requires_grad_(), problem.clone().requires_grad_()
        expected, actual = eager(a), compiled(b)
        expected.backward()
        actual.backward()
        torch.testing.assert_close(actual, expected)
        torch.testing.assert_close(b.grad, a.grad)
        assert a.grad.abs().max() > 1e-3
    print(name)

class Net(torch.nn.Module):
    def __init__(self, name):
        super().__init__()
        self.first, self.last = torch.nn.Linear(5, 12), torch.nn.Linear(12, 3)
        self.reg = topoloss.regulariser(name)

    def forward(self, x, y):
        hidden = self.first(x).relu()
        out = self.last(hidden)
        loss = torch.nn.functional.cross_entropy(out, y)
        return loss + 0.1 * self.reg(torch.cat((hidden, out), 1))

def train(loss, net):
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        optimiser.zero_grad()
        x = torch.randn(16, 5, generator=generator)
        loss(x, torch.randint(3, (16,), generator=generator)).backward()
        optimiser.step()
    return list(net.parameters())

for name in ("t1", "t2", "naive"):
    torch.compiler.reset()
    net = Net(name)
    twin = copy.deepcopy(net)
    before = [p.detach().clone() for p in net.parameters()]
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    for p, q, start in zip(train(net, net), train(compiled, twin), before, strict=True):
        torch.testing.assert_close(q, p)
        assert not torch.equal(p, start)
    print(name, "step")

for name in ("t1", "t2", "naive"):
    torch.compiler.reset()
    skipping = topoloss.regulariser(name, on_nonfinite="skip")
    compiled = torch.compile(skipping, fullgraph=True, backend="eager")
    x = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    assert [compiled(x * scale).item() == 0 for scale in (torch.nan, 1, torch.inf)] == [1, 0, 1]
    assert skipping.skipped == 2
    print(name, "skips")
"""


@pytest.mark.slow
def test_regularisers_and_training_steps_compiled_in_one_graph_equal_eager():
    # In a process of its own: the run-time checks of shapes here get in dynamo's way.
    ran = subprocess.run(
        [sys.executable, "-W", "error::topoloss.PluginWarning", "-c", COMPILED],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    shown = [f"{name}{what}" for what in ("", " step", " skips") for name in NAMES]
    assert ran.stdout.splitlines() == shown
