"""The engine `ripser`: its values are ripser.py's own, and every value is that of an edge."""

import itertools
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from oracles import distances, h0_deaths

import topoloss
from topoloss.testing import boundary_reduction, check

DTYPES = [torch.float32, torch.float64]


def points(n, seed, features=2):
    return torch.randn(n, features, generator=torch.Generator().manual_seed(seed)).double()


def by_ripser(matrix, **options):
    from ripser import ripser

    return ripser(np.asarray(matrix), distance_matrix=True, **options)["dgms"]


def rows(array):
    """Rows as a multiset: sorted."""
    return array[np.lexsort(array.T)]


class Given(topoloss.Filtration):
    """The activations are the matrix of edge values itself."""

    def vertices(self, x):
        return x

    def edge_values(self, v, i, j):
        return v[i, j]


def diagrams(matrix, **options):
    engine = topoloss.persistence("ripser", **options)
    return topoloss.pipeline(Given(), engine, "total-persistence").diagrams(matrix)


def matrices():
    yield "points in general position", torch.cdist(points(40, 1), points(40, 1))
    grid = torch.tensor(list(itertools.product(range(6), range(5)))).double()
    copies = torch.cat((grid, grid))
    yield "60 points of a grid, each twice", torch.cdist(copies, copies, p=1)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(3, (60, 60), generator=generator).double()
    yield (
        "60 points at distances 1, 2 and 3",
        (drawn.triu(1) + drawn.triu(1).T + 1).fill_diagonal_(0),
    )
    yield "60 equal points", torch.zeros(60, 60).double()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "matrix"), list(matrices()), ids=lambda given: given[:9])
def test_values_are_those_of_ripser_also_where_they_tie(name, matrix, dtype):
    found = diagrams(matrix.to(dtype), dim=1)
    for diagram, expected in zip(found, by_ripser(matrix, maxdim=1), strict=True):
        # ripser.py leaves out the points of lifetime 0.
        lives = diagram.to_numpy()[(diagram.lifetimes > 0).numpy()]
        expected = expected[np.isfinite(expected[:, 1])]
        np.testing.assert_array_equal(rows(lives.astype(np.float32)), rows(expected.astype("f4")))


def test_cavities_are_those_of_ripser():
    sphere = torch.nn.functional.normalize(points(40, 0, features=3), dim=1)
    matrix = torch.cdist(sphere, sphere)
    found, expected = diagrams(matrix, dim=2)[2], by_ripser(matrix, maxdim=2)[2]
    assert found.lifetimes.max() > 0.3
    np.testing.assert_array_equal(rows(found.to_numpy().astype("f4")), rows(expected.astype("f4")))


@pytest.mark.parametrize("seed", range(3))
def test_dimension_0_is_the_tree_of_mst_edge_for_edge(seed):
    tied = torch.randint(4, (30, 3), generator=torch.Generator().manual_seed(seed)).double()
    matrix = torch.cdist(tied, tied, p=1)
    ours = topoloss.persistence("ripser", dim=0).from_matrix(matrix)
    (tree,) = topoloss.persistence("mst").from_matrix(matrix)
    assert len(ours) == 1
    assert set(map(tuple, ours[0].death_edges.tolist())) == set(
        map(tuple, tree.death_edges.tolist())
    )


@pytest.mark.parametrize("high", [3, 8, 101])
@pytest.mark.parametrize("scale", [1, 2.0**-140, 2.0**120])
def test_equal_distances_of_integers_tie(high, scale):
    """Squared distances of small integers are exact, so both engines see the same ties."""
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randint(high, (3, 12), generator=generator).float() * scale
        trees = [
            topoloss.pipeline("euclidean", engine).diagrams(x)[0].death_edges
            for engine in ("mst", "ripser[dim=0]")
        ]
        assert torch.equal(*(torch.sort(tree, 1)[0] for tree in trees))


