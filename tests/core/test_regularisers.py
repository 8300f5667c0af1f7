"""The module around a regulariser: bad input, non-finite input, batches, diagrams, copies."""

import copy
import pickle

import numpy as np
import oracles
import pytest
import torch

import topoloss

ON_ACTIVATIONS = ("t1", "t2", "naive")
ON_PARAMETERS = ("l1", "l2", "none")


def x_of(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def with_bad(value, *where, shape=(6, 5)):
    x = x_of(*shape)
    for index in where:
        x[index] = value
    return x


on_activations = pytest.mark.parametrize("name", ON_ACTIVATIONS)
on_parameters = pytest.mark.parametrize("name", ON_PARAMETERS)


# Bad input

BAD = {
    "number": (3.0, "3.0 of type float.*expected a floating-point tensor"),
    "array": (np.ones((4, 3)), r"of type ndarray and shape \(4, 3\)"),
    "sparse": (torch.eye(4).to_sparse(), "sparse_coo tensor was given.*to_dense"),
    "None": (None, "of type NoneType"),
    "vector": (torch.ones(4), r"shape \(4,\).*\(samples, neurons\)"),
    "scalar": (torch.ones(()), r"shape \(\)"),
    "images": (torch.ones(4, 3, 2, 2), r"shape \(4, 3, 2, 2\).*x.flatten\(1\)"),
    "integers": (torch.ones(4, 3, dtype=torch.int64), r"dtype torch.int64.*x.float\(\)"),
    "booleans": (torch.ones(4, 3, dtype=torch.bool), "dtype torch.bool"),
    "complex": (torch.ones(4, 3, dtype=torch.complex64), r"dtype torch.complex64.*x.abs\(\)"),
    "no neurons": (torch.ones(4, 0), r"shape \(4, 0\).*with no neurons"),
    "no samples": (torch.ones(0, 4), "with no samples"),
    "no batch": (torch.ones(0, 4, 3), "with no batch"),
    "no neurons in a batch": (torch.ones(2, 4, 0), "with no neurons"),
    "one sample": (torch.ones(1, 4), r"one sample.*at least 2.*drop_last=True"),
    "one sample in a batch": (torch.ones(2, 1, 4), "one sample"),
    "empty list": ([], "empty sequence"),
    "list of numbers": ([1.0, 2.0], "1.0 of type float"),
    "list with a vector": ([torch.ones(4, 3), torch.ones(4)], r"shape \(4,\)"),
    "list with a batch": ([x_of(4, 3), x_of(2, 4, 3)], r"\(2, 4, 3\)"),
    "model": (torch.nn.Linear(2, 2), "a module of type Linear"),
    "layers": ({"a": torch.ones(4, 3)}, "of type dict.*For layers by name use of_layers"),
}


@on_activations
@pytest.mark.parametrize("case", BAD)
def test_bad_activations_say_what_was_given_and_what_was_expected(name, case):
    given, message = BAD[case]
    with pytest.raises(topoloss.InputError, match=f"(?s){message}"):
        topoloss.regulariser(name)(given)


@pytest.mark.parametrize("case", [c for c in BAD if c not in ("empty list", "list with a batch")])
def test_diagrams_refuse_what_forward_refuses(case):
    given, message = BAD[case]
    with pytest.raises(topoloss.InputError, match=f"(?s){message}"):
        topoloss.regulariser("t1").diagrams(given)


def test_one_sample_is_enough_where_nothing_is_centred():
    x = torch.tensor([[0.0, 1.0, 5.0]])
    assert topoloss.pipeline("euclidean")(x).item() == -5
    assert topoloss.pipeline("cosine")(x).item() == -1  # 0 is orthogonal to both, 1 and 5 are equal


@on_parameters
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (x_of(6, 5), r"takes parameters and was given a tensor of shape \(6, 5\); pass a mapping"),
        (
            torch.nn.Linear(2, 2),
            r"of type Linear; pass .*dict\(model.named_parameters\(\)\)",
        ),
        ({"w": 3.0}, "3.0 of type float for 'w'"),
    ],
    ids=["activations", "model", "numbers"],
)
def test_a_regulariser_of_parameters_refuses_what_is_no_mapping_of_tensors(name, given, message):
    with pytest.raises(topoloss.InputError, match=message):
        topoloss.regulariser(name)(given)


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


# Non-finite input


@on_activations
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (with_bad(torch.nan, (0, 1), (3, 1), (2, 4)), r"2 of 5 neurons .*\(2 hold NaN\)"),
        (with_bad(torch.inf, (0, 0)), r"1 of 5 neurons .*\(0 hold NaN\)"),
        (with_bad(-torch.inf, (0, 0), (1, 2)), "2 of 5 neurons"),
        (torch.full((6, 5), torch.nan), "5 of 5 neurons"),
        (with_bad(torch.nan, (1, 0, 3), shape=(2, 6, 5)), "1 of 10 neurons"),
        (with_bad(torch.inf, (0, 0)).half(), "1 of 5 neurons"),
    ],
    ids=["nan", "inf", "-inf", "all", "batch", "half"],
)
def test_what_is_not_finite_is_counted(name, x, message):
    for on_request in (None, True):
        with pytest.raises(topoloss.NonFiniteError, match=message):
            topoloss.regulariser(name, check_finite=on_request)(x)


