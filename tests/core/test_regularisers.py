"""The module around a regulariser: batches, layers, stages, copies."""

import copy
import pickle

import numpy as np
import pytest
import torch
from inputs import (
    ON_ACTIVATIONS,
    ON_PARAMETERS,
    of_correlations,
    on_activations,
    on_one_layer,
    on_parameters,
    with_bad,
    x_of,
)
from offers import SHIPPED
from topoloss_plugins.decov import DeCov

import topoloss

# Batches, lists, precision


@on_activations
def test_the_shape_of_the_value_follows_that_of_the_input(name):
    reg = topoloss.regulariser(name)
    assert reg(x_of(6, 5)).shape == ()
    assert reg(x_of(1, 6, 5)).shape == (1,)
    assert reg(x_of(3, 6, 5)).shape == (3,)
    assert reg([x_of(6, 5), x_of(4, 3)]).shape == (2,)
    assert reg((x_of(6, 5),)).shape == (1,)


@on_activations
def test_a_sequence_has_the_values_and_gradients_of_its_elements(name):
    shapes = [(6, 5), (4, 3), (6, 5), (6, 4), (4, 3), (6, 5)]
    given = [x_of(*shape, seed=k).requires_grad_() for k, shape in enumerate(shapes)]
    reg = topoloss.regulariser(name)
    each = torch.stack([reg(x) for x in given])
    values = reg([*given, given[0].double()])
    torch.testing.assert_close(values[:-1].float(), each)
    weights = torch.arange(1.0, len(shapes) + 1)
    expected = torch.autograd.grad(each @ weights, given)
    torch.testing.assert_close(torch.autograd.grad(values[:-1].float() @ weights, given), expected)


def test_elements_of_a_sequence_that_have_one_shape_are_valued_together():
    class Counting(topoloss.Regulariser):
        calls = 0

        def compute(self, x):
            self.calls += 1
            return x.sum()

    reg = Counting()
    given = [torch.full((2, n), k + 1.0) for k, n in enumerate([3, 5, 3, 4, 5, 3])]
    assert reg(given).tolist() == [6, 20, 18, 32, 50, 36]
    assert reg.calls == 3


