"""Other people's models with the defaults, compared with plain hooks on a copy of each model."""

import contextlib
import copy
import re

import pytest
import torch
from zoo.by_hand import Hooks, t1, tensors
from zoo.models import LARGE, SWIN_BLOCKS, ZOO
from zoo.written import SAMPLES

import topoloss

MODELS = pytest.mark.parametrize("written", ZOO, ids=[written.name for written in ZOO])
MODES = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])


def build(written, training=True, dtype=torch.float64):
    """The model, and a copy to be looked at by plain hooks."""
    torch.manual_seed(0)
    model = written.build().to(dtype).train(training)
    twin = copy.deepcopy(model)
    return model, twin


def run(model, written, number, dtype=torch.float64):
    """A forward pass; passes with the same number have the same inputs and dropout."""
    torch.manual_seed(number)
    args, kwargs = written.inputs(dtype)
    return model(*args, **kwargs)


def warned(written):
    """Expect the one warning about a model's layers that are left out, if there are any."""
    if not written.left_out:
        return contextlib.nullcontext()
    names = "(.|\n)*".join(re.escape(name) for name in written.left_out)
    return pytest.warns(topoloss.AttachmentWarning, match=names)


def first_and_third_pass(written, training):
    """The attachment and the hooks after the first and after the third pass."""
    model, twin = build(written, training)
    hooks = Hooks(twin, written.layers)
    with topoloss.attach(model, "t1", **written.options) as penalty:
        for number in (1, 2, 3):
            run(model, written, number)
            run(twin, written, number)
            if number == 1:
                with warned(written):
                    penalty.activations()
            if number != 2:
                yield model, penalty, twin, hooks


def gradients(model, activations):
    """Of a weighted sum of all activations, with fixed random weights."""
    torch.manual_seed(0)
    weights = {name: torch.randn_like(x) for name, x in sorted(activations.items())}
    total = sum((weights[name] * x).sum() for name, x in activations.items())
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    # A model may keep what it computed from its parameters for the next pass.
    found = torch.autograd.grad(
        total, list(parameters.values()), retain_graph=True, allow_unused=True
    )
    return dict(zip(parameters, found, strict=True))


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if value is None:
            assert found[name] is None, name
        else:
            torch.testing.assert_close(
                found[name], value, msg=lambda text, name=name: f"{name}: {text}"
            )


@MODES
@MODELS
def test_the_layers_are_those_written_down(written, training):
    model, twin = build(written, training)
    hooks = Hooks(twin, written.layers)
    run(twin, written, 1)
    shapes = {name: tuple(x.shape[1:]) for name, x in hooks.layers().items()}
    assert shapes == {name: layer.shape for name, layer in written.layers.items()}
    with topoloss.observe(model, **written.options) as seen:
        run(model, written, 1)
        with warned(written):
            neurons = seen.neurons
        assert set(neurons) == set(written.layers)
        for name, shape in shapes.items():
            assert torch.equal(neurons[name], torch.arange(torch.Size(shape).numel())), name


@MODES
@MODELS
def test_activations_and_their_gradients_are_those_that_plain_hooks_see(written, training):
    for model, penalty, twin, hooks in first_and_third_pass(written, training):
        found, expected = penalty.activations(), hooks.activations()
        assert_same(found, expected)
        found_gradients = gradients(model, found)
        assert_same(found_gradients, gradients(twin, expected))
        assert any(g is not None and g.any() for g in found_gradients.values())


@MODES
@MODELS
def test_the_penalty_is_that_of_scipys_tree(written, training):
    for _, penalty, _, hooks in first_and_third_pass(written, training):
        assert penalty().item() == pytest.approx(t1(hooks.activations()), rel=1e-12)


@MODELS
def test_it_trains_with_the_defaults(written):
    train(written, torch.float32)


@pytest.mark.parametrize("written", [w for w in ZOO if w.low_precision], ids=lambda w: w.name)
def test_it_trains_in_bfloat16(written):
    train(written, torch.bfloat16)


