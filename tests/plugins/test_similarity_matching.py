"""Similarity matching: costs by hand, principal components as the optimum, and local learning."""

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from topoloss_similarity_matching import HebbianLayer, least_similarity_cost, similarity_cost
from torch import nn

import topoloss
from topoloss.testing import parametrize_with_checks


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def tensor(rows):
    return torch.tensor(rows, dtype=torch.float64)


def regulariser(**options):
    return topoloss.regulariser("similarity-matching", **options)


def cost_of_pairs(x, r):
    """The definition, pair of samples by pair."""
    total = 0.0
    for t in range(len(x)):
        for u in range(len(x)):
            total += float(x[t] @ x[u] - r[t] @ r[u]) ** 2
    return total / (2 * len(x) ** 2)


def digits():
    """Centred, and scaled so that the mean square of an image is 1."""
    x = torch.tensor(load_digits().data, dtype=torch.float32)
    x = x - x.mean(0)
    return x / x.square().sum(1).mean().sqrt()


# Values worked out by hand


def test_the_cost_of_two_samples():
    """Inputs (1, 0) and (0, 2) have the similarities 1, 0, 0, 4, and outputs 0 and 2 0, 0, 0, 4.

    What is left is 1, over 2 T^2 = 8. In the gradient form M is (0, 4)/2 and Q is 4/2: their
    squares are 4 and 4, and the value is -4 + 4/2. The constant is (1 + 16)/8: -2 + 17/8 = 1/8.
    """
    x, r = tensor([[1, 0], [0, 2]]), tensor([[0], [2]])
    assert similarity_cost(x, r).item() == pytest.approx(1 / 8, rel=1e-15)
    assert regulariser().of_layers({"(input)": x, "a": r}).item() == pytest.approx(-2, rel=1e-15)
    assert regulariser()(r).item() == pytest.approx(2, rel=1e-15)


def test_masks_leave_out_connections():
    """Input (2, 3) and output (5, 7): M is ((10, 14), (15, 21)), Q ((25, 35), (35, 49)).

    With the first output connected to the first input, the second to the second, and no lateral
    connections but with itself: -(100 + 441) + (625 + 2401)/2.
    """
    x, r, diagonal = tensor([[2, 3]]), tensor([[5, 7]]), torch.eye(2)
    reg = regulariser(feedforward={"a": diagonal}, lateral={"a": diagonal})
    assert reg.of_layers({"(input)": x, "a": r}).item() == pytest.approx(972, rel=1e-15)
    # Rows of a mask are outputs.
    reg = regulariser(feedforward={"a": tensor([[1, 1], [0, 0]])}, lateral={"a": 0 * diagonal})
    assert reg.of_layers({"(input)": x, "a": r}).item() == pytest.approx(-325, rel=1e-15)


def test_the_integral_of_tanh_units():
    """F(1/2) = log(3/4)/2 + artanh(1/2)/2 - 1/8, and of one sample twice that is added."""
    r = tensor([[0.5]])
    expected = math.log(0.75) / 2 + math.atanh(0.5) / 2 - 1 / 8
    difference = regulariser(activation="tanh")(r) - regulariser()(r)
    assert difference.item() == pytest.approx(2 * expected, rel=1e-12)
    assert regulariser(activation="tanh")(tensor([[-1.0]])).item() == pytest.approx(
        0.5 + 2 * (math.log(2) - 0.5), rel=1e-12
    )
    assert regulariser(activation="tanh")(tensor([[1.5]])).item() == math.inf


# Independent ways to the same numbers


@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 3, 5), (12, 20, 4)])
def test_the_cost_is_that_of_all_pairs(shape):
    samples, n, k = shape
    x, r = randn(samples, n), randn(samples, k, seed=1)
    assert similarity_cost(x, r).item() == pytest.approx(cost_of_pairs(x, r), rel=1e-10)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_the_gradient_form_is_the_cost_of_all_layers_less_that_of_the_inputs(gamma):
    layers = {
        name: randn(9, width, seed=width)
        for name, width in (("(input)", 5), ("a", 4), ("b", 6), ("c", 2))
    }
    x, a, b, c = layers.values()
    costs = [cost_of_pairs(*pair) for pair in ((x, a), (a, b), (b, c))]
    deep = sum(gamma ** (p - 2) * cost for p, cost in enumerate(costs))
    constant = gamma**-2 * cost_of_pairs(x, 0 * x)
    value = regulariser(gamma=gamma).of_layers(layers).item()
    assert value == pytest.approx(deep - constant, rel=1e-10)


