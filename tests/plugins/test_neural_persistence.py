"""Neural persistence and deep graph persistence: values by hand, by scipy and by all paths."""

import copy
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.sparse.csgraph import minimum_spanning_tree
from topoloss_neural_persistence import deep_graph_persistence, neural_persistence, unrolled
from topoloss_neural_persistence.products import max_min_product
from topoloss_neural_persistence.trees import maximum_spanning_tree
from torch import nn

import topoloss
from topoloss.testing import parametrize_with_checks


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def integers(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-3, 4, shape, generator=generator).double()


def tensor(rows):
    return torch.tensor(rows, dtype=torch.float64)


def deaths_by_scipy(matrix):
    """Weights of the maximum spanning tree between rows and columns, descending."""
    a = np.asarray(matrix, dtype=np.float64)
    rows, columns = a.shape
    between = np.zeros((rows + columns, rows + columns))
    # The largest becomes 1: scipy takes 0 for no edge.
    between[:rows, rows:] = 1 + a.max() - a
    found = minimum_spanning_tree(between).data
    assert len(found) == rows + columns - 1
    return np.sort(1 + a.max() - found)[::-1]


def norm_by_numpy(deaths, p=2, essential=False):
    norm = (((1 - deaths) ** p).sum() + essential) ** (1 / p)
    return norm / len(deaths) ** (1 / p)


# Values worked out by hand


def test_the_neural_persistence_of_one_layer():
    """Weights 4, -2, 1, 3 become 1, 1/2, 1/4, 3/4, between outputs a, b and inputs c, d:

    a-c 1, b-d 3/4 and a-d 1/2 make up the tree, and b-c closes a cycle. The persistence is 0, 1/4
    and 1/2: its squares add up to 5/16, and to 21/16 with the class that never dies.
    """
    weights = {"hidden": tensor([[4, -2], [1, 3]])}
    value = neural_persistence(weights, normalised=False)["hidden"].item()
    assert value == pytest.approx((5 / 16) ** 0.5, rel=1e-15)
    value = neural_persistence(weights)["hidden"].item()
    assert value == pytest.approx((5 / 48) ** 0.5, rel=1e-15)
    value = neural_persistence(weights, essential=True)["hidden"].item()
    assert value == pytest.approx((21 / 48) ** 0.5, rel=1e-15)
    value = neural_persistence(weights, p=1)["hidden"].item()
    assert value == pytest.approx(0.75 / 3, rel=1e-15)


def test_the_largest_weight_is_that_of_the_network_and_layers_are_averaged():
    """In units of -8 the only edge of b is 1 and those of a, 4 and 2, are 1/2 and 1/4.

    Neural persistence is sqrt(1/4 + 9/16) = sqrt(13)/4 for a, of two deaths, and 0 for b.
    """
    weights = {"a": tensor([[4], [2]]), "b": tensor([[-8]])}
    by_layer = neural_persistence(weights, normalised=False)
    assert by_layer["a"].item() == pytest.approx(13**0.5 / 4, rel=1e-15)
    assert by_layer["b"].item() == 0
    reg = topoloss.regulariser("neural-persistence")
    assert reg.of_layers(weights).item() == pytest.approx((13 / 32) ** 0.5 / 2, rel=1e-15)
    reg = topoloss.regulariser("neural-persistence", normalised=False)
    assert reg.of_layers(weights).item() == pytest.approx(13**0.5 / 4, rel=1e-15)


def test_the_deep_graph_persistence_of_two_layers():
    """Of 3, 1, 1, -1 the mean is 1 and the std sqrt(2): z is sqrt(2), 0, 0, sqrt(2).

    Of 2, 0 the mean is 1 and the std 1: z is 1 and 1. Divided by sqrt(2), each of the two inputs
    reaches the output through one hidden neuron, with strength min(1, 1/sqrt(2)). Both are in the
    tree. With `rescale` the strengths are 1.
    """
    weights = {"a": tensor([[3, 1], [1, -1]]), "b": tensor([[2, 0]])}
    expected = 1 - 0.5**0.5
    assert deep_graph_persistence(weights).item() == pytest.approx(expected, rel=1e-14)
    value = deep_graph_persistence(weights, normalised=False).item()
    assert value == pytest.approx(2**0.5 * expected, rel=1e-14)
    value = deep_graph_persistence(weights, essential=True).item()
    assert value == pytest.approx(((2 * expected**2 + 1) / 2) ** 0.5, rel=1e-14)
    assert deep_graph_persistence(weights, rescale=True).item() == pytest.approx(0, abs=1e-15)


