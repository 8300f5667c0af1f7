"""What is the numba backend's own: products in low precision, few pairs, and no matrix."""

import subprocess
import sys
from functools import cache

import memory
import numpy as np
import pytest
import torch
from topoloss_mst.backends import numba_backend, reference_backend
from topoloss_mst.backends.numba_backend.edges import ORDERS
from topoloss_mst.backends.numba_backend.similarities import Similarities
from topoloss_mst.backends.numba_backend.trees import Plan
from torch.utils._python_dispatch import TorchDispatchMode

import topoloss

# One tile has 512 rows; a chunk 32 columns.
SIZES = (41, 64, 65, 129, 511, 512, 513, 1100)

BY_TILES = Plan(torch.float32, dense=40)
PRECISIONS = (torch.bfloat16, torch.float32)
precisions = pytest.mark.parametrize("precision", PRECISIONS, ids=str)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype, generator=generator(seed))


def integers(*shape, high=1, seed=0):
    return torch.randint(-high, high + 1, shape, generator=generator(seed)).float()


def tree(v, order, backend=numba_backend, **options):
    edges = backend.from_features(v[None], order, **options)[0].sort(-1).values
    return edges[(edges[:, 0] * len(v) + edges[:, 1]).argsort()]


def features(kind, n, seed=0):
    if kind == "real":
        return randn(n, 7, seed=seed)
    if kind == "positive":
        # Similarities are close to one another, and to 1 for unit vectors.
        return torch.nn.functional.normalize(randn(n, 7, seed=seed).abs() + 2, dim=1)
    if kind == "scattered":
        return randn(n, 3, seed=seed) * torch.logspace(-6, 6, n)[:, None]
    if kind == "clusters":
        # Far apart, so that squared distances within cancel in the products.
        return randn(n, 7, seed=seed) + 1e4 * integers(n, 1, seed=seed)
    v = integers(n, 3, high=2, seed=seed)
    if kind == "dead":
        v[torch.rand(n, generator=generator(seed)) < 0.4] = 0
    if kind == "dead first":
        v[: n // 2] = 0
    if kind == "orthogonal":
        # All products are 0 but those of equal vectors.
        v = torch.eye(11)[torch.randint(0, 11, (n,), generator=generator(seed))]
    if kind == "apart":
        # Three groups that share no feature; products within a group are rarely 0.
        group = torch.randint(0, 3, (n, 1), generator=generator(seed))
        v = randn(n, 9, seed=seed) * (torch.arange(9) // 3 == group)
    if kind == "all dead":
        v[:] = 0
    return v


@cache
def tree_of_float64_keys(kind, n, order, seed=0):
    """The reference's, which takes most of the time of the tests that share it."""
    return tree(features(kind, n, seed), order, reference_backend)


KINDS = (
    "real", "positive", "scattered", "clusters", "integers", "dead", "dead first", "orthogonal",
    "apart", "all dead",
)  # fmt: skip


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", SIZES)
def test_the_tree_is_that_of_float64_keys_whatever_the_precision(order, kind, n):
    v, expected = features(kind, n, seed=n), tree_of_float64_keys(kind, n, order, seed=n)
    for precision in PRECISIONS:
        found = tree(v, order, plan=BY_TILES._replace(dtype=precision))
        assert torch.equal(found, expected), precision


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [2, 3, 31, 32, 33, 64, 65, 200])
def test_the_tree_is_that_of_float64_keys_where_all_similarities_are_held(order, kind, n):
    v, expected = features(kind, n, seed=n), tree(features(kind, n, n), order, reference_backend)
    for precision in PRECISIONS:
        assert torch.equal(tree(v, order, plan=Plan(dtype=precision)), expected), precision


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_share_batches_of_few_vertices(threads):
    batch = randn(40, 64, 64, seed=3)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = numba_backend.from_features(batch, "sq_dist_ascending")
    finally:
        torch.set_num_threads(before)
    expected = reference_backend.from_features(batch, "sq_dist_ascending")
    for one, other in zip(found, expected, strict=True):
        assert set(map(frozenset, one.tolist())) == set(map(frozenset, other.tolist()))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("n", [2, 3, 40])
@pytest.mark.parametrize("seed", range(20))
def test_features_that_bfloat16_holds_may_have_products_that_it_rounds(order, n, seed):
    v = integers(n, 2, high=255, seed=seed)
    expected = tree(v, order, reference_backend)
    for plan in (Plan(torch.bfloat16), BY_TILES._replace(dtype=torch.bfloat16, dense=0)):
        assert torch.equal(tree(v, order, plan=plan), expected)


# A norm that makes errors large, how far a factor is moved by rounding, and a step beyond errors.
OVERESTIMATES = {
    torch.bfloat16: (8.0, 0.9 * 2**-6, 2**-5),
    torch.float32: (1024.0, 0.9 * 2**-15, 2**-7),
}


def overestimated(v, pair, at, precision):
    """Make a pair's product 1 in this precision. In truth it is less, by several steps."""
    far, off, _ = OVERESTIMATES[precision]
    (a, b), (k, m) = pair, at
    v[a, k], v[a, m] = far - off, far
    v[b, k], v[b, m] = far, 1 / far - far
    return v


@precisions
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dense", [2, 2048])
@pytest.mark.parametrize("n", [4, 240])
def test_an_edge_that_looks_lighter_than_it_is_rules_no_pair_out(precision, order, dense, n):
    """The edge (0, 1) has the least product of the cycle 0, 1, 2, 3.

    It seems to have the most but one, and Prim's algorithm takes it before it sees vertex 3.
    """
    step = OVERESTIMATES[precision][2]
    v = 2**-6 * torch.eye(n, max(n, 5), dtype=torch.float64)
    v[:4] = 0
    v[0, 2], v[3, 2] = 1, 1 - step
    v[1, 3], v[2, 3] = 1, 2
    v[2, 4], v[3, 4] = 1 - 2 * step, 1
    v = overestimated(v, (0, 1), (0, 1), precision)
    expected = tree(v, order, reference_backend)
    if order != "sq_dist_ascending":
        assert expected[(expected < 4).all(1)].tolist() == [[0, 3], [1, 2], [2, 3]]
    assert torch.equal(tree(v, order, plan=Plan(precision, dense=dense)), expected)


@precisions
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("n", [4, 7])
def test_an_edge_that_looks_lighter_than_it_is_may_lie_anywhere(precision, order, n):
    step = OVERESTIMATES[precision][2]
    i, j = torch.triu_indices(n, n, 1)
    for seed in range(50):
        # A feature for each pair; all products are whole numbers of steps but one.
        v = torch.zeros(n, len(i) + 1, dtype=torch.float64)
        each = torch.arange(len(i))
        v[i, each] = 1
        v[j, each] = 1 - step * torch.randint(12, (len(i),), generator=generator(seed)).double()
        k = seed % len(i)
        v = overestimated(v, (i[k], j[k]), (k, len(i)), precision)
        v = v[torch.randperm(n, generator=generator(seed))]
        expected = tree(v, order, reference_backend)
        assert torch.equal(tree(v, order, plan=Plan(precision)), expected)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", ["real", "dead", "orthogonal"])
def test_too_many_pairs_to_keep_are_settled_on_the_way(order, kind):
    v = features(kind, 1100)
    in_little_space = BY_TILES._replace(many=0, capacity=1 << 14)
    assert torch.equal(tree(v, order, plan=in_little_space), tree(v, order, plan=BY_TILES))


@precisions
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("d", [1, 3, 64, 513])
@pytest.mark.parametrize("kind", ["real", "positive", "scattered", "outlier", "tiny", "float64"])
def test_no_similarity_is_further_off_than_its_error(precision, order, kind, d):
    v = randn(40, d)
    if kind == "positive":
        v = v.abs() + 1
    if kind == "scattered":
        v = v * torch.logspace(-3, 3, 40)[:, None]
    if kind == "outlier":
        v[7] *= 1e5
    if kind == "tiny":
        v[::2] *= 1e-37
    if kind == "float64":
        v = v.double() * (1 + 1e-9)
    made = Similarities(v[None], ORDERS[order], precision)
    bits = torch.from_numpy(made.all()[0])
    found = bits.view(torch.bfloat16 if bits.dtype == torch.int16 else torch.float32).double()
    w, sizes = v.double(), torch.from_numpy(made.sizes[0])
    exact, scale = w @ w.T, sizes[:, None] * sizes
    if order == "sq_dist_ascending":
        exact = -(w[:, None] - w[None]).square().sum(-1) / 2
        scale = (sizes[:, None] + sizes).square() / 2
    relative, absolute = made.errors[0]
    last = 2**-8 * found.abs() if bits.dtype == torch.int16 else 0
    assert ((found - exact).abs() <= relative * scale + absolute + last).all()
    # Nor is the error wide: 8 bits of both factors, or a sum in float32.
    assert relative <= (2 * 2**-8 if bits.dtype == torch.int16 else 0) + 2.5e-7 * (d + 6)
    assert absolute < 1e-20


@precisions
@pytest.mark.parametrize("order", ORDERS)
def test_an_outlier_makes_no_other_pair_uncertain(precision, order):
    # One vertex that is a thousand times longer than the rest.
    v = randn(40, 16)
    alone = Similarities(v[None], ORDERS[order], precision)
    v[7] *= 1000
    beside = Similarities(v[None], ORDERS[order], precision)
    others = np.arange(40) != 7
    # A median moves a little.
    assert (beside.sizes[0][others] < 1.05 * alone.sizes[0][others]).all()
    assert beside.errors[0, 0] <= 1.5 * alone.errors[0, 0]


def test_distances_are_not_multiplied_again_in_the_precision_that_they_have():
    # All pairs of a far cluster are left over: more than bfloat16 may leave.
    v = features("clusters", 600)
    with Products() as multiplied:
        tree(v, "sq_dist_ascending", plan=BY_TILES)
    with Products() as asked_for_bfloat16:
        plan = BY_TILES._replace(dtype=torch.bfloat16, crowded=1)
        tree(v, "sq_dist_ascending", plan=plan)
    assert asked_for_bfloat16.dtypes == multiplied.dtypes
    assert set(multiplied.dtypes) == {torch.float32}


@pytest.mark.parametrize("dense", [2, 2048])
def test_a_product_that_cancels_in_float32_is_no_zero(dense):
    """The last two vertices have product 2^-30, the first has 0 with both."""
    v = torch.tensor([[0, 0, 1], [1, 1, 0], [1, 2**-30 - 1, 0]], dtype=torch.float64)
    found = tree(v, "abs_dot_descending", plan=Plan(torch.float32, dense=dense))
    assert found.tolist() == [[0, 1], [1, 2]]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("seed", range(4))
def test_equal_vertices_are_joined_as_if_they_were_searched(order, seed):
    # Zeros of both signs, and rows that are each other's double, so that an edge between equal
    # vertices may be the lightest or the heaviest at them.
    v = integers(60, 2, high=1, seed=seed) * (1 + integers(60, 1, seed=seed + 9).abs())
    v[::3] *= -1
    expected = tree(v, order, reference_backend)
    assert torch.equal(tree(v, order), expected)
    assert torch.equal(tree(v, order, plan=BY_TILES), expected)
    assert torch.equal(tree(v.double(), order), expected)


@pytest.mark.parametrize("n", [300, 1100])
def test_float32_products_in_lower_precision_change_no_tree(n):
    v = features("positive", n)
    expected = tree(v, "dot_descending", plan=BY_TILES)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert torch.equal(tree(v, "dot_descending", plan=BY_TILES), expected)
        made = Similarities(v[None], ORDERS["dot_descending"], torch.float32)
        # Both factors of unit vectors' products may be rounded to 8 bits.
        assert made.errors[0, 0] > 2 * 2**-8
    finally:
        torch.set_float32_matmul_precision(before)


class Products(TorchDispatchMode):
    """The dtypes in which matrices are multiplied inside."""

    def __init__(self):
        super().__init__()
        self.dtypes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if func.name().partition(".")[0] in ("aten::mm", "aten::bmm", "aten::baddbmm"):
            self.dtypes.append(made.dtype)
        return made


@pytest.mark.parametrize("n", [39, 600])
def test_alike_neurons_are_told_apart_in_float32(n):
    # All similarities are within the margin of bfloat16 products, so that no pair is ruled out.
    plan = BY_TILES._replace(dtype=torch.bfloat16, crowded=8)
    alike = torch.nn.functional.normalize(1 + 0.02 * randn(n, 16), dim=1)
    expected = tree(alike, "dot_descending", reference_backend)
    with Products() as multiplied:
        assert torch.equal(tree(alike, "dot_descending", plan=plan), expected)
    assert multiplied.dtypes[0] == torch.bfloat16
    assert multiplied.dtypes[-1] == torch.float32
    # In a batch the others are not affected.
    batch = torch.stack((alike, torch.nn.functional.normalize(randn(n, 16), dim=1)))
    together = numba_backend.from_features(batch, "dot_descending", plan=plan)
    alone = [numba_backend.from_features(v[None], "dot_descending", plan=plan)[0] for v in batch]
    assert torch.equal(together, torch.stack(alone))


@pytest.fixture
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@precisions
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("threads", "kind"), [(2, "real"), (3, "integers"), (7, "dead")], indirect=["threads"]
)
@pytest.mark.usefixtures("threads")
def test_threads_that_share_a_search_find_the_same_tree(precision, order, kind):
    v, expected = features(kind, 1100), tree_of_float64_keys(kind, 1100, order)
    plan = BY_TILES._replace(dtype=precision)
    assert torch.equal(tree(v, order, plan=plan), expected)
    assert torch.equal(tree(v, order, plan=plan._replace(many=0, capacity=1 << 14)), expected)
    batch = v.reshape(10, 110, -1)
    together = numba_backend.from_features(batch, order)
    alone = [numba_backend.from_features(element[None], order)[0] for element in batch]
    assert torch.equal(together, torch.stack(alone))