def test_opposite_infinities_do_not_cancel():
    x = with_bad(torch.inf, (0, 0))
    x[1, 0] = -torch.inf
    with pytest.raises(topoloss.NonFiniteError, match="1 of 5"):
        topoloss.regulariser("t1")(x)


@on_activations
def test_a_sum_that_overflows_is_finite_all_the_same(name):
    x = x_of(6, 5)
    huge = x / x.abs().max() * 3e38
    torch.testing.assert_close(topoloss.regulariser(name)(huge), topoloss.regulariser(name)(x))


@on_activations
def test_a_deferred_check_raises_at_the_next_call_and_once(name):
    reg, good = topoloss.regulariser(name, check_finite=False), x_of(6, 5)
    expected = topoloss.regulariser(name)(good)
    assert torch.equal(reg(good), expected)
    if name == "naive":
        assert torch.isnan(reg(with_bad(torch.nan, (0, 1), (0, 2))))
    else:
        # There is no tree of what is not a number, and no engine starts on it.
        with pytest.raises(topoloss.TopolossError, match="NaN or infinity"):
            reg(with_bad(torch.nan, (0, 1), (0, 2)))
    with pytest.raises(topoloss.NonFiniteError, match=r"2 neurons .* the call before"):
        reg(good)
    assert torch.equal(reg(good), expected)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda reg: pickle.loads(pickle.dumps(reg))])
def test_a_deferred_check_outlives_a_copy(copied):
    reg = topoloss.regulariser("naive", check_finite=False)
    reg(with_bad(torch.nan, (0, 1)))
    with pytest.raises(topoloss.NonFiniteError, match="1 neurons"):
        copied(reg)(x_of(6, 5))


@on_activations
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_skipping_gives_zero_with_zero_gradient_and_counts(name, bad):
    reg = topoloss.regulariser(name, on_nonfinite="skip")
    x = with_bad(bad, (0, 1)).requires_grad_()
    value = reg(x)
    assert value.item() == 0
    value.backward()
    assert (x.grad == 0).all()
    assert reg.skipped.item() == 1
    reg(x)
    assert reg.skipped.item() == 2


@on_activations
def test_skipping_leaves_the_other_problems_of_a_batch_alone(name):
    reg, plain = topoloss.regulariser(name, on_nonfinite="skip"), topoloss.regulariser(name)
    batch = with_bad(torch.nan, (1, 0, 3), shape=(3, 6, 5)).requires_grad_()
    values = reg(batch)
    values.sum().backward()
    assert values[1].item() == 0
    assert (batch.grad[1] == 0).all()
    assert reg.skipped.item() == 1
    for k in (0, 2):
        good = batch[k].detach().requires_grad_()
        plain(good).backward()
        torch.testing.assert_close(values[k], plain(good))
        torch.testing.assert_close(batch.grad[k], good.grad)


@on_activations
def test_skipping_in_a_list_counts_each_problem(name):
    reg = topoloss.regulariser(name, on_nonfinite="skip")
    values = reg([with_bad(torch.nan, (0, 0)), x_of(4, 3), with_bad(torch.inf, (0, 0))])
    assert (values == 0).tolist() == [True, False, True]
    assert reg.skipped.item() == 2


@on_activations
def test_skipping_changes_nothing_where_all_is_finite(name):
    reg, x = topoloss.regulariser(name, on_nonfinite="skip"), x_of(6, 5)
    assert torch.equal(reg(x), topoloss.regulariser(name)(x))
    assert reg.skipped.item() == 0


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


@on_activations
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


@on_activations
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


def test_a_subclass_may_join_layers_in_its_own_way():
    class Difference(topoloss.Regulariser):
        def of_layers(self, layers):
            first, second = layers.values()
            return (first.mean() - second.mean()).square()

    layers = {"a": torch.full((6, 5), 3.0), "b": torch.full((4, 2), 1.0)}
    assert Difference().of_layers(layers).item() == 4


def test_the_former_declaration_is_an_error_that_names_the_new_one():
    with pytest.raises(topoloss.PluginError, match=r"Old declares observes='model'.*source = 'act"):

        class Old(topoloss.Regulariser):
            observes = "model"


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


# Diagrams


@pytest.mark.parametrize("filtration", oracles.MATRICES)
def test_a_diagram_of_one_problem(filtration):
    x = x_of(8, 6, dtype=torch.float64).requires_grad_()
    reg = topoloss.pipeline(filtration)
    diagrams = reg.diagrams(x)
    assert len(diagrams) == 1
    (d,) = diagrams
    assert d.dimension == 0
    assert d.deaths.shape == d.births.shape == d.weights.shape == d.lifetimes.shape == (5,)
    assert d.birth_edges is None
    assert d.death_edges.shape == (5, 2)
    assert (d.births == 0).all()
    assert d.essential_births.tolist() == [0]
    expected = oracles.h0_deaths(oracles.MATRICES[filtration](x))
    np.testing.assert_allclose(d.to_numpy()[:, 1], expected, atol=1e-13)
    # Differentiable: minus the sum of deaths is T1, in value and in gradient.
    (from_diagram,) = torch.autograd.grad(-d.deaths.sum(), x)
    (from_value,) = torch.autograd.grad(reg(x), x)
    assert torch.equal(from_diagram, from_value)