def test_the_first_principal_components_have_the_least_cost():
    x = digits().double()
    for outputs in (1, 4, 20):
        scores = torch.tensor(
            PCA(outputs, svd_solver="full").fit_transform(x.numpy())
        ).requires_grad_()
        cost = similarity_cost(x, scores)
        best = least_similarity_cost(x, outputs).item()
        assert cost.item() == pytest.approx(best, rel=1e-9)
        # There the penalty is stationary, and lower than beside.
        value = regulariser().of_layers({"(input)": x, "a": scores})
        (gradient,) = torch.autograd.grad(value, scores)
        assert gradient.abs().max() < 1e-10
        beside = scores + 0.01 * randn(*scores.shape)
        assert regulariser().of_layers({"(input)": x, "a": beside}) > value


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gamma": 0.3},
        {"activation": "tanh"},
        {"feedforward": {"b": torch.eye(2, 3)}, "lateral": {"a": torch.eye(3)}},
    ],
    ids=["plain", "deep", "tanh", "masks"],
)
def test_gradients_are_those_of_finite_differences(options):
    reg = regulariser(**options)
    layers = [0.3 * randn(5, width, seed=width).requires_grad_() for width in (4, 3, 2)]

    def value(*tensors):
        return reg.of_layers(dict(zip(("(input)", "a", "b"), tensors, strict=True)))

    assert torch.autograd.gradcheck(value, layers)
    assert torch.autograd.gradgradcheck(value, layers)


# Local learning


MASK = tensor([[1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 1, 1]])
LATERAL = tensor([[1, 1, 0], [1, 1, 1], [0, 1, 1]])


@pytest.mark.parametrize("activation", ["linear", "tanh"])
@pytest.mark.parametrize("structured", [False, True])
def test_the_derivative_by_outputs_is_how_far_they_are_from_settled(activation, structured):
    """With W and L the averages that learning moves them to: 2/T (u + (L - 1) r - W x)."""
    x, r = randn(12, 5), (0.9 * torch.tanh(randn(12, 3, seed=1))).requires_grad_()
    feedforward, lateral = (MASK, LATERAL) if structured else (1 + 0 * MASK, 1 + 0 * LATERAL)
    masks = {"feedforward": {"a": MASK}, "lateral": {"a": LATERAL}} if structured else {}
    value = regulariser(activation=activation, **masks).of_layers({"(input)": x, "a": r})
    (gradient,) = torch.autograd.grad(value, r)
    r = r.detach()
    w, inhibition = feedforward * (r.T @ x) / 12, lateral * (r.T @ r) / 12
    u = torch.atanh(r) if activation == "tanh" else r
    torch.testing.assert_close(gradient, 2 / 12 * (u - r + r @ inhibition - x @ w.T))


@pytest.mark.parametrize("structured", [False, True])
def test_where_local_learning_rests_the_penalty_is_stationary(structured):
    x = randn(40, 5) * tensor([3, 2, 1.5, 1, 0.5])
    masks = {"feedforward": MASK, "lateral": LATERAL} if structured else {}
    layer = HebbianLayer(5, 3, **masks).double()
    for _ in range(3000):
        r = layer(x)
        layer.weight += 0.1 * (layer.feedforward * (r.T @ x) / len(x) - layer.weight)
        layer.inhibition += 0.1 * (layer.lateral * (r.T @ r) / len(x) - layer.inhibition)
    r = layer(x).requires_grad_()
    reg = regulariser(**{option: {"a": mask} for option, mask in masks.items()})
    (gradient,) = torch.autograd.grad(reg.of_layers({"(input)": x, "a": r}), r)
    assert gradient.abs().max() < 1e-9
    assert r.abs().amax(0).min() > 0.1


