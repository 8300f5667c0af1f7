"""The triton backend: on a GPU where there is one, else interpreted on the CPU."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import oracles
import pytest
import torch
import triton
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from topoloss_mst import operators, selection
from topoloss_mst.backends import triton_backend
from topoloss_mst.backends.triton_backend.components import Components
from topoloss_mst.backends.triton_backend.forest import grow
from topoloss_mst.operators import spanning_tree_of_features, spanning_tree_of_matrix
from torch.utils._python_dispatch import TorchDispatchMode
from triton_trees import DEVICE, ORDERS, expected, generator, integers, poison, randn, trees

import topoloss

SIZES = (2, 3, 64, 65, 129)


def integer_matrix(n, *, high=3, seed=0):
    upper = integers(n, n, high=high, seed=seed).triu(1)
    return upper + upper.T


def of_features(v, order):
    return spanning_tree_of_features(v.to(DEVICE), order, "triton").cpu()


def of_matrix(values):
    return spanning_tree_of_matrix(values.to(DEVICE), "triton").cpu()


def expected_of_matrix(values):
    return spanning_tree_of_matrix(values.float(), "reference")


def is_spanning_tree(edges, n):
    i, j = edges.numpy().T
    graph = coo_array((np.ones(n - 1), (i, j)), shape=(n, n))
    return (i < j).all() and connected_components(graph, directed=False)[0] == 1


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch):
    poison(monkeypatch)


@pytest.mark.parametrize(("n", "d"), [(2, 1), (3, 33), (64, 33), (65, 1), (129, 33)])
@pytest.mark.parametrize("order", ORDERS)
def test_trees_equal_those_of_the_reference_among_masses_of_ties(order, n, d):
    v = integers(n, d, seed=n)
    assert torch.equal(trees(v, order), expected(v, order))


@pytest.mark.parametrize("n", SIZES)
def test_trees_of_matrices_equal_those_of_the_reference_edge_for_edge(n):
    values = integer_matrix(n, seed=n)
    assert torch.equal(of_matrix(values), expected_of_matrix(values))


@pytest.mark.parametrize("order", ORDERS)
def test_zero_vectors_are_vertices_like_others(order):
    v = integers(130, 3)
    v[::3] = 0
    assert torch.equal(trees(v, order), expected(v, order))


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("order", ORDERS)
def test_vertices_that_are_all_equal_make_a_star_around_the_first(order, value):
    # If each vertex took any of its lightest edges, here all of them, they could close a cycle.
    star = torch.stack((torch.zeros(69), torch.arange(1, 70)), 1).long()
    assert torch.equal(trees(torch.full((70, 2), value), order), star)


def test_zeros_tie_whatever_their_sign():
    values = integer_matrix(129, high=1)
    negative = torch.where(integer_matrix(129, seed=1) > 0, -0.0, values)
    signed = torch.where(values == 0, negative, values)
    assert torch.equal(signed, values)
    assert torch.signbit(signed[values == 0]).float().mean() > 0.2
    assert torch.equal(of_matrix(signed), expected_of_matrix(values))


def weight(edges, key):
    return key[tuple(edges.numpy().T)].sum()


@pytest.mark.parametrize(("n", "d"), [(65, 1), (129, 33)])
def test_squared_distances_weigh_at_most_the_stated_bound_more(n, d):
    # Far from the origin, where squares without centring would hide the distances.
    v = randn(n, d, seed=n) + 100
    v[n // 2 :] = v[: n - n // 2] * (1 + torch.finfo().eps)
    edges = trees(v, "sq_dist_ascending")
    assert is_spanning_tree(edges, n)
    w = v.double()
    key = (w[:, None] - w).square().sum(-1).numpy()
    _, minimum = oracles.spanning_tree(key)
    radius = key[0].max()
    bound = 2 * (n - 1) * (d + 8) * torch.finfo().eps * radius
    assert -n * 1e-15 * radius <= weight(edges, key) - minimum <= bound


@pytest.mark.parametrize("d", [1, 33])
@pytest.mark.parametrize("order", ORDERS[:2])
def test_dot_products_weigh_at_most_the_stated_bound_more(order, d):
    n = 129
    v = torch.nn.functional.normalize(randn(n, d), dim=1)
    edges = trees(v, order)
    assert is_spanning_tree(edges, n)
    dots = (v.double() @ v.double().T).numpy()
    key = 2 - (np.abs(dots) if order == "abs_dot_descending" else dots)
    _, minimum = oracles.spanning_tree(key * (1 - np.eye(n)))
    bound = 2 * (n - 1) * d * torch.finfo().eps
    assert -n * 1e-15 <= weight(edges, key) - minimum <= bound


@pytest.mark.parametrize("order", ORDERS)
def test_a_batch_of_different_elements_equals_one_by_one(order):
    # One is done after a round, another is all ties.
    v = torch.stack((integers(66, 3), torch.zeros(66, 3), integers(66, 3, high=9, seed=1)))
    assert torch.equal(trees(v, order), expected(v, order))


def test_a_batch_of_matrices_equals_one_by_one():
    values = torch.stack([integer_matrix(66, seed=s) for s in range(3)])
    assert torch.equal(of_matrix(values), expected_of_matrix(values))
    same = values[:1].expand(3, -1, -1)
    assert torch.equal(of_matrix(same), expected_of_matrix(same))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_converted_exactly(dtype):
    v = integers(70, 3, high=9)
    for order in ORDERS:
        assert torch.equal(
            trees(v.to(dtype), order),
            expected(v, order),
        )
    values = integer_matrix(70)
    assert torch.equal(of_matrix(values.to(dtype)), expected_of_matrix(values))


def test_small_numbers_of_float16_do_not_underflow():
    # Scaled by the largest in float16, vertices 1 and 2 would be zero, and all products tie.
    tiny = 2.0**-24
    v = torch.tensor([[60000, 0], [0, tiny], [0, 3 * tiny], [0, 1]], dtype=torch.float16)
    assert of_features(v, "dot_descending").tolist() == [[0, 1], [1, 3], [2, 3]]


def test_memory_layout_does_not_matter_and_inputs_are_left_alone():
    v, values = integers(65, 4), integer_matrix(65)
    wide = torch.zeros(130, 195)
    wide[::2, ::3] = values
    before = v.clone(), wide.clone()
    assert torch.equal(of_features(v.T.contiguous().T, ORDERS[0]), of_features(v, ORDERS[0]))
    on_device = wide.to(DEVICE)
    for given in (on_device[::2, ::3], on_device[::2, ::3].T):
        assert torch.equal(spanning_tree_of_matrix(given, "triton").cpu(), of_matrix(values))
    assert torch.equal(v, before[0])
    assert torch.equal(on_device.cpu(), before[1])


def test_each_run_gives_the_same_tree():
    v = randn(129, 8)
    runs = [triton_backend.from_features(v[None].to(DEVICE), ORDERS[0]) for _ in range(3)]
    assert all(torch.equal(run, runs[0]) for run in runs)


def test_only_the_lower_triangle_is_read():
    values = integer_matrix(65)
    upper = torch.full((65, 65), torch.nan).triu()
    given = (values.tril(-1) + upper)[None].to(DEVICE)
    edges = triton_backend.from_matrix(given)[0].cpu().sort(1).values
    code = (edges[:, 0] * 65 + edges[:, 1]).sort().values
    expected = expected_of_matrix(values)
    assert torch.equal(code, expected[:, 0] * 65 + expected[:, 1])


# NaN: on a GPU nobody looks for it.


def unchecked_edges(edges):
    return {tuple(sorted(edge)) for edge in edges[0].tolist()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_nan_is_the_lightest_edge_so_that_the_tree_shows_it(sign, dtype):
    values = integer_matrix(70).to(dtype) - 100
    values[3, 50] = values[50, 3] = torch.copysign(torch.tensor(torch.nan), torch.tensor(sign))
    values[9, 8] = values[8, 9] = -torch.inf
    edges = triton_backend.from_matrix(values[None].to(DEVICE)).cpu()
    assert is_spanning_tree(edges[0].sort(1).values, 70)
    assert {(3, 50), (8, 9)} <= unchecked_edges(edges)


# From numpy, in the interpreter.
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("order", ORDERS)
def test_features_of_nan_still_give_a_spanning_tree(order):
    for bad in (torch.nan, torch.inf):
        for where in (slice(None), slice(5, 6), slice(0, 1)):
            v = randn(1, 70, 3)
            v[:, where] = bad
            edges = triton_backend.from_features(v.to(DEVICE), order).cpu()
            assert is_spanning_tree(edges[0].sort(1).values, 70)


# More than 32 bits


class Path:
    """Pairs of very many vertices along a path."""

    def __init__(self, n, seed):
        self.order = torch.randperm(n, generator=generator(seed)).to(DEVICE)
        self.keys = torch.randperm(n - 1, generator=generator(seed + 1)).to(DEVICE)

    def offer(self, forest, round, edges):
        i, j = self.order[:-1], self.order[1:]
        code = torch.minimum(i, j) * forest.n + torch.maximum(i, j)
        a, b = forest.component[0, i].long(), forest.component[0, j].long()
        leaving = a != b
        for c in (a, b):
            key, edge = forest.lightest_key[0], forest.lightest_edge[0]
            if edges:
                chosen = leaving & (key[c] == self.keys)
                edge.scatter_reduce_(0, c[chosen], code[chosen], "amin")
            else:
                key.scatter_reduce_(0, c[leaving], self.keys[leaving], "amin")


def test_edges_of_many_vertices_do_not_overflow():
    n = 70_000
    assert (n - 2) * n > 2**32
    path = Path(n, seed=0)
    # Fewer programs, as interpreting each takes its time.
    forest = Components(1, n, torch.device(DEVICE), block=16_384)
    grow(forest, [path])
    edges = forest.edges()[0].sort(1).values
    along = torch.stack((path.order[:-1], path.order[1:]), 1).sort(1).values
    codes = [(e[:, 0] * n + e[:, 1]).sort().values for e in (edges, along)]
    assert torch.equal(*codes)


def test_offsets_into_a_matrix_of_many_entries_do_not_overflow():
    # Made on the device: nothing is copied, and the memory between the rows is never touched.
    row = 2**30 + 2**20
    values = torch.empty_strided((1, 3, 3), (0, row, 1), dtype=torch.float16, device=DEVICE)
    values.copy_(torch.tensor([[0.0, 5, 1], [5, 0, 2], [1, 2, 0]]))
    # Not by the operator, which would make the matrix contiguous.
    tree = triton_backend.from_matrix(values)[0].sort(1).values
    assert sorted(tree.tolist()) == [[0, 2], [1, 2]]


# Around the backend


@pytest.mark.parametrize("name", ["t1", "t2"])
@pytest.mark.parametrize("filtration", ["correlation", "euclidean"])
def test_value_and_gradient_are_those_of_the_numba_backend(name, filtration):
    x = randn(12, 66)
    results = []
    for backend in ("numba", "triton"):
        a = x.clone().to(DEVICE if backend == "triton" else "cpu").requires_grad_()
        mst = topoloss.persistence("mst", backend=backend)
        value = topoloss.regulariser(name, filtration=filtration, persistence=mst)(a)
        value.backward()
        results.append((value.detach().cpu(), a.grad.cpu()))
    # On one device the same operations run on the same edges.
    exact = {"rtol": 0, "atol": 0} if DEVICE == "cpu" else {}
    torch.testing.assert_close(results[1], results[0], **exact)


class Shapes(TorchDispatchMode):
    """The shapes of the features whose trees are searched for inside."""

    def __init__(self):
        super().__init__()
        self.given = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.name() == "topoloss::spanning_tree_of_features":
            self.given.append(tuple(args[0].shape))
        return func(*args, **(kwargs or {}))


def test_batches_are_one_search():
    mst = topoloss.persistence("mst", backend="triton")
    reg = topoloss.pipeline("correlation", mst, "t1")
    x = randn(3, 8, 20).to(DEVICE)
    with Shapes() as shapes:
        values = reg(x)
    assert shapes.given == [(3, 20, 8)]
    torch.testing.assert_close(values, torch.stack([reg(element) for element in x]))


def on(device, dtype=torch.float32):
    return SimpleNamespace(device=torch.device(device), dtype=dtype)


def test_auto_is_a_rule_of_device_and_dtype():
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert selection.choose_backend("auto", on("cuda", dtype)) == "triton"
    assert selection.choose_backend("auto", on("cuda", torch.float64)) == "torch"
    assert selection.choose_backend("auto", on("mps")) == "torch"
    assert selection.choose_backend("auto", on("cpu")) == "numba"


WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None
from types import SimpleNamespace
import torch, topoloss
from topoloss_mst.selection import choose_backend

cuda = SimpleNamespace(device=torch.device("cuda"), dtype=torch.float32)
print(choose_backend("auto", cuda))
mst = topoloss.persistence("mst", backend="triton")
try:
    mst.from_features(torch.zeros(4, 5), "dot_descending")
except topoloss.MissingExtraError as error:
    print(error)
"""