@pytest.mark.parametrize(("threshold", "components"), [(1e300, 1), (-1e300, 8), (0.1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_threshold_is_rounded_to_the_dtype_of_the_values(threshold, components, dtype):
    """0.1 in float32 is above 0.1, and 1e300 is infinite."""
    matrix = torch.full((8, 8), 0.1 if dtype == torch.float32 else 0.0625, dtype=dtype)
    found = diagrams(matrix, threshold=threshold)[0]
    assert len(found.essential_births) == components


@pytest.mark.parametrize("scale", [1, 2.0**-140, 2.0**120])
def test_neighbours_at_the_threshold_are_joined(scale):
    x = scale * torch.arange(8.0)[None]
    engine = topoloss.persistence("ripser", threshold=scale)
    (components, loops) = topoloss.pipeline("euclidean", engine).diagrams(x)
    assert components.deaths.tolist() == 7 * [scale]
    assert components.essential_births.tolist() == [0]
    assert not len(loops.deaths)


def test_the_deaths_of_a_pipeline_are_those_of_single_linkage():
    x = points(12, 3, features=30)
    deaths = topoloss.pipeline("euclidean", "ripser", "t1").diagrams(x)[0].deaths
    np.testing.assert_allclose(deaths.numpy(), h0_deaths(distances(x)), rtol=1e-12)


def test_a_square_by_hand():
    """The corners of a unit square: 4 sides of 1, which tie, and 2 diagonals of sqrt(2).

    Sides in order: (0, 1), (0, 3), (1, 2), (2, 3). Three join the corners. (2, 3) closes the
    loop. The first diagonal, (0, 2), has two triangles that fill it.
    """
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    joined, loops = topoloss.persistence("ripser").from_matrix(torch.cdist(corners, corners))
    assert joined.death_edges.tolist() == [[0, 1], [0, 3], [1, 2]]
    assert loops.birth_edges.tolist() == [[2, 3]]
    assert loops.death_edges.tolist() == [[0, 2]]
    assert loops.essential_births.tolist() == []


def test_an_octahedron_by_hand():
    """The corners are 1 from the centre: 12 edges of sqrt(2), and 3 diagonals of 2.

    With the 12th edge all 8 faces are there and enclose a cavity. A diagonal makes tetrahedra
    that fill it. Five edges join the corners; the other 7 each close and fill a loop at once.
    """
    corners = torch.cat((torch.eye(3), -torch.eye(3))).double()
    found = diagrams(torch.cdist(corners, corners), dim=2)
    np.testing.assert_allclose(found[2].to_numpy(), [[2**0.5, 2]])
    assert found[1].lifetimes.abs().sum() < 1e-12
    assert len(found[0].deaths) == 5


def test_values_that_tie_may_make_a_point_of_lifetime_0():
    """The sides of a square as long as its diagonals: 6 edges of 1.

    In order: (0, 1), (0, 2), (0, 3) join; (1, 2), (1, 3) and (2, 3) each fill the triangle that
    they close. So there is no point. In the order of another square, below, there is one.
    """
    _, none = topoloss.persistence("ripser").from_matrix(torch.ones(4, 4))
    assert len(none.death_edges) == 0
    values = torch.full((4, 4), 1.0)
    values[0, 2] = values[2, 0] = 1.0 + 2**-23
    values[1, 3] = values[3, 1] = 1.0 + 2**-23
    _, loop = topoloss.persistence("ripser").from_matrix(values)
    assert loop.birth_edges.tolist() == [[2, 3]]
    assert loop.death_edges.tolist() == [[0, 2]]


def test_classes_alive_at_the_threshold_are_essential():
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    matrix = torch.cdist(corners, corners)
    joined, loops = diagrams(matrix, threshold=1.0)  # the sides are in, the diagonals are not
    assert joined.deaths.tolist() == [1, 1, 1]
    assert joined.essential_births.tolist() == [0]
    assert loops.deaths.tolist() == []
    assert loops.essential_births.tolist() == [1]
    apart, none = diagrams(matrix, threshold=0.5)
    assert apart.to_numpy(essential=True).tolist() == [[0, np.inf]] * 4
    assert len(none.to_numpy(essential=True)) == 0


@pytest.mark.parametrize("threshold", [0.3, 0.6, 1.2])
def test_a_threshold_leaves_what_ripser_finds_below_it(threshold):
    matrix = torch.cdist(points(30, 5), points(30, 5))
    found = diagrams(matrix, threshold=threshold)
    for diagram, expected in zip(found, by_ripser(matrix, maxdim=1, thresh=threshold), strict=True):
        received = diagram.to_numpy(essential=True).astype("f4")
        np.testing.assert_array_equal(rows(received), rows(expected.astype("f4")))


def test_a_loop_of_listed_edges_is_essential():
    edges = torch.tensor([[1, 0], [2, 1], [3, 2], [0, 3], [3, 3]])
    values = torch.tensor([1.0, 4.0, 3.0, 2.0, 0.0])
    joined, loops = topoloss.persistence("ripser").from_edges(5, edges, values)
    assert joined.death_edges.tolist() == [[1, 0], [0, 3], [3, 2]]
    assert loops.death_edges.tolist() == []
    assert loops.essential_births.tolist() == [[2, 1]]


def projective_plane():
    """The edges of its triangulation with 6 vertices, subdivided so that each clique is a face."""
    triangles = "124 235 341 452 513 126 236 346 456 516".split()
    faces = {frozenset(part) for t in triangles for k in (1, 2, 3) for part in combine(t, k)}
    numbered = sorted(faces, key=sorted)
    return len(numbered), torch.tensor(
        [
            [i, j]
            for (i, a), (j, b) in itertools.combinations(enumerate(numbered), 2)
            if a < b or b < a
        ]
    )


def combine(text, k):
    return itertools.combinations(text, k)


@pytest.mark.parametrize(("coeff", "loops", "cavities"), [(2, 1, 1), (3, 0, 0), (127, 0, 0)])
def test_coefficients_tell_the_projective_plane(coeff, loops, cavities):
    """Its homology over Z/2 is (1, 1, 1), and (1, 0, 0) over every other prime field."""
    n, edges = projective_plane()
    assert n - len(edges) + 60 == 1  # 6 + 15 + 10 faces; its Euler characteristic is 1
    engine = topoloss.persistence("ripser", dim=2, coeff=coeff)
    found = engine.from_edges(n, edges, torch.zeros(len(edges)))
    assert n - len(found[0].death_edges) == 1
    assert [len(c.essential_births) for c in found[1:]] == [loops, cavities]


@pytest.mark.parametrize("filtration", ["euclidean", "correlation"])
def test_births_and_deaths_of_loops_have_their_gradients(filtration):
    x = points(4, 0, features=16).requires_grad_()
    regulariser = topoloss.pipeline(filtration, "ripser", "total-persistence")

    def loops(x):
        diagram = regulariser.diagrams(x)[1]
        return diagram.births, diagram.deaths

    assert len(loops(x)[0]) > 1
    assert torch.autograd.gradcheck(loops, x)
    assert torch.autograd.gradgradcheck(regulariser, x)


def test_descent_fills_a_loop_and_ascent_opens_it():
    angle = torch.arange(12) * 2 * torch.pi / 12
    noise = 0.2 * points(12, 2).T
    start = torch.stack((angle.cos(), angle.sin())).double() + noise
    regulariser = topoloss.pipeline("euclidean", "ripser", "total-persistence")

    def longest_after(sign, steps):
        x = start.clone().requires_grad_()
        for _ in range(steps):
            lifetimes = regulariser.diagrams(x)[1].lifetimes
            if not len(lifetimes):
                return 0.0
            (gradient,) = torch.autograd.grad(sign * lifetimes.sum(), x)
            x = (x - 0.05 * gradient).detach().requires_grad_()
        return regulariser.diagrams(x)[1].lifetimes.sum().item()

    assert longest_after(1, 40) == 0
    assert longest_after(-1, 40) > 1.5 * longest_after(1, 0)


def test_half_precision_and_batches_work():
    x = points(8, 0, features=10)
    regulariser = topoloss.pipeline("euclidean", "ripser", "total-persistence")
    assert regulariser(x.bfloat16()).dtype == torch.float32
    both = regulariser(torch.stack((x, 2 * x)))
    torch.testing.assert_close(both, torch.stack((regulariser(x), regulariser(2 * x))))


@pytest.mark.parametrize(
    "regulariser",
    [
        topoloss.pipeline("euclidean", "ripser", topoloss.loss("total-persistence", dimension=1)),
        topoloss.pipeline("euclidean", "ripser", "persistent-entropy"),
        topoloss.regulariser("euclidean/ripser/wasserstein[dimension=1,power=2]"),
        topoloss.regulariser("euclidean/ripser/bottleneck[dimension=1]"),
    ],
    ids=["total persistence", "entropy", "wasserstein", "bottleneck"],
)
def test_vmap_and_grad_work_though_numbers_of_loops_differ(regulariser):
    problems = torch.stack([points(10, seed).T for seed in range(4)])
    assert len({len(regulariser.diagrams(x)[1].deaths) for x in problems}) > 1
    one_by_one = torch.stack([regulariser(x) for x in problems])
    torch.testing.assert_close(torch.vmap(regulariser)(problems), one_by_one)
    x = problems.clone().requires_grad_()
    (expected,) = torch.autograd.grad(regulariser(x).sum(), x)
    found = torch.vmap(torch.func.grad(regulariser))(problems)
    torch.testing.assert_close(found, expected)


def test_signature_with_loops_works_under_vmap():
    reg = topoloss.regulariser("signature", persistence="ripser")
    pairs = torch.stack([points(10, seed, features=4) for seed in range(4)])

    def valued(x):
        return reg.of_layers({"a": x[:, :2], "b": x[:, 2:]})

    torch.testing.assert_close(torch.vmap(valued)(pairs), torch.stack([valued(x) for x in pairs]))


def test_vmap_refuses_a_batch_whose_essential_classes_differ_in_number():
    engine = topoloss.persistence("ripser", threshold=2.0)
    regulariser = topoloss.pipeline("euclidean", engine, "total-persistence")
    line = torch.tensor([[[0.0, 1.0, 2.0]], [[0.0, 1.0, 9.0]]])
    with pytest.raises(topoloss.InputError, match=r"differing numbers of components .* as a list"):
        torch.vmap(regulariser)(line)
    assert regulariser(line).tolist() == [2.0, 1.0]


def test_ranks_of_more_edges_than_float32_counts_are_refused():
    n = topoloss.persistence("ripser").max_vertices
    assert n * (n - 1) // 2 <= 2**24 < (n + 1) * n // 2
    with pytest.raises(topoloss.TooLargeError, match=r"5794 vertices .* at most 5793"):
        topoloss.persistence("ripser").check_matrix(5794, torch.float32)


def test_a_graph_whose_simplices_ripser_cannot_number_is_refused():
    """More than 2**55 - 1 of them end the process: at most 1,000,000 choose 3 is about 2**57."""
    engine = topoloss.persistence("ripser")
    edges, values = torch.tensor([[0, 999_999]]), torch.ones(1)
    with pytest.raises(topoloss.TooLargeError, match=r"1 edges on 1000000 vertices .* sets of 3"):
        engine.from_edges(1_000_000, edges, values)
    found = topoloss.persistence("ripser", dim=0).from_edges(1_000_000, edges, values)
    assert found[0].death_edges.tolist() == [[0, 999_999]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coeff": 4}, "coeff=4 .* expected a prime"),
        ({"coeff": 131}, "2 <= coeff <= 127"),  # ripser.py never returns
        ({"dim": 3}, "0 <= dim <= 2"),
        ({"threshold": "1"}, "expected a finite number, or None"),
    ],
)
def test_what_ripser_cannot_do_is_refused(options, message):
    with pytest.raises(topoloss.OptionError, match=message):
        topoloss.persistence("ripser", **options)


def test_without_ripser_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ripser", None)
    with pytest.raises(topoloss.MissingExtraError, match=r"topoloss-framework\[ripser\]"):
        topoloss.persistence("ripser")


@pytest.mark.parametrize("seed", range(3))
def test_under_ties_cavities_are_those_of_boundary_reduction_edge_for_edge(seed):
    tied = torch.randint(3, (12, 4), generator=torch.Generator().manual_seed(seed)).double()
    matrix = torch.cdist(tied, tied, p=1)
    found = topoloss.persistence("ripser", dim=2).from_matrix(matrix)
    for ours, theirs in zip(found, boundary_reduction.of_matrix(matrix, 3), strict=True):
        assert points_of(ours) == points_of(theirs)


def points_of(critical):
    births = (
        [None] * len(critical.death_edges)
        if critical.birth_edges is None
        else (critical.birth_edges.tolist())
    )
    return Counter(map(str, zip(births, critical.death_edges.tolist(), strict=True)))


def test_dimension_0_alone_conforms():
    check("persistence", topoloss.persistence("ripser", dim=0))