def test_on_digits_the_penalty_and_local_learning_reach_the_same_cost():
    """The least cost is known in closed form; both begin at five times as much."""
    x = digits()
    best = least_similarity_cost(x, 4).item()
    layer = HebbianLayer(64, 4)
    start = similarity_cost(x, layer(x)).item()
    generator = torch.Generator().manual_seed(0)
    for epoch in range(6):
        order = torch.randperm(len(x), generator=generator)
        layer.learn(x[order], rate=0.05 / (1 + 2 * epoch))
    locally = similarity_cost(x, layer(x)).item()

    model = nn.Sequential(nn.Linear(64, 4, bias=False))
    penalty = topoloss.attach(model, "similarity-matching")
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        model(x)
        value = penalty()
        value.backward()
        return value

    optimiser.step(closure)
    by_gradients = similarity_cost(x, model(x)).item()
    assert start > 4.5 * best
    assert best <= locally <= 1.01 * best
    assert best <= by_gradients <= 1.0005 * best


def test_learning_is_local_and_sample_by_sample():
    """Each sample moves each connection towards the product of its two neurons."""
    layer = HebbianLayer(5, 3, feedforward=MASK, lateral=LATERAL).double()
    w, inhibition = layer.weight.numpy().copy(), np.eye(3)
    x = randn(4, 5)
    found = layer.learn(x, rate=0.125)
    for sample, outputs in zip(x.numpy(), found.numpy(), strict=True):
        r = np.linalg.solve(inhibition, w @ sample)  # with the weights before this sample
        np.testing.assert_allclose(outputs, r, rtol=1e-12)
        w += 0.125 * (np.outer(r, sample) * MASK.numpy() - w)
        inhibition += 0.125 * (np.outer(r, r) * LATERAL.numpy() - inhibition)
    np.testing.assert_allclose(layer.weight, w, rtol=1e-12)
    np.testing.assert_allclose(layer.inhibition, inhibition, rtol=1e-12)


def test_the_first_weights_are_those_of_the_seed_with_the_inverse_of_the_inputs_as_variance():
    one, same, other = (HebbianLayer(400, 300, seed=seed).weight for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    # The variance of 120,000 normal numbers is off by 0.4 per cent.
    assert one.var().item() == pytest.approx(1 / 400, rel=0.01)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_outputs_are_a_fixed_point_of_the_dynamics(activation):
    layer = HebbianLayer(5, 4, activation=activation, tolerance=1e-10).double()
    spread = randn(4, 4, seed=2)
    layer.inhibition.copy_(torch.eye(4) + spread @ spread.T)
    x = randn(6, 5, seed=3)
    r = layer(x)
    u = x @ layer.weight.T - r @ (layer.inhibition - torch.eye(4)).T
    expected = torch.relu(u) if activation == "relu" else torch.tanh(u)
    torch.testing.assert_close(r, expected, rtol=0, atol=1e-9)


# Models, and what is refused


def test_attached_it_compares_each_layer_with_the_one_before():
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    penalty = topoloss.attach(model, "similarity-matching[gamma=0.5]")
    x = torch.randn(8, 6)
    model(x)
    h = torch.relu(model[0](x))
    expected = regulariser(gamma=0.5).of_layers({"(input)": x, "0": h, "2": model[2](h)})
    torch.testing.assert_close(penalty(), expected)


def test_nonfinite_activations_are_skipped_on_request():
    x = torch.ones(3, 2)
    bad = x.clone().requires_grad_()
    layers = {"(input)": x, "a": bad * torch.tensor([1.0, torch.nan])}
    with pytest.raises(topoloss.NonFiniteError):
        regulariser().of_layers(layers)
    reg = regulariser(on_nonfinite="skip")
    value = reg.of_layers(layers)
    assert value.item() == 0
    assert reg.skipped.item() == 1


@pytest.mark.parametrize(
    ("options", "layers", "message"),
    [
        ({}, {"(input)": (3, 2)}, "and after them at least one layer"),
        ({}, {"(input)": (3, 2), "a": (3, 2, 2)}, r"expected \(samples, neurons\) for each"),
        ({}, {"(input)": (3, 2), "a": (4, 2)}, "differing numbers of samples"),
        ({"feedforward": {"b": torch.ones(2, 2)}}, {"x": (3, 2), "a": (3, 2)}, r"masks of \['b'\]"),
        (
            {"feedforward": {"a": torch.ones(2, 4)}},
            {"x": (3, 2), "a": (3, 4)},
            r"expected \(4, 2\)",
        ),
        ({"lateral": {"a": torch.ones(2, 2)}}, {"x": (3, 2), "a": (3, 4)}, r"expected \(4, 4\)"),
    ],
)
def test_layers_and_masks_that_do_not_fit_are_an_error(options, layers, message):
    given = {name: torch.ones(shape) for name, shape in layers.items()}
    with pytest.raises(topoloss.InputError, match=message):
        regulariser(**options).of_layers(given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"feedforward": torch.ones(2, 2)}, "feedforward of type Tensor was given"),
        ({"lateral": {"a": 1}}, "lateral of type dict was given"),
        (
            {"feedforward": {"a": torch.tensor([[0.0, 2.0]])}},
            "'a' holds numbers outside of 0 to 1",
        ),
        ({"lateral": {"a": torch.tensor([[torch.nan]])}}, "'a' holds numbers outside of 0 to 1"),
        ({"lateral": {"a": -torch.eye(2)}}, "'a' holds numbers outside of 0 to 1"),
        ({"gamma": 0.0}, "gamma="),
        ({"activation": "sigmoid"}, "activation="),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(topoloss.OptionError, match=message):
        regulariser(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lateral": tensor([[1, 1], [0, 1]])}, "symmetric"),
        ({"lateral": tensor([[0, 1], [1, 1]])}, "1 on its diagonal"),
        ({"lateral": tensor([[1, -1], [-1, 1]])}, "lateral holds numbers other than 0 and 1"),
        ({"feedforward": torch.full((2, 3), torch.nan)}, "feedforward holds numbers other than 0"),
        ({"feedforward": torch.ones(3, 2)}, r"feedforward is \(3, 2\); expected .*\(2, 3\)"),
    ],
)
def test_connections_that_make_no_sense_are_refused(options, message):
    with pytest.raises(topoloss.OptionError, match=message):
        HebbianLayer(3, 2, **options)