def test_without_triton_auto_is_torch_and_triton_an_error_that_names_the_extra():
    # In a process of its own, in which nothing imported it before.
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_TRITON], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    chosen, error = ran.stdout.splitlines()
    assert chosen == "torch"
    assert "pip install 'topoloss-framework[triton]'" in error


@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_backends_of_the_cpu_refuse_other_devices(backend):
    with pytest.raises(topoloss.OptionError, match=r"runs on the CPU.*cuda:0.*backend='torch'"):
        selection.choose_backend(backend, on("cuda:0"))


def test_the_triton_backend_says_why_it_cannot_run(monkeypatch):
    reg = topoloss.pipeline("correlation", topoloss.persistence("mst", backend="triton"), "t1")
    with pytest.raises(topoloss.OptionError, match=r"float64; use backend='torch'"):
        reg(randn(4, 5).double())
    # As if the kernels were compiled.
    monkeypatch.setattr(triton, "JITFunction", object)
    with pytest.raises(topoloss.OptionError, match=r"runs on GPUs.*TRITON_INTERPRET=1"):
        reg(randn(4, 5))


def out_of_memory(*args):
    raise torch.OutOfMemoryError("CUDA out of memory.")


def test_the_size_of_a_matrix_is_told_in_gib():
    """The square of 50,000 numbers of 4 bytes is 10^10 bytes, and a GiB has 2^30."""
    error = operators.out_of_memory(torch.empty(50_000, 3, device="meta"), "ask for less")
    assert "50000 x 50000 keys, at least 9.3 GiB for each copy" in str(error)
    assert "ask for less; or take a fraction" in str(error)


