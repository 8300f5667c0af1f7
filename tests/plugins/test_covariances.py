"""Regularisers of covariances and correlations of neurons, against numpy and scipy."""

from itertools import combinations

import numpy as np
import oracles
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import topoloss

LAYER_BY_LAYER = ("decov", "barlow-twins", "vicreg")
SIDE_BY_SIDE = ("covariance-tree", "random-path", "variance")
NAMES = LAYER_BY_LAYER + SIDE_BY_SIDE


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def off_diagonal(matrix):
    return (matrix[~np.eye(len(matrix), dtype=bool)] ** 2).sum()


def covariances(x, degrees=0):
    return np.atleast_2d(np.cov(oracles.as_float64(x), rowvar=False, ddof=degrees))


def vicreg(x):
    c = covariances(x, degrees=1)
    return (
        25 * np.clip(1 - np.sqrt(np.diag(c) + 1e-4), 0, None).mean() + off_diagonal(c) / c.shape[0]
    )


def along_the_tree(x):
    edges, _ = oracles.spanning_tree(oracles.MATRICES["correlation"](x))
    return (covariances(x)[tuple(np.asarray(edges).T)] ** 2).sum()


DEFINITIONS = {
    "decov": lambda x: off_diagonal(covariances(x)) / 2,
    "barlow-twins": lambda x: off_diagonal(oracles.correlations(x)),
    "vicreg": vicreg,
    "variance": lambda x: (oracles.as_float64(x).var(0) ** 2).sum(),
    "covariance-tree": along_the_tree,
}

INPUTS = {
    "generic": randn(20, 15),
    "small": randn(20, 15) / 10,
    "more neurons than samples": randn(6, 40),
    "offset": randn(20, 15) + 100,
    "dead relu": (randn(20, 9) - torch.linspace(0, 2, 9)).relu(),
    "1 neuron": randn(8, 1),
}


@pytest.mark.parametrize("case", INPUTS)
@pytest.mark.parametrize("name", DEFINITIONS)
def test_values_are_those_of_the_definition(name, case):
    x = INPUTS[case]
    assert topoloss.regulariser(name)(x).item() == pytest.approx(DEFINITIONS[name](x), rel=1e-10)


# Of two neurons: variances 2 and 5, covariance 3, correlation 3 / sqrt(10).
BY_HAND = torch.tensor([[2.0, 3], [-2, -3], [0, 1], [0, -1]]).double()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("decov", 9),
        ("barlow-twins", 2 * 9 / 10),
        # Divided by 3 the variances are 8/3 and 20/3, above 1, and the covariance is 4.
        ("vicreg", 16),
        ("vicreg[gamma=3,eps=0.25,mu=2,nu=0.5]", (6 - (35 / 12) ** 0.5 - (83 / 12) ** 0.5) + 8),
        ("variance", 4 + 25),
        ("covariance-tree", 9),
        ("random-path", 9),
    ],
)
def test_hand_computed_values(name, expected):
    assert topoloss.regulariser(name)(BY_HAND).item() == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_finite_differences(name):
    x = randn(7, 5).requires_grad_()
    assert gradcheck(topoloss.regulariser(name), x)
    assert gradgradcheck(topoloss.regulariser(name), x)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"random-path"}))
def test_the_order_of_neurons_does_not_matter(name):
    x, reg = INPUTS["generic"], topoloss.regulariser(name)
    torch.testing.assert_close(reg(x.flip(1)), reg(x))


@pytest.mark.parametrize("name", NAMES)
def test_shifts_do_not_matter_and_scales_count_as_they_should(name):
    x, reg = INPUTS["generic"], topoloss.regulariser(name)
    torch.testing.assert_close(reg(x + 3), reg(x))
    if name != "vicreg":  # whose variance term wishes for a scale
        power = 0 if name == "barlow-twins" else 4
        torch.testing.assert_close(reg(2 * x), 2.0**power * reg(x))