@pytest.mark.parametrize("order", ORDERS)
def test_a_batch_is_solved_in_parallel_as_one_by_one(order):
    v = torch.stack([features("dead" if s % 2 else "real", 70, seed=s)[:, :3] for s in range(7)])
    together = numba_backend.from_features(v, order)
    alone = [numba_backend.from_features(element[None], order)[0] for element in v]
    assert torch.equal(together, torch.stack(alone))


def test_memory_does_not_grow_with_all_pairs():
    # All pairs are 1.5 GiB in float32.
    extra = memory.extra_bytes("t1", samples=16, warm_up=3_000, neurons=20_000)
    assert extra < 200 * 2**20


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_does_not_reach_the_products(order, dtype):
    mst, v = topoloss.persistence("mst"), randn(40, 5)
    expected = mst.from_features(v, order)[0].death_edges
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(mst.from_features(v, order)[0].death_edges, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("n", [5, 64])
def test_half_precision_is_widened(dtype, n):
    mst, v = topoloss.persistence("mst"), randn(n, 5).to(dtype)
    matrix = v @ v.T
    matrix = torch.maximum(matrix, matrix.T)
    for found, expected in (
        (mst.from_matrix(matrix), mst.from_matrix(matrix.float())),
        (
            mst.from_features(v, "abs_dot_descending"),
            mst.from_features(v.float(), "abs_dot_descending"),
        ),
    ):
        assert torch.equal(found[0].death_edges, expected[0].death_edges)


@pytest.mark.parametrize("order", ORDERS)
def test_tiny_features_beside_huge_ones_keep_their_order(order):
    v = torch.zeros(30, 4)
    v[1:, 1:] = torch.randint(1, 50, (29, 3), generator=generator(0)) * 2.0**-100
    v[0, 0] = 2.0**100
    found = tree(v, order)
    # The huge vertex is a leaf, and the keys of the others are those of the integers.
    rest = tree(v[1:] * 2.0**100, order, reference_backend) + 1
    assert torch.equal(found[(found > 0).all(1)], rest)


def test_layout_does_not_matter_among_ties_within_rounding():
    eps, d = torch.finfo(torch.float64).eps, 33
    factors = 1 + eps * torch.randint(-3, 4, (60, d), generator=generator(0)).double()
    v = randn(1, d, dtype=torch.float64).expand(60, d) * factors
    mst = topoloss.persistence("mst")
    for order in ORDERS:
        found = mst.from_features(v.T.contiguous().T, order)[0].death_edges
        assert torch.equal(found, mst.from_features(v, order)[0].death_edges)


def test_vertices_without_features_are_an_error():
    with pytest.raises(topoloss.InputError, match=r"\(4, 0\) have no features"):
        topoloss.persistence("mst").from_features(torch.zeros(4, 0), "abs_dot_descending")


BY_BACKEND = """
import torch, topoloss
from topoloss_mst.backends import numba_backend
from topoloss_mst.backends.numba_backend.similarities import Similarities
from topoloss_mst.backends.numba_backend.trees import Plan

def tree():
    plan = Plan(dtype=torch.float32)
    return numba_backend.from_features(v[None], "dot_descending", plan=plan)

v = torch.nn.functional.normalize(1 + 0.1 * torch.randn(300, 16), dim=1)
expected = tree()
torch.backends.mkldnn.matmul.fp32_precision = "bf16"
assert Similarities(v[None], 1, torch.float32).errors[0, 0] > 2 * 2**-8
assert torch.equal(tree(), expected)
"""


@pytest.mark.skipif(
    not hasattr(torch.backends.mkldnn, "matmul"), reason="this torch has no such setting"
)
def test_precision_set_for_one_backend_changes_no_tree():
    # In a process of its own, as the setting cannot be taken back.
    subprocess.run([sys.executable, "-c", BY_BACKEND], check=True)