def train(written, dtype):
    """Two steps; in each the layers are those of the copy, and the penalty changes weights."""
    model, twin = build(written, dtype=dtype)
    hooks = Hooks(twin, written.layers)
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    with topoloss.attach(model, "t1", **written.options) as penalty:
        for number in (1, 2):
            run(model, written, number, dtype)
            run(twin, written, number, dtype)
            with warned(written) if number == 1 else contextlib.nullcontext():
                value = penalty()
            assert value.isfinite()
            assert_same(penalty.activations(), hooks.activations())
            value.backward()
            found = [p.grad for p in model.parameters() if p.grad is not None]
            assert all(g.isfinite().all() for g in found)
            assert any(g.any() for g in found)
            optimiser.step()
            optimiser.zero_grad()
            twin.load_state_dict(model.state_dict())


@MODES
@MODELS
def test_a_model_is_left_as_it_was_found(written, training):
    model, twin = build(written, training)
    before = state(model)
    with topoloss.attach(model, "t1", **written.options) as penalty:
        out, expected = run(model, written, 1), run(twin, written, 1)
        assert_same_output(out, expected)
        with warned(written):
            penalty()
    assert state(model) == before == state(twin)
    assert_same(model.state_dict(), twin.state_dict())
    assert_same_output(run(model, written, 2), run(twin, written, 2))
    assert torch.equal(torch.get_rng_state(), state_after(twin, written, 2))


def state(model):
    """Every module's own attributes, and how many hooks it has."""
    return {
        name: {
            key: len(value) if key.endswith("_hooks") else None
            for key, value in vars(module).items()
        }
        for name, module in model.named_modules()
    }


def state_after(model, written, number):
    run(model, written, number)
    return torch.get_rng_state()


def assert_same_output(found, expected):
    for a, b in zip(tensors(found), tensors(expected), strict=True):
        assert torch.equal(a, b)


@MODELS
def test_a_description_holds_the_shape_and_the_size_of_every_layer(written):
    model, _ = build(written, training=False)
    torch.manual_seed(1)
    args, kwargs = written.inputs(torch.float64)
    with topoloss.attach(model, "t1", **written.options) as penalty:
        description = penalty.describe(*args, **kwargs)
    expected = {}
    for name, layer in written.layers.items():
        shape, size = list(layer.shape), torch.Size(layer.shape).numel()
        shape.insert(layer.sample_axis, SAMPLES)
        expected[name] = (tuple(shape), size, size)
    assert {name: tuple(rest) for name, *rest in description.rows} == expected


def test_windows_that_are_folded_into_the_samples_count_by_channel():
    """A Swin transformer's attention only reorders the rows that its projection puts out."""
    swin = next(written for written in ZOO if written.left_out)
    model, twin = build(swin, training=False)
    rows = {}
    for block in SWIN_BLOCKS:
        twin.get_submodule(f"{block}.attn").register_forward_hook(
            lambda module, args, output, name=f"{block}.attn.proj": rows.update(
                {name: output.flatten(0, 2).clone()}
            )
        )
    with topoloss.attach(model, "t1", units="channel", per="layer") as penalty:
        run(model, swin, 1)
        run(twin, swin, 1)
        found = penalty.activations()
        assert found.keys() == {*swin.layers, *swin.left_out}
        for name, expected in rows.items():
            assert sorted(found[name].tolist()) == sorted(expected.tolist())
        expected = sum(t1({name: found[name]}) for name in found)
        assert penalty().item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.zoo_large
@pytest.mark.parametrize("build", LARGE.values(), ids=LARGE)
def test_a_large_model_is_too_large_and_the_first_remedy_helps(build):
    torch.manual_seed(0)
    model, x = build(), torch.randn(4, 3, 224, 224)
    with topoloss.attach(model, "t1") as penalty:
        model(x)
        with pytest.raises(topoloss.TooLargeError) as error:
            penalty()
    remedy = 'units="channel", per="layer"'
    printed = str(error.value)
    assert remedy in printed
    others = [other for other in ("fraction=", "max_neurons=", "layers=") if other in printed]
    assert all(printed.index(remedy) < printed.index(other) for other in others)
    with topoloss.attach(model, "t1", **eval(f"dict({remedy})")) as penalty:
        model(x)
        value = penalty()
        assert value.isfinite()
        value.backward()
