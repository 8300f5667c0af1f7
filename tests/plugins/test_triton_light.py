"""The triton backend's search of many vertices: light pairs instead of all pairs."""

import numpy as np
import pytest
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from topoloss_mst.backends.triton_backend.hierarchy import hierarchy_of
from topoloss_mst.backends.triton_backend.rows import rows_of
from topoloss_mst.backends.triton_backend.twins import lowest_twins
from triton_trees import DEVICE, ORDERS, SMALL, expected, generator, integers, poison, randn, trees

orders = pytest.mark.parametrize("order", ORDERS)


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch):
    poison(monkeypatch)


def some(rows, n, seed=0):
    return rows[torch.randint(len(rows), (n,), generator=generator(seed))]


def hostile_integers():
    """Ties, copies, mirrored copies, zeros, sparse rows, and one vertex 1,000 times longer."""
    v = torch.cat(
        (
            integers(12, 5, high=2),
            some(integers(3, 5, high=4, seed=1), 14),
            -some(integers(3, 5, high=4, seed=1), 5, seed=1),
            torch.zeros(5, 5),
            some(torch.eye(5), 8),
            1000 * integers(1, 5, high=3, seed=2),
        )
    )
    return v[torch.randperm(len(v), generator=generator(3))]


def hostile_numbers():
    """Clusters, lognormal and Cauchy lengths, and vertices half of whose features are dead."""
    clusters = some(randn(3, 8), 16) + 1e-3 * randn(16, 8, seed=1)
    lognormal = randn(12, 8, seed=2) * torch.exp(2 * randn(12, 1, seed=3))
    cauchy = randn(9, 8, seed=4) / randn(9, 8, seed=5)
    dead = randn(8, 8, seed=6).relu()
    return torch.cat((clusters, lognormal, cauchy, dead))


HOSTILE = {"integers": hostile_integers, "numbers": hostile_numbers}


@orders
@pytest.mark.parametrize("kind", HOSTILE)
def test_trees_equal_those_of_the_reference_edge_for_edge(kind, order):
    v = HOSTILE[kind]()
    assert torch.equal(trees(v, order, SMALL), expected(v, order))


def test_edges_between_far_clusters_are_far_longer_than_those_within():
    # What a pair needs on the level of its clusters is little, and much on all levels below.
    v = (10 * randn(10, 3, seed=1)).repeat_interleave(15, 0) + randn(150, 3, seed=2)
    assert torch.equal(trees(v, ORDERS[2], SMALL), expected(v, ORDERS[2]))


# No pair fits, or no tile does, or all tiles are heavy without a list that overflows.
@pytest.mark.parametrize("space", [{"listed": 0}, {"most": -1, "heavy": 0}, {"most": -1}], ids=str)
def test_lists_that_overflow_change_no_tree(space):
    v = hostile_integers()
    plan = SMALL._replace(**space)
    assert torch.equal(trees(v, ORDERS[0], plan), expected(v, ORDERS[0]))


def test_only_vertex_0_connects_what_nothing_else_does():
    # One-hot vertices and zeros: edges between different ones are all of key 0.
    v = torch.cat((some(torch.eye(4), 20), torch.zeros(4, 4)))[torch.arange(23, -1, -1)]
    assert torch.equal(trees(v, ORDERS[0], SMALL), expected(v, ORDERS[0]))
    star = torch.stack((torch.zeros(23), torch.arange(1, 24)), 1).long()
    for order in ORDERS:
        assert torch.equal(trees(torch.zeros(24, 3), order, SMALL), star)


def test_the_lowest_of_identical_vertices_stands_for_all():
    v = some(torch.cat((integers(9, 70), torch.zeros(1, 70))), 60)
    v[::2] = torch.where(v[::2] == 0, -0.0, v[::2])
    v[5, 3] = torch.nan
    v[7] = v[5]
    batch = torch.stack((v, integers(60, 70))).to(DEVICE)
    same = (batch[:, :, None] == batch[:, None]).all(-1)
    same |= torch.eye(60, dtype=torch.bool, device=DEVICE)
    lowest = torch.where(same, torch.arange(60, device=DEVICE), 60).amin(2)
    assert torch.equal(lowest_twins(batch), lowest)


def test_a_sample_that_is_large_itself_is_searched_likewise():
    v = integers(90, 3, high=3)
    plan = SMALL._replace(kept_pairs=100, most=512)
    assert torch.equal(trees(v, ORDERS[1], plan), expected(v, ORDERS[1]))


@orders
def test_many_features_are_multiplied_in_chunks(order):
    v = randn(22, 300)
    plan = SMALL._replace(most=512)
    assert torch.equal(trees(v, order, plan), expected(v, order))


@pytest.mark.parametrize("together", [1, 100])
def test_a_batch_is_searched_one_by_one_or_side_by_side(together):
    v = torch.stack((integers(23, 4), torch.zeros(23, 4), randn(23, 4)))
    plan = SMALL._replace(together=together)
    assert torch.equal(trees(v, ORDERS[0], plan), expected(v, ORDERS[0]))


def test_each_element_of_a_batch_has_light_pairs_of_its_own():
    v = torch.stack([(10 * randn(8, 3, seed=k)).repeat_interleave(9, 0) for k in range(2)])
    v += randn(2, 72, 3, seed=2)
    assert torch.equal(trees(v, ORDERS[2], SMALL), expected(v, ORDERS[2]))


