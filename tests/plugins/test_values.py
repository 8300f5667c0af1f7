"""Values of the shipped plugins against float64 oracles, on random and degenerate input."""

import numpy as np
import oracles
import pytest
import torch

import topoloss
from topoloss.testing.boundary_reduction import of_matrix


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def integers(*shape, high, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-high, high + 1, shape, generator=generator).double()


def hadamard(log2):
    """Columns of +-1; all but the first are centred, and all are orthogonal, exactly."""
    h = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(log2):
        h = torch.cat((torch.cat((h, h), 1), torch.cat((h, -h), 1)))
    return h


def with_columns(x, **columns):
    """Put columns into `x`, each under the name ``c<index>``."""
    x = x.clone()
    for name, column in columns.items():
        x[:, int(name[1:])] = column
    return x


GENERIC = randn(32, 12)

CASES = {
    "generic": GENERIC,
    "correlated": GENERIC @ randn(12, 12, seed=1),
    "wide": randn(5, 40),
    "63 neurons": randn(16, 63),
    "64 neurons": randn(16, 64),
    "65 neurons": randn(16, 65),
    "129 neurons": randn(16, 129),
    "1 neuron": randn(8, 1),
    "2 neurons": randn(8, 2),
    "3 neurons": randn(8, 3),
    "2 samples": randn(2, 9),
    "3 samples": randn(3, 9),
    "duplicates": torch.cat((GENERIC, GENERIC, GENERIC[:, :3]), 1),
    "all duplicates": GENERIC[:, :1].repeat(1, 7),
    "opposite": torch.cat((GENERIC, -GENERIC), 1),
    "affine copies": torch.cat((GENERIC, 3 - 2 * GENERIC, 0.5 * GENERIC + 1), 1),
    "orthogonal": hadamard(4)[:, 1:],
    "orthogonal and constant": hadamard(3),
    "one constant": with_columns(GENERIC, c4=0.1),
    "zeros": with_columns(GENERIC, c0=0.0, c11=0.0),
    "all constant": torch.tensor([0.0, 0.1, -3.0, 1e9, 1e-9]).double().repeat(16, 1),
    "dead relu": (GENERIC - torch.linspace(0, 3, 12)).relu(),
    "ties": integers(6, 30, high=1),
    "tiny": GENERIC * 1e-30,
    "huge": GENERIC * 1e30,
    "mixed scales": GENERIC * torch.logspace(-30, 30, 12, dtype=torch.float64),
    "offset": GENERIC + 1e4,
    "large offset": GENERIC + 1e6,
    "mixed offsets": GENERIC + torch.linspace(-1e4, 1e4, 12, dtype=torch.float64),
}

NAMES = ("t1", "t2", "naive")


def case(name, dtype):
    return CASES[name].to(dtype)


def tolerance(x):
    """Bound on the error of one correlation of `x`, and so of every sorted death.

    A dot product of unit vectors of d entries is off by at most d eps; a sorted death
    moves at most as far as the matrix does (stability). The entries of `x` are exact.
    """
    eps = torch.finfo(torch.promote_types(x.dtype, torch.float32)).eps
    return (x.shape[0] + 4) * eps


def deaths_of(reg, x):
    return reg.diagrams(x)[0].deaths