@pytest.mark.parametrize("scale", [1e-40, 1e20, 3e38])
@pytest.mark.parametrize("name", ["decov", "covariance-tree", "random-path", "barlow-twins"])
def test_neurons_without_covariance_have_none_at_any_scale(name, scale):
    signs = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    x = (scale * signs).requires_grad_()
    value = topoloss.regulariser(name)(x)
    assert value.item() == 0
    (gradient,) = torch.autograd.grad(value, x)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("constant", [2.0**66, 2.0**83, 2.0**120])
@pytest.mark.parametrize("name", ["decov", "vicreg", *SIDE_BY_SIDE])
def test_how_large_a_constant_neuron_is_changes_nothing_for_the_others(name, constant):
    layers = [
        torch.nn.functional.pad(randn(8, 4).float(), (0, 1), value=each).requires_grad_()
        for each in (0.0, constant)
    ]
    expected, value = (topoloss.regulariser(name)(layer) for layer in layers)
    assert expected > 0
    torch.testing.assert_close(value, expected)
    (of_expected,) = torch.autograd.grad(expected, layers[0])
    (of_value,) = torch.autograd.grad(value, layers[1])
    torch.testing.assert_close(of_value[:, :4], of_expected[:, :4])
    assert of_value[:, 4].isfinite().all()


def test_vicreg_has_its_gradient_where_scales_are_far_apart():
    x = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]]) * torch.tensor([1e19, 1.0])
    gradients = [
        torch.autograd.grad(topoloss.regulariser("vicreg")(y), y)[0]
        for y in (x.clone().requires_grad_(), x.double().requires_grad_())
    ]
    torch.testing.assert_close(gradients[0].double(), gradients[1])


def test_decov_of_standardised_neurons_is_half_of_barlow_twins():
    x = INPUTS["generic"]
    standardised = (x - x.mean(0)) / x.std(0, correction=0)
    decov, barlow = topoloss.regulariser("decov"), topoloss.regulariser("barlow-twins")
    torch.testing.assert_close(decov(standardised), barlow(x) / 2)


def test_vicreg_is_its_two_terms_in_their_weights():
    x = INPUTS["small"]
    terms = [topoloss.regulariser("vicreg", mu=mu, nu=nu)(x) for mu, nu in ((1, 0), (0, 1))]
    torch.testing.assert_close(topoloss.regulariser("vicreg")(x), 25 * terms[0] + terms[1])
    # A standard deviation of gamma is enough.
    assert topoloss.regulariser("vicreg", nu=0, gamma=0.001)(x).item() == 0


@pytest.mark.parametrize(
    "option", [{"mu": -1}, {"nu": "much"}, {"gamma": 0}, {"eps": 0}, {"eps": float("nan")}]
)
def test_vicreg_refuses_options_without_meaning(option):
    with pytest.raises(topoloss.OptionError, match=f"{next(iter(option))}="):
        topoloss.regulariser("vicreg", **option)


def pairs_of(regulariser, n):
    """The pairs that a sum of squared covariances takes: pair k has the squared covariance 2^k."""
    pairs = list(combinations(range(n), 2))
    matrix = torch.eye(n, dtype=torch.float64) * 2.0 ** (len(pairs) / 2) * n
    for k, (i, j) in enumerate(pairs):
        matrix[i, j] = matrix[j, i] = 2.0 ** (k / 2)
    root = torch.linalg.cholesky(matrix).mT * n**0.5
    value = regulariser(torch.cat((root, -root))).item()
    assert value == pytest.approx(round(value), rel=1e-12)
    return [pair for k, pair in enumerate(pairs) if round(value) >> k & 1]


