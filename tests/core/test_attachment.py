"""What `topoloss.attach` values, when, and what it leaves behind."""

import contextlib
import copy
import gc
import io
import pickle
import threading
import weakref

import pytest
import torch
import torch.nn.functional as F
from spy import Spy, gradients, observed
from torch import nn
from torch.utils.checkpoint import checkpoint

import topoloss


class Net(nn.Module):
    """Two hidden layers with a functional and an in-place activation."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.second = nn.Linear(8, 6)
        self.last = nn.Linear(6, 3)
        self.fails = None

    def forward(self, x):
        h = F.relu(self.first(x))
        h = self.second(h)
        if self.fails is not None:
            raise self.fails
        return self.last(h.tanh_())


LAYERS = ["first", "second", "last"]


def by_hand(model, x):
    """The activations of `Net`, by layer."""
    first = F.relu(F.linear(x, model.first.weight, model.first.bias))
    second = torch.tanh(F.linear(first, model.second.weight, model.second.bias))
    last = F.linear(second, model.last.weight, model.last.bias)
    return dict(zip(LAYERS, (first, second, last), strict=True))


def penalty_by_hand(model, x, name="t1"):
    return topoloss.regulariser(name)(torch.cat(list(by_hand(model, x).values()), 1))


def batch(samples=16):
    return torch.randn(samples, 4)


def hooks(model):
    kinds = [kind for kind in vars(model) if kind.endswith("_hooks") or "_hooks_" in kind]
    return [
        (name, kind, *getattr(module, kind))
        for name, module in model.named_modules()
        for kind in kinds
        if getattr(module, kind)
    ]


@contextlib.contextmanager
def outputs_of(model):
    """Weak references to what the layers put out meanwhile."""
    references = []
    handles = [
        layer.register_forward_hook(lambda *call: references.append(weakref.ref(call[-1])))
        for layer in model.children()
    ]
    yield references
    for handle in handles:
        handle.remove()


def alive(references):
    gc.collect()
    return [r() for r in references if r() is not None]


# Values and gradients.


@pytest.mark.parametrize("name", ["t1", "t2", "naive"])
def test_the_penalty_and_its_gradients_are_those_of_the_activations_by_hand(name):
    model = Net()
    penalty = topoloss.attach(model, name)
    for _ in range(3):
        x = batch()
        model(x)
        value, expected = penalty(), penalty_by_hand(model, x, name)
        assert value.shape == ()
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(gradients(value, model), gradients(expected, model))


def test_the_layers_are_concatenated_or_valued_by_themselves():
    model, x = Net(), batch()
    each = topoloss.attach(model, "t2", per="layer")
    model(x)
    reg = topoloss.regulariser("t2")
    layers = by_hand(model, x)
    expected = sum(reg(h) for h in layers.values())
    torch.testing.assert_close(each(), expected)
    torch.testing.assert_close(gradients(each(), model), gradients(expected, model))
    assert abs(expected - penalty_by_hand(model, x, "t2")) > 1e-3
    diagrams = each.diagrams()
    assert list(diagrams) == LAYERS
    for name, h in layers.items():
        torch.testing.assert_close(diagrams[name][0].deaths, reg.diagrams(h)[0].deaths)


def test_diagrams_and_neurons_agree_with_the_penalty():
    model = Net()
    penalty = topoloss.attach(model, "t1", fraction=0.5)
    model(batch())
    deaths = penalty.diagrams()[0].deaths
    assert deaths.shape == (sum(map(len, penalty.neurons.values())) - 1,) == (4 + 3 + 3 - 1,)
    torch.testing.assert_close(penalty(), -deaths.sum())


def test_options_of_the_regulariser_go_through_an_instance():
    model, x = Net(), batch()
    reg = topoloss.regulariser("t2", alpha=0.9, beta=0.1)
    penalty = topoloss.attach(model, reg)
    model(x)
    expected = reg(torch.cat(list(by_hand(model, x).values()), 1))
    torch.testing.assert_close(penalty(), expected)


@pytest.mark.parametrize(("name", "power"), [("l1", 1), ("l2", 2)])
def test_a_regulariser_of_the_model_needs_no_forward_pass(name, power):
    model = Net()
    penalty = topoloss.attach(model, name)
    assert hooks(model) == []
    expected = sum(p.abs().pow(power).sum() for p in model.parameters())
    torch.testing.assert_close(penalty(), expected)
    torch.testing.assert_close(gradients(penalty(), model), gradients(expected, model))
    with pytest.raises(topoloss.TopolossError, match="not its neurons"):
        penalty.neurons  # noqa: B018
    with pytest.raises(topoloss.TopolossError, match="no persistence diagrams"):
        penalty.diagrams()
    penalty.remove()
    with pytest.raises(topoloss.AttachmentError, match="was removed"):
        penalty()


def test_differing_numbers_of_samples_are_an_error_that_names_layers_and_shapes():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
    x = torch.randn(16, 1, 5, 5)
    penalty = topoloss.attach(model, units="channel")
    model(x)
    with pytest.raises(topoloss.AttachmentError, match=r"'0': \(144, 4\), '3': \(16, 3\).*'layer'"):
        penalty()
    penalty.remove()
    each = topoloss.attach(model, units="channel", per="layer")
    out = model(x)
    conv = F.relu(model[0](x)).movedim(1, -1).flatten(0, -2)
    reg = topoloss.regulariser("t1")
    torch.testing.assert_close(each(), reg(conv) + reg(out))


@pytest.mark.parametrize("batch_dim", [0, -2])
def test_the_sample_axis_may_be_counted_from_either_end(batch_dim):
    model, x = Net(), batch()
    penalty = topoloss.attach(model, batch_dim=batch_dim)
    model(x)
    torch.testing.assert_close(penalty(), penalty_by_hand(model, x))


def test_autocast_and_half_precision_are_valued_in_float32():
    model, x = Net(), batch()
    penalty = topoloss.attach(model)
    with torch.autocast("cpu", torch.bfloat16):
        model(x)
        value = penalty()
    assert value.dtype == torch.float32
    model.bfloat16()(x.bfloat16())
    value = penalty()
    assert value.dtype == torch.float32
    value.backward()
    assert model.first.weight.grad.isfinite().all()


# Which forward pass.


def test_the_latest_forward_pass_counts():
    model, x, y = Net(), batch(), batch(9)
    penalty = topoloss.attach(model)
    for given in (x, y, x):
        model(given)
    torch.testing.assert_close(penalty(), penalty_by_hand(model, x))
    torch.testing.assert_close(penalty(), penalty_by_hand(model, x))


@pytest.mark.parametrize("eval_pass", [False, True])
def test_before_the_first_forward_pass_there_is_no_value(eval_pass):
    penalty = topoloss.attach(Net(), eval_pass=eval_pass)
    for ask in (penalty, penalty.diagrams, lambda: penalty.neurons):
        with pytest.raises(topoloss.AttachmentError, match=r"call model\(inputs\)"):
            ask()


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_forward_pass_without_gradients_has_a_value_but_no_gradient(mode, warm):
    model, x = Net(), batch()
    penalty = topoloss.attach(model)
    if warm:
        model(x)
    with mode():
        model(x)
        torch.testing.assert_close(penalty(), penalty_by_hand(model, x))
    with pytest.raises(topoloss.AttachmentError, match=r"'first'.*without gradients.*no_grad"):
        penalty()
    model(x)
    torch.testing.assert_close(
        gradients(penalty(), model), gradients(penalty_by_hand(model, x), model)
    )


def test_a_value_without_gradients_of_a_pass_with_them():
    model, x = Net(), batch()
    penalty = topoloss.attach(model)
    model(x)
    with torch.no_grad():
        assert not penalty().requires_grad
    assert penalty().requires_grad


def test_calling_a_submodule_by_itself_does_not_disturb():
    model, x = Net(), batch()
    penalty = topoloss.attach(model)
    for _ in range(2):  # before and after the first pass
        model.second(torch.randn(5, 8))
        model(x)
        model.first(batch(5))
        model.last(torch.randn(2, 6))
        torch.testing.assert_close(penalty(), penalty_by_hand(model, x))


# A training loop.


def test_gradients_accumulate_over_batches():
    model, batches = Net(), [batch(), batch(), batch(7)]
    penalty = topoloss.attach(model)
    for x in batches:
        (model(x).square().mean() + penalty()).backward()
    loss = sum(
        by_hand(model, x)["last"].square().mean() + penalty_by_hand(model, x) for x in batches
    )
    torch.testing.assert_close([p.grad for p in model.parameters()], gradients(loss, model))


def test_loss_and_penalty_may_be_backed_one_after_the_other():
    model, x = Net(), batch()
    penalty = topoloss.attach(model)
    model(x).square().mean().backward(retain_graph=True)
    penalty().backward()
    loss = by_hand(model, x)["last"].square().mean() + penalty_by_hand(model, x)
    torch.testing.assert_close([p.grad for p in model.parameters()], gradients(loss, model))
    with pytest.raises(RuntimeError, match="second time"):
        penalty().backward()


@pytest.mark.parametrize("optimiser", ["SGD", "LBFGS"])
def test_training_takes_the_steps_of_training_by_hand(optimiser):
    model, x = Net(), batch()
    twin = copy.deepcopy(model)
    penalty = topoloss.attach(model)

    def train(trained, penalised):
        step = getattr(torch.optim, optimiser)(trained.parameters(), lr=0.05)

        def closure():
            step.zero_grad()
            loss = trained(x).square().mean() + 0.1 * penalised()
            loss.backward()
            return loss

        for _ in range(2):
            step.step(closure)

    train(model, penalty)
    train(twin, lambda: penalty_by_hand(twin, x))
    torch.testing.assert_close(
        list(model.parameters()), list(twin.parameters()), rtol=1e-4, atol=1e-4
    )


class Checkpointed(nn.Module):
    def __init__(self, use_reentrant):
        super().__init__()
        self.net = Net()
        self.head = nn.Linear(3, 2)
        self.use_reentrant = use_reentrant

    def forward(self, x):
        return self.head(checkpoint(self.net, x, use_reentrant=self.use_reentrant).relu())


def test_checkpointing_that_keeps_gradients_changes_nothing():
    model = Checkpointed(use_reentrant=False)
    penalty = topoloss.attach(model)
    for _ in range(3):
        x = batch().requires_grad_()
        model.zero_grad()
        (model(x).square().mean() + penalty()).backward()
        layers = by_hand(model.net, x)
        layers["last"] = F.relu(layers["last"])
        out = model.head(layers["last"])
        expected = topoloss.regulariser("t1")(torch.cat([*layers.values(), out], 1))
        torch.testing.assert_close(
            [p.grad for p in model.parameters()], gradients(out.square().mean() + expected, model)
        )


def test_the_whole_model_may_be_checkpointed():
    model = Net()
    penalty = topoloss.attach(model)
    for _ in range(2):
        x = batch().requires_grad_()
        model.zero_grad()
        out = checkpoint(model, x, use_reentrant=False)
        (out.square().mean() + penalty()).backward()
        loss = by_hand(model, x)["last"].square().mean() + penalty_by_hand(model, x)
        torch.testing.assert_close([p.grad for p in model.parameters()], gradients(loss, model))


def test_checkpointing_that_drops_gradients_is_an_error_with_the_remedy():
    model = Checkpointed(use_reentrant=True)
    penalty = topoloss.attach(model)
    for _ in range(2):
        model(batch().requires_grad_())
        with pytest.raises(topoloss.AttachmentError, match=r"'net\.first'.*use_reentrant=False"):
            penalty()
    # Layers outside the checkpoint are not concerned.
    penalty.remove()
    outside = topoloss.attach(model, layers="head")
    out = model(batch().requires_grad_())
    torch.testing.assert_close(outside(), topoloss.regulariser("t1")(out))


# The pass in evaluation mode.


class Noise(nn.Module):
    """Draws random numbers in either mode."""

    def forward(self, x):
        return x + 0 * torch.rand_like(x)


def stochastic():
    model = nn.Sequential(
        *(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), Noise()),
        *(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)), nn.Linear(8, 3)),
    )
    model[5][1].eval()  # frozen statistics in a model that trains
    return model


def stochastic_by_hand(model, x):
    """In evaluation mode, with running statistics."""

    def norm(bn, h):
        return F.batch_norm(h, bn.running_mean, bn.running_var, bn.weight, bn.bias)

    first = model[0](x)
    second = F.relu(norm(model[1], first))
    third = model[5][0](second)
    fourth = norm(model[5][1], third)
    return torch.cat([first, second, third, fourth, model[6](fourth)], 1)


def test_the_eval_pass_uses_running_statistics_and_no_dropout_and_has_gradients():
    model = stochastic()
    twin = copy.deepcopy(model)
    penalty = topoloss.attach(model, eval_pass=True)
    for _ in range(3):
        x = batch()
        model(x)
        twin(x)  # keeps the same statistics
        expected = topoloss.regulariser("t1")(stochastic_by_hand(twin, x))
        torch.testing.assert_close(penalty(), expected)
        torch.testing.assert_close(gradients(penalty(), model), gradients(expected, twin))


def test_the_eval_pass_leaves_no_trace():
    model = stochastic()
    penalty = topoloss.attach(model, eval_pass=True)
    model(batch())
    flags = {name: module.training for name, module in model.named_modules()}
    assert set(flags.values()) == {True, False}
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    penalty(), penalty.diagrams(), penalty.neurons
    assert {name: module.training for name, module in model.named_modules()} == flags
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), random)


class FailsInEvaluation(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.norm, self.fails = nn.Linear(4, 8), nn.BatchNorm1d(8).eval(), True

    def forward(self, x):
        h = self.norm(self.fc(x))
        torch.rand(1)
        if self.fails and not self.training:
            raise ValueError("not made for evaluation")
        return h


@pytest.mark.parametrize("warm", [False, True])
def test_a_failing_eval_pass_leaves_no_trace_either(warm):
    model, x = FailsInEvaluation(), batch()
    penalty = topoloss.attach(model, eval_pass=True)
    model(x)
    if warm:
        model.fails = False
        penalty()
        model.fails = True
    random = torch.get_rng_state()
    with pytest.raises(ValueError, match="not made for evaluation"):
        penalty()
    assert [m.training for m in model.modules()] == [True, True, False]
    assert torch.equal(torch.get_rng_state(), random)
    # And the model goes on training.
    model.fails = False
    for _ in range(2):
        out = model(x)
    expected = topoloss.regulariser("t1")(torch.cat([model.fc(x), out], 1))
    torch.testing.assert_close(penalty(), expected)


def test_the_eval_pass_repeats_keyword_arguments_too():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x, *, scale):
            return self.fc(scale * x)

    model, x = Scaled(), batch()
    penalty = topoloss.attach(model, eval_pass=True)
    model(x, scale=3.0)
    torch.testing.assert_close(penalty(), topoloss.regulariser("t1")(model.fc(3 * x)))


def test_the_eval_pass_has_gradients_where_the_models_own_pass_had_none():
    model, x = Net(), batch()
    penalty = topoloss.attach(model, eval_pass=True)
    with torch.no_grad():
        model(x)
        torch.testing.assert_close(penalty(), penalty_by_hand(model, x))
    torch.testing.assert_close(
        gradients(penalty(), model), gradients(penalty_by_hand(model, x), model)
    )


# Failures.


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_forward_pass_leaves_nothing_behind(error, warm):
    model, x = Net(), batch()
    penalty = topoloss.attach(model)
    if warm:
        model(x)
    installed = hooks(model)
    model.fails = error()
    with outputs_of(model) as references, contextlib.suppress(error):
        model(x)
    model.fails = None  # its traceback holds what the model computed
    if error is ValueError:  # no hook runs after an interrupt: the next pass tidies up
        assert torch.overrides._get_current_function_mode_stack() == []
        assert hooks(model) == installed
    with pytest.raises(topoloss.AttachmentError, match="failed"):
        penalty()
    model(x)
    assert torch.overrides._get_current_function_mode_stack() == []
    assert alive(references) == []
    torch.testing.assert_close(penalty(), penalty_by_hand(model, x))
    penalty.remove()
    assert hooks(model) == []


def test_a_first_pass_that_cannot_be_understood_leaves_nothing_behind():
    class Swish(Net):
        def forward(self, x):
            h = self.first(x)
            return self.last(self.second(h * torch.sigmoid(h)))

    model = Swish()
    penalty = topoloss.attach(model)
    installed = hooks(model)
    for _ in range(2):
        with outputs_of(model) as references, contextlib.suppress(topoloss.AttachmentError):
            model(batch())
            pytest.fail("the activation is not clear")
    assert torch.overrides._get_current_function_mode_stack() == []
    assert hooks(model) == installed
    penalty.remove()
    assert hooks(model) == []
    assert alive(references) == []
    model(batch())


def test_nan_and_infinity_are_counted_by_layer():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    penalty = topoloss.attach(model)
    with torch.no_grad():
        model[0].bias[[1, 4]] = torch.inf
        model[2].weight[:, [1, 4]] = 0.0  # 0 * inf: all of the last layer is NaN
    model(batch())
    message = r"5 of 11 neurons.*3 hold NaN.*By layer: '0' 2, '2' 3\."
    with pytest.raises(topoloss.NonFiniteError, match=message):
        penalty()


@pytest.mark.parametrize("per", ["network", "layer"])
def test_only_the_layers_with_nan_are_named(per):
    model = Net()
    penalty = topoloss.attach(model, per=per)
    with torch.no_grad():
        model.last.bias[1] = torch.nan
    model(batch())
    with pytest.raises(topoloss.NonFiniteError, match=r"By layer: 'last' 1\.$"):
        penalty()


@pytest.mark.parametrize("model", [nn.Linear, torch.relu, None, "net"])
def test_only_modules_can_be_attached(model):
    with pytest.raises(topoloss.InputError, match=r"expected a torch\.nn\.Module"):
        topoloss.attach(model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0.3}, r"no option 'alpha'.*'layers'.*topoloss\.regulariser\('t2', alpha=0\.5\)"),
        ({"layer": "first"}, r"Did you mean 'layers'\?"),
        ({"units": "pixel"}, "'unit', 'channel'"),
        ({"per": "model"}, "'network', 'layer'"),
        ({"regulariser": None}, r"topoloss\.Regulariser"),
        ({"regulariser": topoloss.Regulariser}, r"topoloss\.Regulariser"),
        ({"fraction": 2.0}, "fraction <= 1"),
        ({"fraction": "half"}, "fraction"),
        ({"batch_dim": "first"}, "batch_dim"),
    ],
)
def test_unknown_options_and_values_are_refused(options, message):
    with pytest.raises(topoloss.OptionError, match=message):
        topoloss.attach(Net(), **options)


def test_an_unknown_regulariser_lists_the_known_ones():
    with pytest.raises(topoloss.UnknownNameError, match="'t1', 't2'"):
        topoloss.attach(Net(), "t3")


def sequence_model():
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


@pytest.mark.parametrize(
    ("model", "x", "options"),
    [
        pytest.param(sequence_model(), torch.randn(0, 4), {}, id="empty batch"),
        pytest.param(sequence_model(), torch.randn(1, 4), {}, id="one sample"),
        pytest.param(sequence_model(), torch.randn(4), {}, id="no batch axis"),
        pytest.param(sequence_model(), torch.randn(6, 4), {"batch_dim": 2}, id="no such axis"),
        pytest.param(
            nn.Sequential(nn.Identity()), torch.randn(6, 0), {"layers": "0"}, id="no neurons"
        ),
        pytest.param(nn.Conv1d(2, 3, 1), torch.randn(0, 2, 5), {"units": "channel"}, id="no rows"),
    ],
)
def test_batches_that_cannot_be_valued_are_errors_that_say_so(model, x, options):
    penalty = topoloss.attach(model, **options)
    model(x)
    with pytest.raises(topoloss.TopolossError, match=r"sample|neuron|axis"):
        penalty()


def test_a_model_in_which_nothing_is_called_is_an_error():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x):
            return None

    model = Idle()
    penalty = topoloss.attach(model)
    with pytest.raises(topoloss.AttachmentError):  # noqa: PT012
        model(batch())
        penalty()


@pytest.mark.parametrize("trace", [torch.jit.trace, torch.export.export])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_traced_model_does_not_call_its_layers_and_is_refused(trace):
    """Otherwise the output of the whole would stand for every layer."""
    traced = trace(sequence_model(), (batch(),))
    traced = traced.module() if trace is torch.export.export else traced
    with pytest.raises(topoloss.AttachmentError):  # noqa: PT012
        penalty = topoloss.attach(traced)
        traced(batch())
        penalty()


# Removal.


@pytest.mark.parametrize("eval_pass", [False, True])
@pytest.mark.parametrize("passes", [0, 1, 2])
def test_removal_takes_every_hook_and_twice_is_harmless(passes, eval_pass):
    model, x = Net(), batch()
    state = copy.deepcopy(model.state_dict())
    own = model.first.register_forward_hook(lambda *_: None)
    before = hooks(model)
    attributes = set(vars(model))
    penalty = topoloss.attach(model, eval_pass=eval_pass)
    for _ in range(passes):
        model(x)
        penalty()
    penalty.remove()
    penalty.remove()
    assert hooks(model) == before
    assert set(vars(model)) == attributes
    torch.testing.assert_close(dict(model.state_dict()), dict(state), rtol=0, atol=0)
    with pytest.raises(topoloss.AttachmentError, match="was removed"):
        penalty()
    own.remove()


class InPlaceOutput(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(x).sigmoid_()


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("make", [Net, InPlaceOutput])
def test_attaching_adds_nothing_to_the_state_and_leaves_the_output_alone(make, mode):
    model, x = make(), batch()
    with mode():
        expected = model(x).clone()
        names = list(model.state_dict()), [name for name, _ in model.named_modules()]
        penalty = topoloss.attach(model)
        for _ in range(3):
            out = model(x)
            penalty()
            assert torch.equal(out, expected)
    assert (list(model.state_dict()), [name for name, _ in model.named_modules()]) == names


def test_the_context_manager_removes_also_after_an_error():
    model = Net()
    with contextlib.suppress(ValueError), topoloss.attach(model) as penalty:
        model(batch())
        penalty()
        raise ValueError
    assert hooks(model) == []
    with pytest.raises(topoloss.AttachmentError, match="was removed"):
        penalty()


# Several attachments.


@pytest.mark.parametrize("second", [{}, {"eval_pass": True}, {"after_activation": False}])
@pytest.mark.parametrize("apart", [False, True])
def test_two_attachments_on_one_model_do_not_disturb_each_other(second, apart):
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    x = batch()
    alone = topoloss.attach(model, Spy(), per="layer", **second)
    torch.manual_seed(1)
    model(x)
    expected_second = observed(alone)
    alone.remove()

    one = topoloss.attach(model, Spy(), per="layer")
    if apart:
        model(x)
    two = topoloss.attach(model, Spy(), per="layer", **second)
    for _ in range(2):
        torch.manual_seed(1)
        out = model(x)
        for _ in range(2):
            torch.testing.assert_close(observed(two), expected_second)
            torch.testing.assert_close(observed(one), {"0": F.relu(model[0](x)), "3": out})
    two.remove()
    out = model(x)
    torch.testing.assert_close(observed(one)["3"], out)
    one.remove()
    assert hooks(model) == []


@pytest.mark.parametrize("outer_first", [False, True])
@pytest.mark.parametrize("warm", ["neither", "inner", "outer"])
def test_a_model_and_a_part_of_it_may_both_be_attached(warm, outer_first):
    model, x = nn.Sequential(Net(), nn.ReLU(), nn.Linear(3, 2)), batch()
    penalties = {}
    attaching = {"outer": model, "inner": model[0]}
    for name in sorted(attaching, reverse=outer_first):
        penalties[name] = topoloss.attach(attaching[name], Spy(), per="layer")
        if name == warm:
            attaching[name](x)
    for _ in range(2):
        out = model(x)
        inner = by_hand(model[0], x)
        outer = {f"0.{name}": h for name, h in inner.items()}
        outer["0.last"] = F.relu(outer["0.last"])
        torch.testing.assert_close(observed(penalties["inner"]), inner)
        torch.testing.assert_close(observed(penalties["outer"]), outer | {"2": out})


# Copies.


def pickled(x):
    return pickle.loads(pickle.dumps(x))


def saved(x):
    file = io.BytesIO()
    torch.save(x, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = [copy.deepcopy, pickled, saved]


@pytest.mark.parametrize("passes", [0, 1, 2])
@pytest.mark.parametrize("eval_pass", [False, True])
@pytest.mark.parametrize("make", COPIES)
def test_model_and_attachment_are_copied_together(make, eval_pass, passes):
    model, x, y = Net(), batch(), batch()
    penalty = topoloss.attach(model, "t2", eval_pass=eval_pass)
    for _ in range(passes):
        model(x)
    other, copied = make((model, penalty))
    with pytest.raises(topoloss.AttachmentError, match=r"call model\(inputs\)"):
        copied()
    with torch.no_grad():
        other.first.weight.mul_(2)
    for _ in range(2):
        other(y)
        expected = penalty_by_hand(other, y, "t2")
        torch.testing.assert_close(copied(), expected)
        torch.testing.assert_close(gradients(copied(), other), gradients(expected, other))
    if passes:
        torch.testing.assert_close(penalty(), penalty_by_hand(model, x, "t2"))
    copied.remove()
    assert hooks(other) == []
    model(y)
    torch.testing.assert_close(penalty(), penalty_by_hand(model, y, "t2"))


@pytest.mark.parametrize("passes", [0, 1])
@pytest.mark.parametrize("make", COPIES)
def test_a_copy_of_the_model_alone_does_not_disturb_the_original(make, passes):
    model, x = Net(), batch()
    penalty = topoloss.attach(model)
    for _ in range(passes):
        model(x)
    other = make(model)
    model(x)
    for _ in range(2):
        assert torch.equal(other(x), model(x))
        other(batch(5))
    assert list(other.state_dict()) == list(model.state_dict())
    torch.testing.assert_close(penalty(), penalty_by_hand(model, x))


@pytest.mark.parametrize("passes", [0, 1])
def test_a_data_parallel_replica_is_refused(passes):
    model, x = Net(), batch()
    topoloss.attach(model)
    for _ in range(passes):
        model(x)
    replica = model._replicate_for_data_parallel()
    replica._is_replica = True
    with pytest.raises(topoloss.AttachmentError, match="DistributedDataParallel"):
        replica(x)


@pytest.mark.parametrize("passes", [0, 1])
def test_a_data_parallel_replica_of_a_part_is_refused(passes):
    model, x = nn.Sequential(Net(), nn.Linear(3, 2)), batch()
    topoloss.attach(model[0])
    for _ in range(passes):
        model(x)
    replica = model[0]._replicate_for_data_parallel()
    with pytest.raises(topoloss.AttachmentError, match="replica"):
        replica(x)


# Memory.


@pytest.mark.parametrize("eval_pass", [False, True])
@pytest.mark.parametrize("passes", [1, 2, 3])
def test_the_next_forward_pass_frees_the_one_before(passes, eval_pass):
    model = Net()
    penalty = topoloss.attach(model, eval_pass=eval_pass)
    for _ in range(passes):
        with outputs_of(model) as references:
            model(batch())
            penalty().backward()
    assert alive(references)  # it is these that were recorded
    model(batch())
    penalty()
    assert alive(references) == []


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("eval_pass", [False, True])
def test_removal_frees_everything(passes, eval_pass):
    model = Net()
    penalty = topoloss.attach(model, eval_pass=eval_pass)
    x = batch()
    with outputs_of(model) as references:
        for _ in range(passes):
            model(x)
            penalty()
    references.append(weakref.ref(x))
    del x
    assert alive(references)
    penalty.remove()
    assert alive(references) == []


def test_model_and_attachment_are_freed_together():
    model = Net()
    penalty = topoloss.attach(model)
    with outputs_of(model) as references:
        model(batch())
        penalty()
    references += [weakref.ref(model), weakref.ref(penalty)]
    del model, penalty
    assert alive(references) == []


# Layouts, inputs and threads.


def test_an_eval_pass_on_inputs_that_were_changed_in_place_is_an_error():
    class Shifts(Net):
        def forward(self, x):
            return super().forward(x.sub_(1.0))

    model = Shifts()
    penalty = topoloss.attach(model, eval_pass=True)
    model(batch())
    with pytest.raises(topoloss.AttachmentError, match=r"an input .* was changed in place"):
        penalty()


def test_an_eval_pass_on_one_thread_is_unseen_by_another():
    """The model of the other thread is run in the midst of the pass that is repeated."""
    other = Net()
    other_penalty = topoloss.attach(other)
    x = batch()

    class RunsOther(Net):
        def forward(self, given):
            if not self.training:
                thread = threading.Thread(target=other, args=(x,))
                thread.start()
                thread.join()
            return super().forward(given)

    model = RunsOther()
    penalty = topoloss.attach(model, eval_pass=True)
    model(batch())
    penalty()
    torch.testing.assert_close(other_penalty(), penalty_by_hand(other, x))


def test_the_layout_of_what_is_not_observed_does_not_matter(recwarn):
    model = nn.ModuleDict({"rnn": nn.LSTM(4, 3), "head": nn.Linear(3, 2)})
    topoloss.attach(model, "t1", layers="head")
    topoloss.attach(model, "l2")
    assert not recwarn


@pytest.mark.parametrize("batch_first", [False, True])
def test_positions_are_not_taken_for_samples_without_a_word(batch_first):
    model = nn.Sequential(nn.LSTM(4, 3, batch_first=batch_first))
    if batch_first:
        topoloss.attach(model)
    else:
        with pytest.warns(UserWarning, match=r"'0' has batch_first=False.*batch_dim=1"):
            topoloss.attach(model)
        topoloss.attach(model, batch_dim=1)