def assert_close(actual, expected, atol):
    np.testing.assert_allclose(actual.detach().double().numpy(), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_correlation_values_equal_the_oracles(name, dtype):
    x = case(name, dtype)
    r = oracles.correlations(x)
    expected = oracles.h0_deaths(oracles.dissimilarity(r))
    atol = tolerance(x)

    t1 = topoloss.regulariser("t1")
    deaths = deaths_of(t1, x)
    assert deaths.shape == (x.shape[1] - 1,)
    assert (deaths >= 0).all()
    assert deaths.dtype == dtype
    assert_close(deaths, expected, atol)
    assert_close(t1(x), oracles.t1(expected), max(1, len(expected)) * atol)
    assert_close(topoloss.regulariser("t2")(x), oracles.t2(expected), atol)
    assert_close(topoloss.regulariser("naive")(x), oracles.naive(r), atol)


@pytest.mark.parametrize("name", [n for n in CASES if n != "1 neuron"])
def test_deaths_equal_those_of_ripser(name):
    x = CASES[name]
    expected = oracles.ripser_deaths(oracles.MATRICES["correlation"](x))
    # ripser's own float32 is the coarser one: it rounds a death, at most 1, by eps / 4.
    assert_close(deaths_of(topoloss.regulariser("t1"), x), expected, 3.1e-8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["generic", "dead relu", "duplicates", "ties", "one constant"])
def test_half_precision_is_promoted_to_float32(name, dtype):
    x = case(name, dtype)
    r = oracles.correlations(x)
    expected = oracles.h0_deaths(oracles.dissimilarity(r))
    for reg, value in [("t2", oracles.t2(expected)), ("naive", oracles.naive(r))]:
        actual = topoloss.regulariser(reg)(x)
        assert actual.dtype == torch.float32
        assert_close(actual, value, tolerance(x))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_orthogonal_neurons_have_exact_values(name, dtype):
    x = hadamard(4)[:, 1:].to(dtype)
    exact = {"t1": -14.0, "t2": -0.5, "naive": 0.0}
    assert topoloss.regulariser(name)(x).item() == exact[name]


@pytest.mark.parametrize("name", NAMES)
def test_a_hand_computed_example(name):
    # r = 1/2 between the first two, and 0 between each of them and the third.
    x = torch.tensor([[1.0, 1, 1], [-1, 0, 1], [0, -1, 1], [0, 0, -3]]).double()
    # Deaths 1/2 and 1: sum 3/2, mean 3/4, population standard deviation 1/4.
    exact = {"t1": -1.5, "t2": -0.25, "naive": 1 / 6}
    assert topoloss.regulariser(name)(x).item() == pytest.approx(exact[name], abs=1e-15)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_column_of_tenths_is_constant(dtype):
    samples = 100
    tenths = torch.full((samples,), 0.1, dtype=dtype)
    x = with_columns(randn(samples, 4).to(dtype), c2=tenths)
    vertices = topoloss.filtration("correlation").vertices(x)
    assert (vertices[2] == 0).all()
    assert vertices[[0, 1, 3]].norm(dim=1).min() > 0.99
    assert deaths_of(topoloss.regulariser("t1"), x)[-1] == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("ulps", "constant"), [(1, True), (3, True), (8, False), (64, False)])
def test_constant_means_a_spread_of_at_most_eps_of_the_magnitude(dtype, ulps, constant):
    # One entry of 16 is off by k eps, so the standard deviation is k eps sqrt(15) / 16.
    x = torch.ones(16, 1, dtype=dtype)
    x[3] += ulps * torch.finfo(dtype).eps
    vertex = topoloss.filtration("correlation").vertices(x)[0]
    assert (vertex == 0).all() == constant
    assert constant or vertex.norm().item() == pytest.approx(1, abs=1e-6)


def test_constant_is_judged_in_the_dtype_of_the_input():
    # A step of 2^-8 below 1 is one of bfloat16's, whose eps is 2^-7, and far above float32's.
    x = torch.ones(16, 1)
    x[:8] = 1 - 2**-8
    assert torch.equal(x.bfloat16().float(), x)
    filtration = topoloss.filtration("correlation")
    assert (filtration.vertices(x) != 0).all()
    assert (filtration.vertices(x.bfloat16()) == 0).all()