def test_a_layer_that_does_not_settle_says_so():
    layer = HebbianLayer(3, 2, activation="relu")
    layer.weight.fill_(torch.nan)
    with pytest.raises(topoloss.TopolossError, match="did not settle"):
        layer(torch.ones(1, 3))


@parametrize_with_checks(
    "regulariser",
    "similarity-matching[gamma=0.5]",
    "similarity-matching[on_nonfinite=skip]",
)
def test_options_conform(check):
    check()


@pytest.mark.parametrize("activation", ["linear", "relu", "tanh"])
def test_layers_without_samples_are_an_error(activation):
    regulariser = topoloss.regulariser("similarity-matching", activation=activation)
    layers = {"(input)": torch.zeros(0, 4), "0": torch.zeros(0, 2)}
    with pytest.raises(topoloss.InputError, match="no samples; expected at least one"):
        regulariser.of_layers(layers)


def test_complex_layers_are_an_error():
    layers = {"(input)": torch.ones(3, 4), "0": torch.ones(3, 2, dtype=torch.complex64)}
    with pytest.raises(topoloss.InputError, match=r"expected a floating-point.* x\.real"):
        topoloss.regulariser("similarity-matching").of_layers(layers)


@pytest.mark.parametrize("activation", ["linear", "relu", "tanh"])
def test_a_layer_works_in_any_dtype_and_under_autocast(activation):
    """Sums are in at least float32; half precision holds three digits of its inputs."""
    layer, x = HebbianLayer(5, 3, activation=activation), randn(6, 5).float()
    expected = layer(x)
    torch.testing.assert_close(layer(x.double()), expected.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), expected)
    for dtype, digits in ((torch.bfloat16, 0.03), (torch.float16, 0.004)):
        half = HebbianLayer(5, 3, activation=activation).to(dtype)
        found = half(x.to(dtype))
        assert found.dtype == dtype
        torch.testing.assert_close(found.float(), expected, rtol=digits, atol=digits)
        assert half.learn(x.to(dtype), rate=0.1).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_costs_of_half_precision_are_those_of_its_numbers_in_float32(dtype):
    x = (300 * randn(40, 6)).to(dtype)
    r = x[:, :2]
    assert similarity_cost(x, r).item() == similarity_cost(x.float(), r.float()).item()
    assert similarity_cost(x.float(), r).item() == similarity_cost(x.float(), r.float()).item()
    assert least_similarity_cost(x, 2).item() == least_similarity_cost(x.float(), 2).item()
    with torch.autocast("cpu", torch.bfloat16):
        assert similarity_cost(x.float(), r).item() == similarity_cost(x, r).item()