@pytest.mark.parametrize("n", [2, 3, 6])
@pytest.mark.parametrize("seed", [0, 1, 12345678901234567890])
def test_a_random_path_visits_every_neuron_once(n, seed):
    pairs = pairs_of(topoloss.regulariser("random-path", seed=seed), n)
    degrees = sorted(sum(k in pair for pair in pairs) for k in range(n))
    assert degrees == [1, 1] + [2] * (n - 2)
    reached = {0}
    for _ in range(n):
        reached |= {k for pair in pairs if reached & set(pair) for k in pair}
    assert reached == set(range(n))


def test_the_seed_alone_decides_the_path():
    paths = [pairs_of(topoloss.regulariser("random-path", seed=seed), 6) for seed in range(8)]
    assert paths[0] == pairs_of(topoloss.regulariser("random-path"), 6)
    assert len({tuple(path) for path in paths}) > 4
    for seed in (-1, 0.5, "x"):
        with pytest.raises(topoloss.OptionError, match="seed="):
            topoloss.regulariser("random-path", seed=seed)


def test_the_tree_of_covariances_is_that_of_the_strongest_correlations():
    # The second and third neuron covary most, and the first two correlate most.
    a, b, c = (torch.linalg.qr(randn(9, 9))[0][:, k] for k in range(3))
    a, b, c = (v - v.mean() for v in (a, b, c))
    x = torch.stack((a, a + 0.01 * b, 100 * c + 20 * a), 1)
    covariance, correlation = covariances(x), oracles.correlations(x)
    assert covariance[1, 2] > covariance[0, 1]
    assert correlation[0, 1] > max(correlation[1, 2], correlation[0, 2])
    strongest = max(((1, 2), (0, 2)), key=lambda pair: correlation[pair])
    expected = covariance[0, 1] ** 2 + covariance[strongest] ** 2
    assert topoloss.regulariser("covariance-tree")(x).item() == pytest.approx(expected)


@pytest.mark.parametrize("name", LAYER_BY_LAYER)
def test_layers_are_valued_by_themselves_and_added(name):
    layers = {"first": randn(8, 3), "second": randn(8, 5, seed=1)}
    reg = topoloss.regulariser(name)
    torch.testing.assert_close(reg.of_layers(layers), sum(map(reg, layers.values())))
    with pytest.raises(topoloss.InputError, match="without layers"):
        reg.of_layers({})


@pytest.mark.parametrize("name", SIDE_BY_SIDE)
def test_the_tree_and_its_controls_join_layers(name):
    layers = {"first": randn(8, 3), "second": randn(8, 5, seed=1)}
    reg = topoloss.regulariser(name)
    torch.testing.assert_close(reg.of_layers(layers), reg(torch.cat(tuple(layers.values()), 1)))


@pytest.mark.parametrize("name", NAMES)
def test_one_sample_has_no_covariance(name):
    with pytest.raises(topoloss.InputError, match=r"holds? one sample"):
        topoloss.regulariser(name)(torch.zeros(1, 4))


@pytest.mark.parametrize("name", NAMES)
def test_constant_neurons_add_nothing(name):
    x = randn(9, 4)
    with_constants = torch.cat((torch.full((9, 2), 0.1).double(), x, torch.zeros(9, 1)), 1)
    reg = topoloss.regulariser(name, **({"mu": 0} if name == "vicreg" else {}))
    if name == "random-path":  # its path is another one
        assert reg(with_constants[:, [0, 1, 6]]).item() == pytest.approx(0, abs=1e-30)
        return
    share = 4 / 7 if name == "vicreg" else 1  # a mean over the neurons
    torch.testing.assert_close(reg(with_constants), share * reg(x))


@pytest.mark.parametrize("name", NAMES)
def test_attached_they_train(name):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 6), torch.nn.Tanh(), torch.nn.Linear(6, 4))
    x = torch.randn(32, 3)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    values = []
    with topoloss.attach(model, topoloss.regulariser(name)) as penalty:
        for _ in range(20):
            model(x)
            value = penalty()
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
            values.append(value.item())
    assert values[-1] < 0.9 * values[0]