def test_to_numpy_gives_rows_of_birth_and_death():
    x = torch.tensor([[5.0, 0.0, 1.0]], requires_grad=True)
    (d,) = topoloss.pipeline("euclidean").diagrams(x)
    assert d.to_numpy().tolist() == [[0, 1], [0, 4]]
    assert d.to_numpy(essential=True).tolist() == [[0, 1], [0, 4], [0, np.inf]]
    assert d.to_numpy().dtype == np.float32


def test_diagrams_of_a_batch_have_a_leading_axis():
    reg, x = topoloss.regulariser("t1"), x_of(3, 8, 6)
    (d,) = reg.diagrams(x)
    assert d.deaths.shape == d.births.shape == d.weights.shape == (3, 5)
    assert d.death_edges.shape == (3, 5, 2)
    assert d.essential_births.shape == (3, 1)
    assert d.birth_edges is None
    assert d.to_numpy().shape == (3, 5, 2)
    assert d.to_numpy(essential=True).shape == (3, 6, 2)
    for k, problem in enumerate(x):
        assert torch.equal(d.deaths[k], reg.diagrams(problem)[0].deaths)
        assert torch.equal(d.death_edges[k], reg.diagrams(problem)[0].death_edges)


def test_diagrams_of_a_list_are_a_list():
    problems = [x_of(8, 6), x_of(4, 3), x_of(4, 1)]
    listed = topoloss.regulariser("t1").diagrams(problems)
    assert [[len(d.deaths) for d in diagrams] for diagrams in listed] == [[5], [2], [0]]


def test_the_diagram_of_one_neuron_has_only_the_essential_class():
    (d,) = topoloss.regulariser("t1").diagrams(x_of(4, 1))
    assert d.deaths.shape == (0,)
    assert d.death_edges.shape == (0, 2)
    assert d.to_numpy(essential=True).tolist() == [[0, np.inf]]


class TwoDimensions(topoloss.Persistence):
    """A made-up engine: two classes of dimension 1 die, the later one first, and one lives on."""

    def from_matrix(self, values):
        return [
            topoloss.CriticalEdges(torch.tensor([[0, 1], [0, 2]])),
            topoloss.CriticalEdges(
                death_edges=torch.tensor([[0, 3], [0, 2]]),
                birth_edges=torch.tensor([[0, 1], [2, 3]]),
                essential_births=torch.tensor([[1, 2]]),
            ),
        ]


def test_births_and_essential_classes_of_higher_dimensions_are_valued_too():
    x = torch.tensor([[0.0, 1.0, 5.0, 7.0]], dtype=torch.float64, requires_grad=True)
    reg = topoloss.pipeline("euclidean", TwoDimensions(), "total-persistence")
    h0, h1 = reg.diagrams(x)
    assert h0.to_numpy().tolist() == [[0, 1], [0, 5]]
    assert h1.dimension == 1
    rows = [[2, 5], [1, 7], [4, np.inf]]
    assert h1.to_numpy(essential=True).tolist() == rows
    assert reg(x).item() == (1 + 5) + (5 - 2) + (7 - 1)
    assert torch.autograd.gradcheck(reg, x)
    batched = reg.diagrams(torch.stack((x, x)))[1]
    assert batched.to_numpy(essential=True).tolist() == [rows, rows]


def test_a_batch_whose_diagrams_differ_in_size_is_an_error():
    class LiveOnly(topoloss.Persistence):
        def from_matrix(self, values):
            # Points per problem differ, as with an engine that drops zero deaths.
            count = 1 + int(values[0, 1] > 2)
            return [topoloss.CriticalEdges(torch.tensor([[0, 1], [0, 2]])[:count])]

    reg = topoloss.pipeline("euclidean", LiveOnly())
    x = torch.tensor([[[0.0, 1.0, 5.0]], [[0.0, 3.0, 5.0]]])
    assert reg(x).tolist() == [-1, -8]
    with pytest.raises(topoloss.InputError, match="differing numbers of points"):
        reg.diagrams(x)


@pytest.mark.parametrize("name", ["naive", *ON_PARAMETERS])
def test_a_regulariser_without_diagrams_says_so(name):
    with pytest.raises(topoloss.TopolossError, match="has no persistence diagrams"):
        topoloss.regulariser(name).diagrams(x_of(6, 5))


def test_diagrams_refuse_what_is_not_finite():
    with pytest.raises(topoloss.NonFiniteError, match="1 of 5 neurons"):
        topoloss.regulariser("t1", on_nonfinite="skip").diagrams(with_bad(torch.nan, (0, 0)))


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