# From numpy, in the interpreter.
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_features_that_are_not_finite_still_give_a_spanning_tree_that_shows_it(bad):
    v = randn(30, 3)
    v[5] = bad
    edges = trees(v, ORDERS[0], SMALL)
    graph = coo_array((np.ones(29), edges.numpy().T), shape=(30, 30))
    assert connected_components(graph, directed=False)[0] == 1
    assert (edges == 5).any()


# The bounds


def similarities(v, order):
    v = v.double()
    dots = v @ v.T
    if order == "sq_dist_ascending":
        return -(v[:, None] - v).square().sum(-1) / 2
    return dots.abs() if order == "abs_dot_descending" else dots


@orders
@pytest.mark.parametrize("kind", [*HOSTILE, "tiny", "long"])
def test_no_similarity_is_further_from_that_of_float16_than_the_bound(kind, order):
    made = {
        "tiny": lambda: randn(20, 40) * torch.logspace(-44, 0, 20)[:, None],
        "long": lambda: randn(20, 40) * torch.logspace(0, 15, 20)[:, None],
    }
    v = (HOSTILE | made)[kind]()
    rows = rows_of(v[None].to(DEVICE), order)
    low, scale, reach, slack, half = (x[0].double().cpu() for x in rows)
    dots = (low * scale[:, None]) @ (low * scale[:, None]).T
    assert (low.norm(dim=1) * scale <= reach).all()
    margin = slack[:, None] * reach + reach[:, None] * slack
    size = torch.outer(v.double().norm(dim=1), v.double().norm(dim=1))
    if order == "sq_dist_ascending":
        dots = dots - half[:, None] - half
        centred = v.double() - v.double().mean(0)
        size = torch.outer(centred.norm(dim=1), centred.norm(dim=1))
        # The squares are rounded down by so much.
        margin_below = margin + 2.0**-19 * (half[:, None] + half)
    elif order == "abs_dot_descending":
        dots = dots.abs()
        live = v.any(1)
        assert (slack[~live] == -torch.inf).all()
        dots, margin, size = (x[live][:, live] for x in (dots, margin, size))
        v = v[live]
        margin_below = margin
    else:
        margin_below = margin
    truth = similarities(v, order)
    tiny = 2.0**-120
    assert (truth <= dots + margin + tiny).all()
    assert (truth >= dots - margin_below - tiny).all()
    # Twice half a unit in the last place of float16, and what multiplying costs.
    assert (margin <= size * (2.0**-10 + 80 * 2.0**-22) * (1 + 1e-3) + 1e-25).all()


def heaviest_between(n, edges, keys):
    """The heaviest key on the way between each two vertices of a tree."""
    heaviest = torch.full((n, n), -torch.inf, dtype=torch.float64)
    component = [{u} for u in range(n)]
    for e in keys.argsort().tolist():
        i, j = edges[e].tolist()
        a, b = component[i], component[j]
        grid = torch.meshgrid(torch.tensor(sorted(a)), torch.tensor(sorted(b)), indexing="ij")
        heaviest[grid] = heaviest[grid[1], grid[0]] = keys[e]
        a |= b
        for u in b:
            component[u] = a
    return heaviest


def need_of_pairs(hierarchy):
    labels, need = hierarchy.labels[0].cpu(), hierarchy.need[0].cpu().double()
    apart = labels[:, :, None] != labels[:, None, :]
    apart[0] = True
    level = apart.sum(0) - 1
    both = torch.minimum(need[:, :, None], need[:, None, :])
    return both.gather(0, level[None])[0], level


@orders
def test_rounds_tell_the_heaviest_edge_between_two_vertices(order):
    n = 90
    v = integers(n, 4, high=3)
    # A random tree, many of whose edges are equal.
    edges = torch.tensor(
        [(int(torch.randint(u, (1,), generator=generator(u))), u) for u in range(1, n)]
    )
    codes = (edges[:, 0] * n + edges[:, 1])[None].to(DEVICE)
    need, level = need_of_pairs(hierarchy_of(v[None].to(DEVICE), order, codes))
    assert level.max() < 7
    of_edges = similarities(v, order)[edges[:, 0], edges[:, 1]]
    least = -heaviest_between(n, edges, -of_edges)
    apart = ~torch.eye(n, dtype=torch.bool)
    # Integers and halves, so that a little less than them is all that is lost.
    assert (need <= least)[apart].all()
    assert (need > least - 0.25)[apart].all()


def test_more_rounds_than_are_remembered_ask_for_less_but_never_for_more():
    # Gaps 1, 2, 1, 3, 1, 2, 1, 4, ...: each round joins pairs of neighbours.
    n = 600
    gaps = [(k & -k).bit_length() for k in range(1, n)]
    v = torch.tensor([0.0, *np.cumsum(gaps)])[:, None]
    edges = torch.stack((torch.arange(n - 1), torch.arange(1, n)), 1)
    codes = (edges[:, 0] * n + edges[:, 1])[None].to(DEVICE)
    need, level = need_of_pairs(hierarchy_of(v[None].to(DEVICE), "sq_dist_ascending", codes))
    assert level.max() == 7
    least = -heaviest_between(n, edges, torch.tensor(gaps).double() ** 2) / 2
    apart = ~torch.eye(n, dtype=torch.bool)
    assert (need <= least)[apart].all()
    remembered = apart & (level < 7)
    assert (need > least - 0.25)[remembered].all()