def test_a_max_min_product_by_hand():
    """max(min(1, 3), min(5, 2)) is 2, and max(min(1, 4), min(5, 9)) is 5."""
    product = max_min_product(tensor([[1, 5]]), tensor([[3, 4], [2, 9]]))
    assert product.tolist() == [[2, 5]]


# Independent ways to the same numbers

SHAPES = [(1, 1), (1, 5), (6, 1), (4, 4), (7, 3), (30, 65)]


@pytest.mark.parametrize("draw", [randn, integers], ids=["real", "tied"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_tree_is_as_heavy_as_that_of_scipy(shape, draw):
    matrix = draw(*shape, seed=sum(shape)).abs()
    i, j = maximum_spanning_tree(matrix)
    assert len({*zip(i.tolist(), j.tolist(), strict=True)}) == sum(shape) - 1
    found = matrix[i, j].sort(descending=True).values.numpy()
    np.testing.assert_allclose(found, deaths_by_scipy(matrix), rtol=1e-12)


@pytest.mark.parametrize("options", [{}, {"p": 1}, {"p": 3.5}, {"essential": True}], ids=str)
def test_neural_persistence_is_that_of_the_tree_by_scipy(options):
    weights = {f"{shape}": randn(*shape, seed=k) for k, shape in enumerate(SHAPES)}
    largest = max(w.abs().max().item() for w in weights.values())
    for name, value in neural_persistence(weights, **options).items():
        deaths = deaths_by_scipy(weights[name].abs() / largest)
        assert value.item() == pytest.approx(norm_by_numpy(deaths, **options), rel=1e-12)


def strengths_by_paths(matrices):
    """The largest, over all paths, of the smallest score on the path; from inputs to outputs."""
    hidden = [range(len(z)) for z in matrices[:-1]]
    found = np.empty((matrices[0].shape[1], len(matrices[-1])))
    for i, j in np.ndindex(*found.shape):
        paths = ((i, *between, j) for between in itertools.product(*hidden))
        found[i, j] = max(
            min(z[path[k + 1], path[k]] for k, z in enumerate(matrices)) for path in paths
        )
    return found


@pytest.mark.parametrize("draw", [randn, integers], ids=["real", "tied"])
@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("widths", [(4, 3), (4, 3, 5), (3, 4, 2, 6), (2, 3, 1, 3, 4)])
def test_deep_graph_persistence_is_that_of_all_paths(widths, rescale, draw):
    weights = {
        f"{k}": draw(out, into, seed=k) for k, (into, out) in enumerate(itertools.pairwise(widths))
    }
    scores = [w.numpy() for w in weights.values()]
    scores = [abs(w - w.mean()) / (w.std() or 1) for w in scores]
    strengths = strengths_by_paths([z / max(z.max() for z in scores) for z in scores])
    if rescale:
        strengths = strengths / strengths.max()
    expected = norm_by_numpy(deaths_by_scipy(strengths))
    value = deep_graph_persistence(weights, rescale=rescale).item()
    assert value == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (5, 4, 3), (300, 40, 70)])
def test_the_product_by_blocks_is_that_of_all_triples(sizes):
    n, h, m = sizes
    a, b = randn(n, h), randn(h, m, seed=1)
    expected = torch.minimum(a[:, :, None], b[None]).amax(1)
    assert torch.equal(max_min_product(a, b), expected)


@pytest.mark.parametrize("name", ["neural-persistence", "deep-graph-persistence"])
def test_a_single_layer_by_its_bounds(name):
    """Between 0, for equal weights, and 1, for one weight beside zeros."""
    reg = topoloss.regulariser(name, p=2)
    for seed in range(5):
        assert 0 <= reg.of_layers({"a": randn(5, 7, seed=seed)}).item() <= 1
    one = torch.zeros(400, 400, dtype=torch.float64)
    one[3, 5] = 2
    assert reg.of_layers({"a": one}).item() > 0.99
    if name == "neural-persistence":
        assert reg.of_layers({"a": torch.full((4, 3), -0.1)}).item() == 0


@pytest.mark.parametrize("name", ["neural-persistence", "deep-graph-persistence"])
def test_neither_the_unit_of_the_weights_nor_the_order_of_neurons_matters(name):
    reg = topoloss.regulariser(name)
    weights = {"a": randn(5, 7), "b": randn(3, 5, seed=1)}
    expected = reg.of_layers(weights).item()
    scaled = {layer: -1e-30 * w for layer, w in weights.items()}
    assert reg.of_layers(scaled).item() == pytest.approx(expected, rel=1e-12)
    order = torch.tensor([4, 2, 0, 1, 3])
    moved = {"a": weights["a"][order], "b": weights["b"][:, order]}
    assert reg.of_layers(moved).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["neural-persistence", "deep-graph-persistence"])
