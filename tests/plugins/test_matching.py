"""The losses `wasserstein` and `bottleneck`: by hand, by trying all matchings, and by persim."""

import itertools
import sys

import numpy as np
import persim
import pytest
import torch
from topoloss_plugins.matching import assignment, bottleneck_cost

import topoloss
from topoloss.testing import check

GROUNDS = ["chebyshev", "euclidean"]
TARGET = [(0.1, 0.9), (0.3, 0.5), (0.35, 1.4)]


def diagram(points, dimension=0, weights=None):
    rows = torch.as_tensor(points, dtype=torch.float64).reshape(-1, 2)
    births, deaths = rows.unbind(1)
    edges = torch.zeros(len(rows), 2, dtype=torch.int64)
    weights = torch.ones_like(deaths) if weights is None else torch.tensor(weights).double()
    return topoloss.Diagram(dimension, births, deaths, edges, edges, weights, deaths.new_zeros(0))


def drawn(n, seed):
    generator = np.random.default_rng(seed)
    births = generator.random(n)
    return np.stack((births, births + generator.random(n)), 1)


def costs_of_all_matchings(points, target, ground):
    """The costs of each matching; what has no partner is matched to the diagonal."""
    size = {"chebyshev": np.inf, "euclidean": 2}[ground]

    def to_diagonal(p):
        return np.linalg.norm([(p[1] - p[0]) / 2] * 2, size)

    for k in range(min(len(points), len(target)) + 1):
        for ours in itertools.combinations(range(len(points)), k):
            for theirs in itertools.permutations(range(len(target)), k):
                pairs = [
                    np.linalg.norm(np.subtract(points[i], target[j]), size)
                    for i, j in zip(ours, theirs, strict=True)
                ]
                left = [points[i] for i in range(len(points)) if i not in ours]
                left += [target[j] for j in range(len(target)) if j not in theirs]
                yield np.array(pairs + [to_diagonal(p) for p in left])


@pytest.mark.parametrize("ground", GROUNDS)
@pytest.mark.parametrize("power", [1, 2, 3.5])
@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 3), (3, 0), (1, 1), (4, 2), (2, 4), (4, 4)])
def test_wasserstein_is_the_best_of_all_matchings(n, m, power, ground):
    points, target = drawn(n, 1), drawn(m, 2)
    loss = topoloss.loss("wasserstein", target=target, power=power, ground=ground)
    expected = min(
        (costs**power).sum() ** (1 / power)
        for costs in costs_of_all_matchings(points, target, ground)
    )
    assert loss([diagram(points)]).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 3), (3, 0), (1, 1), (4, 2), (2, 4), (4, 4)])
def test_bottleneck_is_the_best_of_all_matchings(n, m, seed):
    points, target = drawn(n, seed), drawn(m, seed + 10)
    expected = min(
        costs.max(initial=0) for costs in costs_of_all_matchings(points, target, "chebyshev")
    )
    received = topoloss.loss("bottleneck", target=target)([diagram(points)])
    assert received.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_distances_are_those_of_persim(seed):
    points, target = drawn(60, seed), drawn(40, seed + 10)
    ours = topoloss.loss("wasserstein", target=target, ground="euclidean")([diagram(points)])
    assert ours.item() == pytest.approx(persim.wasserstein(points, target), rel=1e-12)
    ours = topoloss.loss("bottleneck", target=target)([diagram(points)])
    assert ours.item() == pytest.approx(persim.bottleneck(points, target), rel=1e-12)


def test_by_hand():
    """Points (0, 1) and (0, 4); target (0, 3) and (2, 6). Distances by the larger difference.

    To the diagonal: 1/2 and 2 for the points, 3/2 and 2 for the target. (0, 4) is 1 from (0, 3)
    and 2 from (2, 6), (0, 1) is 2 from (0, 3) and 5 from (2, 6). The best is (0, 4) with (0, 3),
    and the diagonal for the others: 1 + 1/2 + 2 = 3.5, and the largest of these is 2.
    With power 2: (0, 4) with (0, 3) costs 1 + 1/4 + 4 = 5.25, the root of which is the distance.
    """
    points, target = [(0.0, 1.0), (0.0, 4.0)], [(0.0, 3.0), (2.0, 6.0)]
    value = topoloss.loss("wasserstein", target=target)([diagram(points)])
    assert value.item() == 3.5
    squared = topoloss.loss("wasserstein", target=target, power=2)([diagram(points)])
    assert squared.item() == pytest.approx(5.25**0.5)
    assert topoloss.loss("bottleneck", target=target)([diagram(points)]).item() == 2


def test_the_gradient_moves_the_matched_points():
    """The point (1, 5) is matched to (2, 9): the larger difference, 4, is that of the deaths."""
    births, deaths = torch.tensor([1.0, 0.0]).double(), torch.tensor([5.0, 0.5]).double()
    rows = torch.stack((births, deaths), 1).requires_grad_()
    topoloss.loss("wasserstein", target=[(2.0, 9.0)])([diagram(rows)]).backward()
    assert rows.grad.tolist() == [[0, -1], [-0.5, 0.5]]


@pytest.mark.parametrize("name", ["bottleneck", "wasserstein", "wasserstein[power=2]"])
def test_at_distance_0_the_gradient_is_0(name):
    rows = torch.tensor(TARGET, dtype=torch.float64, requires_grad=True)
    value = topoloss.loss(name, target=TARGET)([diagram(rows)])
    assert value.item() == 0
    value.backward()
    assert rows.grad.tolist() == [[0, 0]] * 3