@on_activations
def test_autocast_does_not_lower_the_precision(name):
    x = x_of(64, 20).requires_grad_()
    reg = topoloss.regulariser(name)
    expected = reg(x)
    (gradient,) = torch.autograd.grad(expected, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (x.T @ x).dtype == torch.bfloat16
        value = reg(x)
    (under_autocast,) = torch.autograd.grad(value, x)
    assert value.dtype == torch.float32
    assert torch.equal(value, expected)
    assert torch.equal(under_autocast, gradient)


class Rotated(topoloss.Filtration):
    """Distances after a matrix product, which autocast would run in bfloat16."""

    def vertices(self, x):
        return x.T @ torch.linalg.qr(x_of(len(x), len(x)))[0]

    def edge_values(self, v, i, j):
        return (v[i] - v[j]).norm(dim=-1)


def test_autocast_does_not_reach_the_filtration():
    x, reg = x_of(8, 6), topoloss.pipeline(Rotated())
    expected, deaths = reg(x), reg.diagrams(x)[0].deaths
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(reg(x), expected)
        assert torch.equal(reg.diagrams(x)[0].deaths, deaths)


@on_one_layer
def test_activations_made_under_autocast_are_valued_in_float32(name):
    layer = torch.nn.Linear(3, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        activations = layer(x_of(32, 3))
        assert activations.dtype == torch.bfloat16
        value = topoloss.regulariser(name)(activations)
    assert torch.equal(value, topoloss.regulariser(name)(activations.float()))
    value.backward()
    assert layer.weight.grad.abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_vertices_of_a_custom_filtration_are_promoted(dtype):
    class Manhattan(topoloss.Filtration):
        def vertices(self, x):
            return x.T

        def edge_values(self, v, i, j):
            return (v[i] - v[j]).abs().sum(-1)

    # 1 + 2^-12 needs more bits than either half-precision format has.
    x = torch.tensor([[0.0, 1.0], [0.0, 2**-12]], dtype=dtype)
    (d,) = topoloss.pipeline(Manhattan()).diagrams(x)
    assert d.deaths.tolist() == [1 + 2**-12]


# Weights, and layers by name


class Chain(topoloss.Regulariser):
    """The size of the product of all weights, in their order."""

    source = "weights"
    structure = "chain"

    def compute(self, weights):
        return torch.linalg.multi_dot(list(weights.values())[::-1]).square().sum()


def test_a_regulariser_of_weights_is_given_them_by_layer():
    weights = {"first": x_of(4, 3, dtype=torch.float64), "second": x_of(2, 4, dtype=torch.float64)}
    expected = (weights["second"] @ weights["first"]).square().sum()
    torch.testing.assert_close(Chain()(weights), expected)
    torch.testing.assert_close(Chain().of_layers(weights), expected)


def test_autocast_does_not_reach_a_regulariser_of_weights():
    weights = {"first": x_of(4, 3), "second": x_of(2, 4)}
    expected = Chain()(weights)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(Chain()(weights), expected)


@of_correlations
def test_layers_are_joined_side_by_side(name):
    reg, layers = topoloss.regulariser(name), {"a": x_of(6, 5), "b": x_of(6, 2, seed=1)}
    assert torch.equal(reg.of_layers(layers), reg(torch.cat((layers["a"], layers["b"]), 1)))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"a": x_of(6, 5), "b": x_of(4, 5)}, r"'a': \(6, 5\), 'b': \(4, 5\).*same number"),
        ({"a": x_of(6, 5), "b": x_of(6, 5, 2)}, r"'b': \(6, 5, 2\).*\(samples, neurons\)"),
        ({"a": torch.ones(())}, r"'a': \(\)"),
        ({}, "without layers"),
    ],
    ids=["samples", "axes", "no axes", "none"],
)
def test_layers_that_do_not_fit_together_are_named_with_their_shapes(layers, message):
    with pytest.raises(topoloss.InputError, match=message):
        topoloss.regulariser("t1").of_layers(layers)


def test_what_needs_labels_refuses_layers_also_where_it_joins_them_in_its_own_way():
    class OfClasses(DeCov):
        labels = True

    with pytest.raises(topoloss.InputError, match="OfClasses takes a list of one tensor"):
        OfClasses().of_layers({"a": x_of(6, 5)})


def test_a_subclass_may_join_layers_in_its_own_way():
    class Difference(topoloss.Regulariser):
        def of_layers(self, layers):
            first, second = layers.values()
            return (first.mean() - second.mean()).square()

    layers = {"a": torch.full((6, 5), 3.0), "b": torch.full((4, 2), 1.0)}
    assert Difference().of_layers(layers).item() == 4


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"source": "weight"}, r"New\.source='weight'.*Did you mean 'weights'"),
        ({"source": "model"}, "'activations', 'weights', 'parameters'"),
        ({"structure": "tree"}, r"New\.structure='tree' is not one of 'chain'"),
    ],
)
def test_what_a_class_declares_is_checked(declared, message):
    with pytest.raises(topoloss.OptionError, match=message):
        type("New", (topoloss.Regulariser,), declared)


# Stages


def test_one_sample_is_enough_where_nothing_is_centred():
    x = torch.tensor([[0.0, 1.0, 5.0]])
    assert topoloss.pipeline("euclidean")(x).item() == -5
    assert topoloss.pipeline("cosine")(x).item() == -1  # 0 is orthogonal to both, 1 and 5 are equal