def test_the_unit_may_be_as_large_or_small_as_the_numbers_allow(name, dtype):
    """Of deep graph persistence that of each layer, of neural persistence that of all."""
    reg = topoloss.regulariser(name)
    weights = {"a": randn(5, 7).to(dtype), "b": randn(3, 5, seed=1).to(dtype)}
    expected = reg.of_layers(weights).item()
    largest = max(w.abs().max() for w in weights.values())
    # Subnormal numbers have some digits only.
    digits = 200 * torch.finfo(dtype).eps
    for unit in (0.99 * torch.finfo(dtype).max / largest, torch.finfo(dtype).tiny / 64):
        scaled = {layer: unit * w for layer, w in weights.items()}
        assert reg.of_layers(scaled).item() == pytest.approx(expected, rel=digits)


def test_deep_graph_persistence_ignores_shift_and_scale_of_a_layer():
    weights = {"a": randn(5, 7), "b": randn(3, 5, seed=1)}
    expected = deep_graph_persistence(weights).item()
    moved = {"a": 3 * weights["a"] - 1, "b": 5 - weights["b"]}
    assert deep_graph_persistence(moved).item() == pytest.approx(expected, rel=1e-12)


# Gradients


@pytest.mark.parametrize(
    "make",
    [
        lambda a, b: torch.stack(list(neural_persistence({"a": a, "b": b}, p=3).values())),
        lambda a, b: torch.stack(list(neural_persistence({"a": a, "b": b}, p=1.5).values())),
        lambda a, b: deep_graph_persistence({"a": a, "b": b}),
        lambda a, b: deep_graph_persistence({"a": a, "b": b}, rescale=True, essential=True),
    ],
    ids=["neural", "below-2", "deep", "rescaled"],
)
def test_gradients_are_those_of_finite_differences(make):
    weights = [randn(4, 3).requires_grad_(), randn(2, 4, seed=1).requires_grad_()]
    assert torch.autograd.gradcheck(make, weights)
    assert torch.autograd.gradgradcheck(make, weights)


@pytest.mark.parametrize("name", ["neural-persistence", "deep-graph-persistence"])
def test_an_ensemble_is_valued_by_vmap_and_grad(name):
    reg = topoloss.regulariser(name)
    ensemble = {"a": randn(3, 5, 4), "b": randn(3, 2, 5, seed=1)}
    models = [{layer: w[k].requires_grad_() for layer, w in ensemble.items()} for k in range(3)]
    values = torch.stack([reg(model) for model in models])
    torch.testing.assert_close(torch.vmap(reg)(ensemble), values)
    found = torch.vmap(torch.func.grad(reg))(ensemble)
    for layer in ensemble:
        expected = [torch.autograd.grad(reg(model), model[layer])[0] for model in models]
        torch.testing.assert_close(found[layer], torch.stack(expected))
    ensemble["b"][1, 0, 0] = torch.nan
    with pytest.raises(topoloss.NonFiniteError, match="'b'"):
        torch.vmap(reg)(ensemble)


def test_constant_layers_have_a_value_and_no_gradient():
    """A layer of equal weights has no std: no path through it has any strength."""
    constant = torch.full((2, 4), 0.1, requires_grad=True)
    value = deep_graph_persistence({"a": randn(4, 3).float(), "b": constant})
    assert value.item() == 1
    value.backward()
    assert (constant.grad == 0).all()
    assert neural_persistence({"a": torch.zeros(2, 3)})["a"].item() == 1
    assert deep_graph_persistence({"a": torch.zeros(2, 3)}).item() == 1


# Convolutions


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(2, 3, 3, padding=1, stride=2), (2, 7)),
        (nn.Conv2d(2, 3, (2, 3), padding=(1, 0), dilation=(1, 2)), (2, 5, 6)),
        (nn.Conv2d(4, 6, 2, groups=2, bias=False), (4, 3, 3)),
        (nn.ConvTranspose2d(3, 2, 3, stride=2), (3, 2, 3)),
        (nn.Conv3d(1, 2, 2), (1, 3, 3, 2)),
        (nn.AvgPool2d(2), (2, 4, 4)),
        (nn.Linear(4, 3), (4,)),
    ],
    ids=["1d", "2d", "grouped", "transposed", "3d", "pooling", "linear"],
)
def test_the_unrolled_matrix_is_the_layer(layer, shape):
    x = torch.randn(5, *shape)
    received = x.flatten(1) @ unrolled(layer, shape).T + layer(0 * x).flatten(1)
    torch.testing.assert_close(received, layer(x).flatten(1))