@pytest.mark.parametrize("name", ["wasserstein", "bottleneck"])
def test_a_point_of_weight_0_is_matched_to_nothing(name):
    points = [*TARGET, (0.0, 7.0)]
    loss = topoloss.loss(name, target=TARGET)
    assert loss([diagram(points, weights=[1, 1, 1, 0])]).item() == 0
    # Were the last point of the target matched to the point that does not count, it would be 0.
    value = loss([diagram(TARGET, weights=[1, 1, 0])]).item()
    expected = loss([diagram(TARGET[:2])]).item()
    assert value == expected > 0


@pytest.mark.parametrize("name", ["wasserstein", "bottleneck"])
def test_the_order_of_points_makes_no_difference(name):
    loss = topoloss.loss(name, target=TARGET)
    points = drawn(6, 0)
    value = loss([diagram(points)])
    for order in ([5, 4, 3, 2, 1, 0], [2, 0, 4, 1, 5, 3]):
        torch.testing.assert_close(loss([diagram(points[order])]), value)


@pytest.mark.parametrize("name", ["wasserstein", "bottleneck"])
def test_the_dimension_is_chosen(name):
    loss = topoloss.loss(name, dimension=1)
    assert loss([diagram([(0, 1)]), diagram([(1, 3)], 1)]).item() == 1
    with pytest.raises(topoloss.InputError, match=r"dimension=1.* 0 to 0.*'ripser', dim=1"):
        loss([diagram([(0, 1)])])


@pytest.mark.parametrize(
    ("name", "options", "target"),
    [
        ("wasserstein", {}, [(0.25, 0.75), (0.25, 0.75)]),
        ("wasserstein", {"power": 2.0, "ground": "euclidean", "dimension": 1}, TARGET),
        ("bottleneck", {"dimension": 1}, TARGET),
        ("bottleneck", {"dimension": 1}, [(0.25, 0.75), (0.25, 0.75)]),
    ],
)
def test_targets_conform(name, options, target):
    check("loss", topoloss.loss(name, target=target, **options))


@pytest.mark.parametrize(
    "target",
    [
        *([(1.0, 0.5)], [(0.0, torch.inf)], [0.0, 1.0], [(0, 1, 2)], "ab", [[], [1]], {"a": 1}),
        *([[], []], torch.zeros(0, 3)),
    ],
)
@pytest.mark.parametrize("name", ["wasserstein", "bottleneck"])
def test_a_target_that_is_no_diagram_is_refused(name, target):
    with pytest.raises(topoloss.OptionError, match=r"target.*expected finite \(birth, death\)"):
        topoloss.loss(name, target=target)


@pytest.mark.parametrize("name", ["wasserstein", "bottleneck"])
def test_without_scipy_the_extra_is_named_where_a_matching_is_asked_for(name, monkeypatch):
    for module in [m for m in sys.modules if m.partition(".")[0] == "scipy"] + ["scipy"]:
        monkeypatch.setitem(sys.modules, module, None)
    assert topoloss.loss(name)([diagram([(0, 2)])]).item() == 1
    with pytest.raises(topoloss.MissingExtraError, match=r"topoloss-framework\[matching\]"):
        topoloss.loss(name, target=TARGET)


@pytest.mark.parametrize("name", ["wasserstein", "bottleneck"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_target_may_be_a_tensor_and_gets_no_gradient(name, dtype):
    """Deaths 1 and 4, target 3: the pair 4 and 3 costs 1, and death 1 a half to the diagonal."""
    target = torch.tensor([[0.0, 3.0]], dtype=dtype, requires_grad=True)
    near = topoloss.pipeline("euclidean", "mst", topoloss.loss(name, target=target))
    x = torch.tensor([[0.0, 1.0, 5.0]], requires_grad=True)
    value = near(x)
    assert value.item() == {"wasserstein": 1.5, "bottleneck": 1.0}[name]
    value.backward()
    assert target.grad is None


@pytest.mark.parametrize("name", ["wasserstein", "bottleneck"])
@pytest.mark.parametrize("target", [[], torch.zeros(0, 2), "[]"], ids=repr)
def test_a_target_may_be_empty(name, target):
    assert topoloss.loss(name, target=target).target.shape == (0, 2)


@pytest.mark.parametrize("name", ["wasserstein", "bottleneck"])
def test_a_target_may_be_given_by_name(name):
    target = [(0.0, 3.0), (0.5, 1.5)]
    by_name = topoloss.loss(f"{name}[target=[(0, 3), (0.5, 1.5)]]")
    assert by_name.target.tolist() == [list(point) for point in target]
    assert "target of 2 points" in repr(by_name)
    with pytest.raises(topoloss.OptionError, match=r"by name as in 'wasserstein\[target=\[\("):
        topoloss.loss(f"{name}[target=near]")


# The operators in PyTorch


@pytest.mark.parametrize("batch", [(), (2,)])
def test_the_operators_pass_opcheck(batch):
    torch.library.opcheck(assignment, (torch.rand(*batch, 3, 4) - 0.5,))
    # Three points and four of the target: 12 pairs, and 3 and 4 lives.
    torch.library.opcheck(bottleneck_cost, (torch.rand(*batch, 19), 3))


@pytest.mark.parametrize("in_dim", [0, 1, -1])
def test_the_operators_map_over_any_axis(in_dim):
    pairs, costs = torch.rand(5, 3, 4) - 0.5, torch.rand(5, 19)
    mapped = torch.vmap(assignment, in_dims=in_dim)(pairs.movedim(0, in_dim))
    assert torch.equal(mapped, torch.stack([assignment(each) for each in pairs]))
    mapped = torch.vmap(lambda x: bottleneck_cost(x, 3), in_dims=in_dim)(costs.movedim(0, in_dim))
    assert torch.equal(mapped, torch.stack([bottleneck_cost(each, 3) for each in costs]))