class Manhattan(topoloss.Filtration):
    def vertices(self, x):
        return x.T

    def edge_values(self, v, i, j):
        return (v[i] - v[j]).abs().sum(-1)


def test_out_of_memory_names_the_size_and_a_way_without(monkeypatch):
    x = randn(4, 700)
    dense = topoloss.pipeline("correlation", topoloss.persistence("mst", backend="torch"), "t1")
    monkeypatch.setattr("topoloss_mst.backends.torch_backend.from_features", out_of_memory)
    with pytest.raises(
        topoloss.TooLargeError, match=r"700 x 700 keys, at least 0.0 GiB.*backend='triton'"
    ):
        dense(x)
    custom = topoloss.pipeline(Manhattan(), "mst", "t1")
    monkeypatch.setattr("topoloss_mst.backends.numba_backend.from_matrix", out_of_memory)
    with pytest.raises(topoloss.TooLargeError, match=r"700 x 700.*give the filtration an order"):
        custom(x)
    monkeypatch.setattr(Manhattan, "pairwise", out_of_memory)
    with pytest.raises(topoloss.TooLargeError, match=r"700 x 700.*Give the filtration an order"):
        custom(x)
    monkeypatch.setattr("topoloss_mst.backends.triton_backend.from_features", out_of_memory)
    with pytest.raises(topoloss.TooLargeError, match=r"4 vertices of 700 features; .*fraction=0.1"):
        of_features(x, ORDERS[0])
    with pytest.raises(topoloss.TooLargeError, match=r"a batch of 3; .*0.0 GiB.*smaller batch"):
        of_features(x.expand(3, 4, 700), ORDERS[0])