def test_a_kernel_has_the_gradient_of_all_places_that_it_takes_in_the_unrolled_matrix():
    """A kernel of 2 by 2 lies at 3 by 3 places of an image of 4 by 4."""
    layer = nn.Conv2d(1, 2, 2)
    unrolled(layer, (1, 4, 4)).sum().backward()
    torch.testing.assert_close(layer.weight.grad, torch.full((2, 1, 2, 2), 9.0))
    assert layer.bias.grad is None or not layer.bias.grad.any()


def test_a_patch_is_the_unrolled_layer_of_an_image_as_large_as_the_kernel():
    layer = nn.Conv2d(3, 4, 2)
    patch = neural_persistence({"c": layer.weight}, convolution="patch")
    whole = neural_persistence({"c": unrolled(layer, (3, 2, 2))})
    torch.testing.assert_close(patch, whole)
    reg = topoloss.regulariser("neural-persistence[convolution=patch]")
    torch.testing.assert_close(reg.of_layers({"c": layer.weight}), whole["c"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [nn.Conv2d, nn.ConvTranspose2d])
def test_the_unrolled_matrix_in_half_precision_holds_the_weights(make, dtype):
    torch.manual_seed(0)
    layer = make(16, 8, 3).to(dtype)
    matrix = unrolled(layer, (16, 6, 6))
    assert matrix.dtype == dtype
    assert set(matrix.unique().tolist()) == {0.0, *layer.weight.unique().tolist()}
    torch.testing.assert_close(matrix, unrolled(copy.deepcopy(layer).float(), (16, 6, 6)).to(dtype))
    matrix.sum().backward()
    assert layer.weight.grad.dtype == dtype


def test_the_unrolled_matrix_is_the_same_under_autocast():
    torch.manual_seed(0)
    layer = nn.Conv2d(16, 8, 3)
    expected = unrolled(layer, (16, 6, 6))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(unrolled(layer, (16, 6, 6)), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_layer_that_is_not_linear_has_no_matrix(dtype):
    layer = nn.Sequential(nn.Conv2d(1, 1, 2), nn.ReLU()).to(dtype)
    with pytest.raises(topoloss.InputError, match="Sequential is not linear"):
        unrolled(layer, (1, 4, 4))


@pytest.mark.parametrize("bias", [1e5, 1e8, 1e20])
def test_a_large_bias_takes_no_digits_from_the_unrolled_matrix(bias):
    layer = nn.Conv1d(1, 2, 2)
    with torch.no_grad():
        layer.weight /= 1000
    nn.init.constant_(layer.bias, bias)
    without = copy.deepcopy(layer)
    without.bias = None
    found, expected = unrolled(layer, (1, 4)), unrolled(without, (1, 4))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_an_activation_is_seen_beside_a_large_bias():
    layer = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    nn.init.constant_(layer[2].bias, 1e6)
    with pytest.raises(topoloss.InputError, match="Sequential is not linear"):
        unrolled(layer, (4,))


@pytest.mark.filterwarnings("ignore:.*jit.script:DeprecationWarning")
def test_a_scripted_layer_has_the_matrix_of_its_original():
    layer = nn.Conv1d(1, 2, 2)
    torch.testing.assert_close(unrolled(torch.jit.script(layer), (1, 4)), unrolled(layer, (1, 4)))


@pytest.mark.parametrize("name", ["neural-persistence", "deep-graph-persistence"])
def test_a_convolution_is_an_error_that_names_it(name):
    reg = topoloss.regulariser(name)
    with pytest.raises(topoloss.InputError, match=r"layer 'conv' .*\(4, 3, 2, 2\).*unrolled"):
        reg.of_layers({"conv": torch.ones(4, 3, 2, 2)})


# Models, and what is refused


class Skips(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.block, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        h = F.relu(self.stem(x))
        return self.head(h + F.relu(self.block(h)))


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("neural-persistence", lambda w: torch.stack(list(neural_persistence(w).values())).mean()),
        ("deep-graph-persistence", deep_graph_persistence),
    ],
)
def test_attached_it_values_the_weights_of_the_layers(name, function):
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    penalty = topoloss.attach(model, name)
    model(torch.randn(5, 4))
    value = penalty()
    torch.testing.assert_close(value, function({"0": model[0].weight, "2": model[2].weight}))
    value.backward()
    assert model[0].weight.grad.abs().max() > 0


def test_a_skip_connection_is_an_error_that_names_the_layer():
    model = Skips()
    penalty = topoloss.attach(model, "deep-graph-persistence")
    model(torch.randn(5, 4))
    with pytest.raises(topoloss.AttachmentError, match="'head' is fed by"):
        penalty()


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ({}, topoloss.InputError, "no layer"),
        ({"a": torch.ones(3)}, topoloss.InputError, r"layer 'a' .*\(3,\)"),
        ({"a": torch.ones(3, 0)}, topoloss.InputError, r"layer 'a' .*\(3, 0\)"),
        ({"a": torch.ones(3, 2, dtype=torch.int64)}, topoloss.InputError, "torch.int64"),
        ({"a": torch.eye(3).to_sparse()}, topoloss.InputError, "'a' .*torch.sparse_coo.*a dense"),
        (
            {"a": torch.empty(3, 3, device="meta")},
            topoloss.InputError,
            r"no values \(meta\) for 'a'",
        ),
        ({"a": torch.tensor([[1.0, torch.nan]])}, topoloss.NonFiniteError, r"\['a'\]"),
        ({"a": torch.tensor([[1.0, torch.inf]])}, topoloss.NonFiniteError, r"\['a'\]"),
    ],
)
@pytest.mark.parametrize("name", ["neural-persistence", "deep-graph-persistence"])
def test_what_is_no_weight_is_refused(name, weights, error, message):
    with pytest.raises(error, match=message):
        topoloss.regulariser(name).of_layers(weights)