@pytest.mark.parametrize(
    "use",
    [
        lambda x: similarity_cost(x[:0], x[:0]),
        lambda x: least_similarity_cost(x[:0], 1),
        lambda x: least_similarity_cost(x * torch.nan, 1),
        lambda x: HebbianLayer(4, 2)(x[:0]),
        lambda x: HebbianLayer(4, 2).learn(x[:0], rate=0.1),
        lambda x: HebbianLayer(3, 2)(x),
        lambda x: HebbianLayer(3, 2).learn(x, rate=0.1),
        lambda x: HebbianLayer(4, 2).learn(x * torch.nan, rate=0.1),
        lambda x: topoloss.regulariser("similarity-matching[feedforward=x]"),
    ],
)
def test_wrong_uses_are_errors_of_the_library(use):
    with pytest.raises(topoloss.TopolossError, match=r"expected|leave such samples out"):
        use(torch.ones(5, 4))


@pytest.mark.parametrize("activation", ["linear", "relu", "tanh"])
def test_learning_in_half_precision_is_that_in_float32(activation):
    """Squares of the outputs, 90,000, are above the largest number of float16, 65,504."""
    layers = [HebbianLayer(2, 2, activation=activation, tolerance=1e-3) for _ in range(2)]
    for layer in layers:
        layer.weight.copy_(torch.tensor([[300.0, 0.0], [0.0, 0.5]]))
    single, half = layers[0], layers[1].half()
    x = torch.tensor([[1.0, 0.5], [0.25, -1.0]])
    expected, found = single.learn(x, rate=2**-8), half.learn(x.half(), rate=2**-8)
    assert found.dtype == half.weight.dtype == half.inhibition.dtype == torch.float16
    torch.testing.assert_close(found, expected.half())
    torch.testing.assert_close(half.weight, single.weight.half())
    torch.testing.assert_close(half.inhibition, single.inhibition.half())


def test_small_changes_add_up_in_half_precision():
    """Each sample moves the weight by a thousandth of itself; bfloat16 has two to three digits."""
    layer = HebbianLayer(1, 1).bfloat16()
    layer.weight.fill_(1)
    layer.learn(torch.zeros(1000, 1, dtype=torch.bfloat16), rate=0.001)
    assert layer.weight.item() == pytest.approx(0.999**1000, rel=2**-8)


@pytest.mark.parametrize(
    ("dtype", "size"), [(torch.float16, 2000.0), (torch.float32, 1e30)], ids=["float16", "float32"]
)
def test_learning_that_diverges_is_an_error_and_changes_nothing(dtype, size):
    layer = HebbianLayer(3, 2).to(dtype)
    before = {name: x.clone() for name, x in layer.state_dict().items()}
    with pytest.raises(topoloss.TopolossError, match="learn at a lower rate"):
        layer.learn(torch.full((4, 3), size, dtype=dtype), rate=1.0)
    for name, x in layer.state_dict().items():
        assert torch.equal(x, before[name])


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_a_sample_settles_alone_as_in_a_batch(activation):
    """With so wide a tolerance each further step would show."""
    layer = HebbianLayer(5, 4, activation=activation, tolerance=0.01).double()
    spread = randn(4, 4, seed=2)
    layer.inhibition.copy_(torch.eye(4) + spread @ spread.T)
    x = randn(6, 5, seed=3) * torch.logspace(-3, 3, 6, dtype=torch.float64)[:, None]
    together = layer(x)
    for sample, r in zip(x, together, strict=True):
        torch.testing.assert_close(layer(sample[None])[0], r, rtol=1e-12, atol=0)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("activation", ["linear", "relu", "tanh"])
def test_samples_that_are_not_finite_are_an_error(activation, bad):
    layer, x = HebbianLayer(3, 2, activation=activation), torch.ones(4, 3)
    x[2, 1] = bad
    for use in (layer, lambda x: layer.learn(x, rate=0.1)):
        with pytest.raises(topoloss.NonFiniteError, match="leave such samples out"):
            use(x)


def test_lateral_weights_without_an_inverse_are_told():
    layer = HebbianLayer(2, 2)
    layer.inhibition.zero_()
    with pytest.raises(topoloss.TopolossError, match="lower rate"):
        layer(torch.ones(1, 2))
