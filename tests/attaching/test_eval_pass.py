"""The pass in evaluation mode, on the inputs of the model's own latest pass."""

import copy

import pytest
import torch
import torch.nn.functional as F
from attaching.helpers import (
    Between,
    Net,
    assert_layers,
    batch,
    gradients,
    penalty_by_hand,
    with_between,
)
from torch import nn

import topoloss


class Draws(nn.Module):
    """Draws random numbers in either mode."""

    def forward(self, x):
        torch.rand(3)
        return x


def stochastic():
    model = nn.Sequential(
        *(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), Draws()),
        *(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)), nn.Linear(8, 3)),
    )
    model[5][1].eval()  # frozen statistics in a model that trains
    return model


def stochastic_by_hand(model, x):
    """In evaluation mode, with running statistics."""

    def norm(bn, h):
        return F.batch_norm(h, bn.running_mean, bn.running_var, bn.weight, bn.bias)

    first = F.relu(norm(model[1], model[0](x)))
    second = norm(model[5][1], model[5][0](first))
    return torch.cat([first, second, model[6](second)], 1)


def test_the_eval_pass_uses_running_statistics_and_no_dropout_and_has_gradients():
    model = stochastic()
    twin = copy.deepcopy(model)
    penalty = topoloss.attach(model, eval_pass=True)
    for _ in range(3):
        x = batch(4, samples=16)
        model(x)
        twin(x)  # keeps the same statistics
        expected = topoloss.regulariser("t1")(stochastic_by_hand(twin, x))
        torch.testing.assert_close(penalty(), expected)
        torch.testing.assert_close(gradients(penalty(), model), gradients(expected, twin))


def test_an_observation_may_be_of_an_eval_pass_too():
    model, x = Between(nn.Sequential(nn.Dropout(0.5), nn.ReLU())), batch(4)
    seen = topoloss.observe(model, eval_pass=True)
    for _ in range(2):
        model(x)
        assert_layers(seen, with_between(copy.deepcopy(model).eval(), x))


def test_the_eval_pass_leaves_no_trace():
    model = stochastic()
    penalty = topoloss.attach(model, eval_pass=True)
    model(batch(4, samples=16))
    flags = {name: module.training for name, module in model.named_modules()}
    assert set(flags.values()) == {True, False}
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    penalty(), penalty.diagrams(), penalty.neurons, penalty.activations()
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
    model, x = FailsInEvaluation(), batch(4, samples=16)
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
    torch.testing.assert_close(penalty(), topoloss.regulariser("t1")(out))


def test_the_eval_pass_repeats_keyword_arguments_too():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x, *, scale):
            return self.fc(scale * x)

    model, x = Scaled(), batch(4, samples=16)
    penalty = topoloss.attach(model, eval_pass=True)
    model(x, scale=3.0)
    torch.testing.assert_close(penalty(), topoloss.regulariser("t1")(model.fc(3 * x)))


def test_the_eval_pass_has_gradients_where_the_models_own_pass_had_none():
    model, x = Net(), batch(4, samples=16)
    penalty = topoloss.attach(model, eval_pass=True)
    with torch.no_grad():
        model(x)
        torch.testing.assert_close(penalty(), penalty_by_hand(model, x))
    torch.testing.assert_close(
        gradients(penalty(), model), gradients(penalty_by_hand(model, x), model)
    )


@pytest.mark.parametrize("always", [True, False])
def test_an_eval_pass_on_inputs_that_the_model_changes_in_place_is_an_error(always):
    """Also if it does so in evaluation mode alone: nobody expects penalty() to change an input."""

    class Shifts(Net):
        def forward(self, x):
            return super().forward(x.sub_(1.0) if always or not self.training else x)

    model = Shifts()
    penalty = topoloss.attach(model, eval_pass=True)
    model(batch(4, samples=16))
    with pytest.raises(topoloss.AttachmentError, match=r"an input .* was changed in place"):
        penalty()


@pytest.mark.parametrize("attached_first", [True, False])
def test_hooks_on_the_model_itself_act_once_on_the_eval_pass(attached_first):
    """Also a hook that changes the inputs, whenever it was registered."""

    def triple(module, args):
        return (3 * args[0],)

    model, x = Net(), batch(4)
    if not attached_first:
        model.register_forward_pre_hook(triple)
    penalty = topoloss.attach(model, eval_pass=True)
    if attached_first:
        model.register_forward_pre_hook(triple)
    model(x)
    torch.testing.assert_close(penalty(), penalty_by_hand(model, 3 * x))
    torch.testing.assert_close(penalty(), penalty_by_hand(model, 3 * x))


class Box:
    """An argument that holds its tensors in attributes."""

    def __init__(self, x):
        self.x = x


def replace(model, given):
    given.x = torch.tanh(model(given.x))
    return given.x


def collect(model, given):
    given.append(torch.ones(6, 4))
    return model(torch.stack(given).sum(0))


def take(model, given):
    return model(given.pop("x"))


CHANGED = {
    "an attribute": (replace, Box),
    "a list": (collect, lambda x: [x]),
    "a dict": (take, lambda x: {"x": x, "y": x}),
}


@pytest.mark.parametrize(("change", "make"), CHANGED.values(), ids=CHANGED)
def test_an_argument_that_the_model_changes_cannot_be_given_again(change, make):
    class Changes(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, given):
            return change(self.fc, given)

    model = Changes()
    penalty = topoloss.attach(model, eval_pass=True)
    model(make(batch(4)))
    for _ in range(2):
        with pytest.raises(topoloss.AttachmentError, match="cannot be repeated"):
            penalty()


@pytest.mark.parametrize("inside", [True, False])
def test_the_eval_pass_runs_under_autocast_as_the_pass_did(inside):
    """Wherever the penalty is asked for."""
    model, x = Net(), batch(4)
    seen = topoloss.observe(model, eval_pass=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=inside):
        model(x)
        expected = {name: h.dtype for name, h in seen.activations().items()}
    assert set(expected.values()) == {torch.bfloat16 if inside else torch.float32}
    with torch.autocast("cpu", torch.bfloat16, enabled=not inside):
        found = seen.activations()
    assert {name: h.dtype for name, h in found.items()} == expected