@pytest.mark.parametrize("filtration", ["correlation", "cosine"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_subnormal_activations_are_constant(filtration, dtype):
    tiny = torch.finfo(dtype).tiny
    x = torch.stack((GENERIC[:, 0], GENERIC[:, 1] / 8), 1).to(dtype) * tiny
    assert x[:, 0].abs().max() > tiny > x[:, 1].abs().max() > 0
    vertices = topoloss.filtration(filtration).vertices(x)
    assert vertices[0].norm().item() == pytest.approx(1, abs=1e-6)
    assert (vertices[1] == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_memory_layout_does_not_matter(name):
    reg, x = topoloss.regulariser(name), GENERIC.float()
    wide = torch.zeros(32, 36)
    wide[:, ::3] = x
    for other in (x.T.contiguous().T, wide[:, ::3], x.flip(0).flip(0)):
        assert torch.equal(reg(other), reg(x))


@pytest.mark.parametrize("constant", ["independent", "drop"])
def test_the_mean_of_t1_counts_the_deaths_that_count(constant):
    x = randn(9, 6)
    x[:, 2:4] = 1.0
    filtration = topoloss.filtration("correlation", constant=constant)
    total = topoloss.regulariser("t1", filtration=filtration)(x)
    mean = topoloss.regulariser("t1", filtration=filtration, reduction="mean")(x)
    # Of six neurons two are constant: five deaths, or the three among the other four.
    torch.testing.assert_close(mean, total / (5 if constant == "independent" else 3))
    alone = topoloss.regulariser("t1", reduction="mean")(x[:, :1])
    assert alone.item() == 0
    with pytest.raises(
        topoloss.OptionError, match="reduction='median' is not one of 'sum', 'mean'"
    ):
        topoloss.regulariser("t1", reduction="median")


def test_t2_weights_its_terms():
    deaths = oracles.h0_deaths(oracles.MATRICES["correlation"](GENERIC))
    for alpha, beta in [(1, 0), (0, 1), (0.3, 2.0)]:
        value = topoloss.regulariser("t2", alpha=alpha, beta=beta)(GENERIC)
        assert_close(value, oracles.t2(deaths, alpha, beta), 1e-13)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case_name", ["one constant", "zeros", "dead relu"])
def test_dropped_constants_leave_the_value_of_the_live_neurons(name, case_name):
    x = CASES[case_name]
    live = x[:, (x != x[0]).any(0)]
    assert 2 < live.shape[1] < x.shape[1]
    correlation = topoloss.filtration("correlation", constant="drop")
    options = {"constant": "drop"} if name == "naive" else {"filtration": correlation}
    reg = topoloss.regulariser(name, **options)
    r = oracles.correlations(live)
    deaths = oracles.h0_deaths(oracles.dissimilarity(r))
    expected = {"t1": oracles.t1(deaths), "t2": oracles.t2(deaths), "naive": oracles.naive(r)}
    assert_close(reg(x), expected[name], 1e-12)
    if name != "naive":
        total = topoloss.pipeline(correlation, "mst", "total-persistence")
        assert_close(total(x), deaths.sum(), 1e-12)
        diagram = reg.diagrams(x)[0]
        assert diagram.deaths.shape == diagram.weights.shape == (x.shape[1] - 1,)
        assert diagram.weights.sum() == live.shape[1] - 1


def test_a_neuron_that_is_zero_in_some_samples_is_not_dropped():
    # After centring the first holds a zero, and the second all but one.
    x = torch.tensor([[1.0, 3, 5], [2, 0, 5], [3, -3, 5]]).double()
    for filtration in ("correlation", "cosine"):
        made = topoloss.filtration(filtration, constant="drop")
        v = made.vertices(x - x.mean(0) if filtration == "cosine" else x)
        weights = made.edge_weights(v, torch.tensor([0, 0, 1]), torch.tensor([1, 2, 2]))
        assert weights.tolist() == [1, 0, 0]


@pytest.mark.parametrize("name", NAMES)
def test_dropping_everything_is_zero(name):
    correlation = topoloss.filtration("correlation", constant="drop")
    options = {"constant": "drop"} if name == "naive" else {"filtration": correlation}
    assert topoloss.regulariser(name, **options)(CASES["all constant"]).item() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_cosine_deaths_equal_the_oracle(name, dtype):
    x = case(name, dtype)
    expected = oracles.h0_deaths(oracles.MATRICES["cosine"](x))
    reg = topoloss.pipeline("cosine", "mst", "t1")
    assert_close(deaths_of(reg, x), expected, tolerance(x))


def test_cosine_does_not_centre():
    # The angle between (1, 1) and (0, 1) is 45 degrees, while two samples correlate +-1.
    x = torch.tensor([[1.0, 0.0], [1.0, 1.0]]).double()
    reg = topoloss.pipeline("cosine", "mst", "t1")
    assert reg(x).item() == pytest.approx(2**-0.5 - 1, abs=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", [n for n in CASES if "offset" not in n and n != "mixed scales"])
def test_euclidean_deaths_equal_the_oracle(name, dtype):
    x = case(name, dtype)
    expected = oracles.h0_deaths(oracles.distances(x))
    reg = topoloss.pipeline("euclidean", "mst", "t1")
    # No two distinct distances are close here, so only the deaths themselves round.
    assert_close(deaths_of(reg, x), expected, tolerance(x) * oracles.distances(x).max())


def test_euclidean_tree_survives_clusters_that_are_far_apart():
    x = torch.cat((randn(64, 10), randn(64, 10, seed=1) + 1e4), 1).float()
    expected = oracles.h0_deaths(oracles.distances(x))
    deaths = deaths_of(topoloss.pipeline("euclidean", "mst", "t1"), x)
    # The coordinates are exact and so are their differences, to eps: within a cluster
    # distances are about 10, whatever lies between the clusters.
    assert_close(deaths[:-1], expected[:-1], 3e-6)


@pytest.mark.parametrize("power", [1, 2, 3.5])
@pytest.mark.parametrize("filtration", oracles.MATRICES)
def test_total_persistence_is_the_sum_of_powers(filtration, power):
    loss = topoloss.loss("total-persistence", power=power)
    value = topoloss.pipeline(filtration, "mst", loss)(GENERIC)
    deaths = oracles.h0_deaths(oracles.MATRICES[filtration](GENERIC))
    assert value.item() == pytest.approx((deaths**power).sum(), rel=1e-12)


class WithCircles(topoloss.Persistence):
    def from_matrix(self, values):
        return of_matrix(values, dimensions=2)


@pytest.mark.parametrize(
    ("loss", "expected"), [("t1", -3), ("t2", -1 / 2), ("total-persistence", 2 + 2**0.5)]
)
def test_t1_and_t2_are_of_dimension_0_and_total_persistence_is_of_all(loss, expected):
    """Three sides of a square join its corners; a circle lives from 1 to the diagonal's length."""
    corners = torch.tensor([[0.0, 1, 1, 0], [0, 0, 1, 1]], dtype=torch.float64)
    pipeline = topoloss.pipeline("euclidean", WithCircles(), loss)
    assert pipeline(corners).item() == pytest.approx(expected, rel=1e-15)


class TwoLayers(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(2, 2)
        self.second = torch.nn.Linear(2, 1, bias=False).double()
        with torch.no_grad():
            self.first.weight.copy_(torch.tensor([[1.0, -2.0], [3.0, -4.0]]))
            self.first.bias.copy_(torch.tensor([0.5, -0.5]))
            self.second.weight.copy_(torch.tensor([[-5.0, 6.0]]))


def test_norms_are_plain_sums_over_weights_and_biases():
    parameters = dict(TwoLayers().named_parameters())
    assert topoloss.regulariser("l1")(parameters).item() == 1 + 2 + 3 + 4 + 0.5 + 0.5 + 5 + 6
    assert topoloss.regulariser("l2")(parameters).item() == 1 + 4 + 9 + 16 + 0.25 + 0.25 + 25 + 36
    assert topoloss.regulariser("l1")(parameters).dtype == torch.float64


def test_norms_of_half_precision_are_summed_in_float32():
    # The sum, 2049, lies between two numbers of float16.
    value = topoloss.regulariser("l1")({"w": torch.ones(2049).half().requires_grad_()})
    assert value.dtype == torch.float32
    assert value.item() == 2049


def test_norms_of_complex_weights_are_of_their_magnitudes():
    """|3 + 4i| = 5, |i| = 1 and |-2| = 2."""
    weights = {
        "complex": torch.tensor([3 + 4j, 1j], dtype=torch.complex128, requires_grad=True),
        "real": torch.tensor([-2.0], requires_grad=True),
    }
    for name, expected in (("l1", 5 + 1 + 2), ("l2", 25 + 1 + 4)):
        value = topoloss.regulariser(name)(weights)
        assert value.dtype == torch.float64
        assert value.item() == expected


def test_no_penalty_on_complex_weights_is_a_real_zero():
    """A complex one would make the loss complex, which has no gradient."""
    value = topoloss.regulariser("none")({"w": torch.ones(2, dtype=torch.complex128)})
    assert (value.dtype, value.item()) == (torch.float64, 0)


def test_the_second_derivative_of_l2_is_2_everywhere():
    w = torch.tensor([0.0, 3.0], requires_grad=True)

    def l2(w):
        return topoloss.regulariser("l2")({"w": w})

    assert torch.autograd.functional.hessian(l2, w).tolist() == [[2, 0], [0, 2]]


def test_norms_leave_out_what_is_frozen():
    model = TwoLayers()
    model.first.requires_grad_(False)
    assert topoloss.regulariser("l1")(dict(model.named_parameters())).item() == 11
    model.requires_grad_(False)
    with pytest.raises(topoloss.InputError, match="3 parameters and no trainable one"):
        topoloss.regulariser("l2")(dict(model.named_parameters()))


@pytest.mark.parametrize("name", ["l1", "l2"])
def test_norms_of_nothing_are_an_error(name):
    with pytest.raises(topoloss.InputError, match="0 parameters and no trainable one"):
        topoloss.regulariser(name)({})


def test_none_is_zero():
    for parameters in ({}, dict(TwoLayers().named_parameters())):
        value = topoloss.regulariser("none")(parameters)
        assert value.shape == ()
        assert value.item() == 0


@pytest.mark.parametrize("options", [{"alpha": "x"}, {"beta": float("nan")}, {"alpha": None}])
def test_t2_takes_numbers_only(options):
    with pytest.raises(
        topoloss.OptionError, match=f"{next(iter(options))}=.*expected a finite number"
    ):
        topoloss.regulariser("t2", **options)
