"""Backends pick the one tree of the order (key, lower index, higher index), whatever the ties."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from properties.strategies import BORDERS, FAR_BORDERS, LAYOUTS, small_integers
from scipy.sparse.csgraph import minimum_spanning_tree
from topoloss_mst.backends import numba_backend
from topoloss_mst.backends.numba_backend.edges import ORDERS
from topoloss_mst.backends.numba_backend.trees import Plan

import topoloss

BACKENDS = ("numba", "torch", "reference")
backends = pytest.mark.parametrize("backend", BACKENDS)
# Sums of products of such integers are exact in every dtype, in half precision after it widens.
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def by_scipy(keys):
    """The tree of the order (key, lower index, higher index), sorted."""
    i, j = np.triu_indices(len(keys), 1)
    rank = np.zeros(keys.shape)
    # No two ranks are equal, so that there is one tree; none is 0, which scipy takes for no edge.
    rank[i, j] = 1 + np.argsort(np.lexsort((j, i, keys[i, j])))
    tree = minimum_spanning_tree(rank).tocoo()
    return sorted(zip(tree.row.tolist(), tree.col.tolist(), strict=True))


def keys_of(v, order):
    v = v.double().numpy()
    if order == "sq_dist_ascending":
        return ((v[:, None] - v[None]) ** 2).sum(-1)
    dot = v @ v.T
    return -np.abs(dot) if order == "abs_dot_descending" else -dot


def edges_of(found):
    return [tuple(edge) for edge in found[0].death_edges.tolist()]


scales = st.sampled_from([-60, -10, 0, 0, 10, 60])
dtypes = st.sampled_from(DTYPES)
layouts = st.sampled_from(LAYOUTS)


@backends
@pytest.mark.parametrize("order", ORDERS)
@given(v=small_integers(high=2, max_rows=12, max_columns=4), e=scales, dtype=dtypes, layout=layouts)
def test_of_features(backend, order, v, e, dtype, layout):
    v = layout(v)
    expected = by_scipy(keys_of(v, order))
    scaled = v.to(dtype) * 2.0 ** (e if dtype.itemsize > 2 else 0)
    found = topoloss.persistence("mst", backend=backend).from_features(scaled, order)
    assert edges_of(found) == expected


# Of few vertices all keys are computed, unless a plan asks for the search that many have.
PLANS = (Plan(torch.float32), Plan(torch.bfloat16), Plan(torch.float32, dense=0))


@pytest.mark.parametrize("plan", PLANS, ids=["float32", "bfloat16", "by tiles"])
@pytest.mark.parametrize("order", ORDERS)
@given(v=small_integers(high=2, max_rows=12, max_columns=4))
def test_of_few_features_by_the_search_for_many(plan, order, v):
    v = v.float().contiguous()
    edges = numba_backend.from_features(v[None], order, plan)[0].sort(-1).values
    assert sorted(map(tuple, edges.tolist())) == by_scipy(keys_of(v, order))


@backends
@given(
    upper=st.integers(1, 12).flatmap(
        lambda n: small_integers(high=3, min_rows=n, max_rows=n, min_columns=n, max_columns=n)
    ),
    e=scales,
    dtype=dtypes,
    layout=st.sampled_from(LAYOUTS[:4]),
)
def test_of_a_matrix(backend, upper, e, dtype, layout):
    values = upper.triu(1) + upper.triu(1).T
    expected = by_scipy(values.numpy())
    scaled = layout(values.to(dtype) * 2.0 ** (e if dtype.itemsize > 2 else 0))
    assert edges_of(topoloss.persistence("mst", backend=backend).from_matrix(scaled)) == expected


def many(n, d, high, seed):
    """Integers, of which scarcely any (low `high`) or hardly two (high) have equal keys."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-high, high + 1, (n, d), generator=generator).float()


highs = st.sampled_from([1, 40])
widths, seeds = st.integers(1, 3), st.integers(0, 999)


@backends
@pytest.mark.parametrize("order", ORDERS)
@settings(max_examples=max(5, settings().max_examples // 10))
@given(n=st.sampled_from(BORDERS), d=widths, high=highs, seed=seeds)
def test_at_the_borders_of_blocks(backend, order, n, d, high, seed):
    v = many(n, d, high, seed)
    found = topoloss.persistence("mst", backend=backend).from_features(v, order)
    assert edges_of(found) == by_scipy(keys_of(v, order))


@pytest.mark.parametrize("backend", ["numba", "torch"])
@settings(max_examples=max(2, settings().max_examples // 100))
@given(
    order=st.sampled_from(tuple(ORDERS)),
    n=st.sampled_from(FAR_BORDERS),
    d=widths,
    high=highs,
    seed=seeds,
)
def test_at_the_borders_of_tiles(backend, order, n, d, high, seed):
    v = many(n, d, high, seed)
    found = topoloss.persistence("mst", backend=backend).from_features(v, order)
    assert edges_of(found) == by_scipy(keys_of(v, order))