def test_vertices_of_a_wrong_shape_are_an_error():
    class Transposed(topoloss.Filtration):
        def vertices(self, x):
            return x

    with pytest.raises(topoloss.InputError, match=r"Transposed.vertices returned shape \(6, 5\)"):
        topoloss.pipeline(Transposed())(x_of(6, 5))


@pytest.mark.parametrize(
    ("base", "method"),
    [
        (topoloss.Filtration, lambda c: c.vertices(x_of(3, 2))),
        (topoloss.Filtration, lambda c: c.edge_values(x_of(2, 3), *torch.tensor([[0], [1]]))),
        (topoloss.Persistence, lambda c: c.from_matrix(torch.zeros(2, 2))),
        (topoloss.Loss, lambda c: c([])),
        (topoloss.Regulariser, lambda c: c(x_of(3, 2))),
    ],
)
def test_a_method_that_a_subclass_forgot_is_named(base, method):
    class Unfinished(base):
        pass

    with pytest.raises(NotImplementedError, match="Unfinished must implement"):
        method(Unfinished())


@pytest.mark.parametrize("stage", ["vertices", "edge_values", "loss"])
def test_a_stage_that_detaches_is_an_error(stage):
    class Detached(topoloss.Filtration):
        def vertices(self, x):
            return x.T.detach() if stage == "vertices" else x.T

        def edge_values(self, v, i, j):
            v = v.detach() if stage == "edge_values" else v
            return (v[i] - v[j]).abs().sum(-1)

    class Sum(topoloss.Loss):
        def forward(self, diagrams):
            value = diagrams[0].deaths.sum()
            return value.detach() if stage == "loss" else value

    reg = topoloss.pipeline(Detached(), "mst", Sum())
    x = torch.tensor([[0.0, 1.0, 5.0]])
    assert reg(x).item() == 5
    with torch.no_grad():
        assert reg(x.requires_grad_()).item() == 5
    with pytest.raises(topoloss.TopolossError, match="Detached -> MinimumSpanningTree -> Sum has"):
        reg(x)


# As a module


def copies(module):
    return [copy.deepcopy(module), pickle.loads(pickle.dumps(module))]


@on_activations
@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"check_finite": False}, {"on_nonfinite": "skip"}], ids=str
)
def test_copies_work_as_the_original(name, used, options):
    reg, x = topoloss.regulariser(name, **options), x_of(6, 5).requires_grad_()
    if used:
        reg(x).backward()
    for other in copies(reg):
        assert torch.equal(other(x), reg(x))
        assert repr(other) == repr(reg)


def test_copies_keep_options():
    correlation = topoloss.filtration("correlation", constant="drop")
    mst = topoloss.persistence("mst", backend="reference")
    reg = topoloss.regulariser("t2", alpha=0.3, filtration=correlation, persistence=mst)
    x = torch.cat((x_of(6, 5), torch.ones(6, 2)), 1)
    for other in copies(reg):
        assert torch.equal(other(x), reg(x))
        assert other.persistence.backend == "reference"
        assert other.filtration.constant == "drop"


@on_parameters
def test_copies_of_norms_work(name):
    parameters = dict(torch.nn.Linear(3, 2).named_parameters())
    reg = topoloss.regulariser(name)
    for other in copies(reg):
        assert torch.equal(other(parameters), reg(parameters))


@pytest.mark.parametrize("name", [*ON_ACTIVATIONS, *ON_PARAMETERS])
def test_a_regulariser_adds_nothing_to_a_checkpoint(name):
    reg = topoloss.regulariser(name)
    if name in ON_ACTIVATIONS:
        reg(x_of(6, 5))
    assert reg.state_dict() == {}
    assert list(reg.parameters()) == []
    reg.load_state_dict({})


def test_a_parameter_of_a_custom_filtration_is_part_of_the_module():
    class Scaled(topoloss.Filtration):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(2.0))

        def vertices(self, x):
            return x.T

        def edge_values(self, v, i, j):
            return self.scale * (v[i] - v[j]).abs().sum(-1)

    reg = topoloss.pipeline(Scaled())
    assert list(reg.state_dict()) == ["filtration.scale"]
    reg(torch.tensor([[0.0, 1.0, 5.0]])).backward()
    assert reg.filtration.scale.grad.item() == -5