def test_a_remedy_for_convolutions_is_one_that_works():
    """deep-graph-persistence has no convolution='patch'."""
    weights = {"conv": torch.ones(2, 1, 3, 3)}
    for name, takes_patches in (("neural-persistence", True), ("deep-graph-persistence", False)):
        with pytest.raises(topoloss.InputError, match="layers=") as error:
            topoloss.regulariser(name).of_layers(weights)
        assert ("convolution='patch'" in str(error.value)) is takes_patches


@pytest.mark.parametrize("function", [neural_persistence, deep_graph_persistence])
def test_a_weight_without_values_is_refused(function):
    with pytest.raises(topoloss.InputError, match=r"layer 'a' has .*\(meta\); expected a dense"):
        function({"a": torch.empty(3, 3, device="meta")})


@pytest.mark.parametrize(
    "use",
    [
        lambda w: neural_persistence([w]),
        lambda w: deep_graph_persistence(nn.Linear(3, 3)),
        lambda w: neural_persistence({"a": "w"}),
        lambda w: unrolled(nn.Conv2d(1, 2, 3), 5),
        lambda w: unrolled(nn.Conv2d(1, 2, 3), (1, 2, 2)),
        lambda w: unrolled(w, (3,)),
        lambda w: unrolled(nn.LSTM(3, 3), (4, 3)),
    ],
)
def test_wrong_uses_are_errors_of_the_library(use):
    with pytest.raises(topoloss.InputError, match="expected"):
        use(torch.ones(3, 3))


@pytest.mark.parametrize(
    ("function", "options"),
    [
        (neural_persistence, {"convolution": "ptach"}),
        (neural_persistence, {"normalised": "no"}),
        (neural_persistence, {"essential": None}),
        (deep_graph_persistence, {"normalised": 1}),
        (deep_graph_persistence, {"essential": "yes"}),
        (deep_graph_persistence, {"rescale": None}),
    ],
)
def test_the_functions_refuse_the_options_that_the_regularisers_refuse(function, options):
    ((option, _),) = options.items()
    with pytest.raises(topoloss.OptionError, match=f"{option}="):
        function({"a": randn(3, 4)}, **options)


def test_layers_that_do_not_follow_one_another_are_named():
    weights = {"a": torch.ones(3, 2), "b": torch.ones(2, 4)}
    with pytest.raises(topoloss.InputError, match="layer 'b' has 4 inputs and follows layer 'a'"):
        deep_graph_persistence(weights)


@pytest.mark.parametrize("p", [0.5, float("nan"), "2"])
def test_a_norm_has_an_order_of_at_least_1(p):
    with pytest.raises(topoloss.OptionError, match="p="):
        topoloss.regulariser("neural-persistence", p=p)


@parametrize_with_checks(
    "regulariser",
    "neural-persistence[p=1,essential=true]",
    "neural-persistence[normalised=false]",
    "deep-graph-persistence[rescale=true,p=3]",
)
def test_options_conform(check):
    check()
