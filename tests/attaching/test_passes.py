"""Which forward pass is valued."""

import contextlib

import pytest
import torch
from attaching.helpers import (
    LAYERS,
    Net,
    assert_layers,
    batch,
    by_hand,
    gradients,
    hooks,
    penalty_by_hand,
)
from torch import nn

import topoloss


def test_the_latest_forward_pass_counts():
    model, x, y = Net(), batch(4, samples=16), batch(4, samples=9)
    penalty = topoloss.attach(model)
    for given in (x, y, x):
        model(given)
    for _ in range(2):
        torch.testing.assert_close(penalty(), penalty_by_hand(model, x))
    assert_layers(penalty, by_hand(model, x))


@pytest.mark.parametrize("eval_pass", [False, True])
def test_before_the_first_forward_pass_there_is_no_value(eval_pass):
    penalty = topoloss.attach(Net(), eval_pass=eval_pass)
    asks = (penalty, penalty.diagrams, penalty.activations, lambda: penalty.neurons)
    for ask in asks:
        with pytest.raises(topoloss.AttachmentError, match=r"call model\(inputs\)"):
            ask()


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_forward_pass_without_gradients_has_a_value_but_no_gradient(mode, warm):
    model, x = Net(), batch(4, samples=16)
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


class FrozenBackbone(nn.Module):
    """A common way to train the head alone."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6))
        self.hidden, self.head = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x):
        with torch.no_grad():
            features = self.backbone(x)
        return self.head(torch.tanh(self.hidden(features)))


@pytest.mark.parametrize("layers", ["auto", "trainable"])
def test_layers_that_run_without_gradients_are_left_out_by_name(layers):
    model, x = FrozenBackbone(), batch(4, samples=16)
    penalty = topoloss.attach(model, layers=layers)
    model(x)
    with pytest.warns(topoloss.AttachmentWarning, match=r"backbone\.0.*without gradients"):
        value = penalty()
    hidden = torch.tanh(model.hidden(model.backbone(x).detach()))
    layers = torch.cat([hidden, model.head(hidden)], 1)
    expected = topoloss.regulariser("t1")(layers)
    torch.testing.assert_close(value, expected)
    head = [*model.hidden.parameters(), *model.head.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad(value, head), torch.autograd.grad(expected, head)
    )
    model(x)
    with torch.no_grad():
        assert list(penalty.neurons) == ["backbone.0", "backbone.2", "hidden", "head"]


def test_a_named_layer_that_runs_without_gradients_is_an_error():
    model = FrozenBackbone()
    penalty = topoloss.attach(model, layers=["backbone.0", "hidden", "head"])
    model(batch(4))
    with pytest.raises(topoloss.AttachmentError, match=r"'backbone\.0' ran without gradients"):
        penalty()


def test_a_value_without_gradients_of_a_pass_with_them():
    model, x = Net(), batch(4, samples=16)
    penalty = topoloss.attach(model)
    model(x)
    with torch.no_grad():
        assert not penalty().requires_grad
    assert penalty().requires_grad


def test_calling_a_submodule_by_itself_does_not_disturb():
    model, x = Net(), batch(4, samples=16)
    penalty = topoloss.attach(model)
    for _ in range(2):  # before and after the first pass
        model.second(torch.randn(5, 8))
        model(x)
        model.first(batch(4, samples=5))
        model.last(torch.randn(2, 6))
        torch.testing.assert_close(penalty(), penalty_by_hand(model, x))


def test_a_model_that_calls_itself_is_one_pass():
    class Refines(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x, again=True):
            h = torch.tanh(self.fc(x))
            return self(h, again=False) if again else h

    model, x = Refines(), batch(4)
    seen = topoloss.observe(model)
    for _ in range(2):
        model(x)
        once = torch.tanh(model.fc(x))
        assert_layers(seen, {"fc": once, "fc:2": torch.tanh(model.fc(once))})


def test_what_the_caller_does_with_the_output_belongs_to_no_layer():
    model, x = Net(), batch(4)
    seen = topoloss.observe(model)
    for _ in range(2):
        out = model(x)
        torch.relu(out)
        model.last(torch.relu(seen.activations()["second"]))
        assert_layers(seen, by_hand(model, x))


# Looking at a model doesn't change it.


@pytest.mark.parametrize("kind", ["forward", "forward_with_kwargs", "on every module"])
@pytest.mark.parametrize("before", [True, False])
def test_hooks_of_the_users_own_that_look_at_outputs_change_nothing(before, kind):
    model, x = Net(), batch(4)
    statistics = []

    def look(module, *call):
        out = call[-1]
        statistics.append((out.abs().mean(), (out > 0).float().mean(0), out.detach().clone()))

    def register():
        if kind == "on every module":
            return [m.register_forward_hook(look) for m in model.modules()]
        return [model.first.register_forward_hook(look, with_kwargs=kind != "forward")]

    handles = register() if before else []
    penalty = topoloss.attach(model)
    handles += [] if before else register()
    for _ in range(3):
        model(x)
        assert_layers(penalty, by_hand(model, x))
        torch.testing.assert_close(penalty(), penalty_by_hand(model, x))
    assert statistics
    penalty.remove()
    for handle in handles:
        handle.remove()
    assert hooks(model) == []


def test_a_statistic_that_the_model_keeps_for_itself_changes_nothing():
    class Monitored(Net):
        def forward(self, x):
            h = self.first(x)
            self.statistic = h.abs().mean()
            self.largest = h.max(1).values
            return self.last(self.second(h.relu_()).tanh())

    model, x = Monitored(), batch(4)
    seen = topoloss.observe(model)
    for _ in range(3):
        model(x)
        assert_layers(seen, by_hand(model, x))


class InPlaceOutput(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(x).sigmoid_()


@pytest.mark.parametrize("mode", [contextlib.nullcontext, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("make", [Net, InPlaceOutput])
def test_attaching_adds_nothing_to_the_state_and_leaves_the_output_alone(make, mode):
    model, x = make(), batch(4, samples=16)
    with mode():
        expected = model(x).clone()
        names = list(model.state_dict()), [name for name, _ in model.named_modules()]
        penalty = topoloss.attach(model)
        for _ in range(3):
            out = model(x)
            penalty()
            assert torch.equal(out, expected)
            assert type(out) is torch.Tensor
            assert out.requires_grad == expected.requires_grad
            assert out.is_inference() == expected.is_inference()
    assert (list(model.state_dict()), [name for name, _ in model.named_modules()]) == names


def test_random_numbers_of_the_model_are_drawn_as_ever():
    model, x = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3)), batch(4)
    torch.manual_seed(3)
    expected, after = model(x), torch.rand(3)
    seen = topoloss.observe(model)
    for _ in range(3):
        torch.manual_seed(3)
        assert torch.equal(model(x), expected)
        assert torch.equal(torch.rand(3), after)
        seen.activations()


def test_the_layers_of_a_subclass_of_tensor_are_observed():
    class Marked(torch.Tensor):
        pass

    model, x = Net(), batch(4)
    seen = topoloss.observe(model)
    model(x.as_subclass(Marked))
    activations = {name: h.as_subclass(torch.Tensor) for name, h in seen.activations().items()}
    torch.testing.assert_close(activations, by_hand(model, x))
    assert list(activations) == LAYERS