@pytest.mark.parametrize("name", [*ON_ACTIVATIONS, "t1 batch", "t1 diagrams"])
def test_the_random_state_and_the_input_are_left_as_found(name):
    shape = (3, 6, 5) if name == "t1 batch" else (6, 5)
    x = x_of(*shape)
    x[..., 1] = 0.1
    before, version = x.clone(), x._version
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    reg = topoloss.regulariser(name.split()[0])
    (reg.diagrams if name == "t1 diagrams" else reg)(x.requires_grad_())
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert torch.equal(x, before)
    assert x._version == version


@on_activations
def test_two_forwards_before_a_backward_do_not_interfere(name):
    reg = topoloss.regulariser(name)
    a, b = x_of(6, 5).requires_grad_(), x_of(6, 5, seed=1).requires_grad_()
    values = reg(a), reg(b)
    for value, x in zip(values, (a, b), strict=True):
        (expected,) = torch.autograd.grad(topoloss.regulariser(name)(x), x)
        (actual,) = torch.autograd.grad(value, x)
        assert torch.equal(actual, expected)


@on_activations
@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_module_does_not_matter(name, training):
    reg, x = topoloss.regulariser(name), x_of(6, 5)
    assert torch.equal(reg.train(training)(x), topoloss.regulariser(name)(x))
    assert reg.training is training


def test_inference_and_no_grad_give_plain_values():
    reg, x = topoloss.regulariser("t1"), x_of(6, 5).requires_grad_()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            value = reg(x)
        assert not value.requires_grad
        assert torch.equal(value, reg(x).detach())


def test_moving_to_a_dtype_keeps_the_count_an_integer():
    reg = topoloss.regulariser("t1", on_nonfinite="skip").double().half()
    reg(with_bad(torch.nan, (0, 0)))
    assert reg.skipped.dtype == torch.int64


@pytest.mark.parametrize(
    "name", [name for name in SHIPPED["regulariser"] if name != "densification"]
)
@pytest.mark.parametrize("layers", [[torch.ones(3, 2)] * 2, torch.ones(3, 2), None, {"a": 1}])
def test_layers_that_are_no_mapping_to_tensors_are_refused(name, layers):
    with pytest.raises(topoloss.InputError, match="a mapping from"):
        topoloss.regulariser(name).of_layers(layers)


@on_activations
def test_layers_that_are_no_matrices_are_refused_with_their_shapes(name):
    layers = {"a": x_of(6, 5), "b": x_of(2, 6, 5)}
    with pytest.raises(topoloss.InputError, match=r"'b': \(2, 6, 5\).*\(samples, neurons\)"):
        topoloss.regulariser(name).of_layers(layers)


def test_a_pipeline_is_named_by_its_stages_in_errors():
    pipeline = topoloss.regulariser("svr[sigma=none]/mst/t2")
    with pytest.raises(
        topoloss.InputError,
        match=r"pipeline SpectralFiltration -> MinimumSpanningTree -> T2 takes .* a list of 1,",
    ):
        pipeline.of_layers([torch.ones(2, 2)])


def test_a_matrix_of_all_values_that_does_not_fit_tells_its_size():
    class NoSpace(topoloss.Filtration):
        def vertices(self, x):
            return x.T

        def edge_values(self, v, i, j):
            return (v[i] - v[j]).abs().sum(1)

        def pairwise(self, v):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    # 2^15 x 2^15 numbers of four bytes.
    with pytest.raises(topoloss.TooLargeError, match=r"32768 x 32768 values.*, 4\.0 GiB"):
        topoloss.pipeline(NoSpace(), "mst")(torch.zeros(2, 1 << 15))
