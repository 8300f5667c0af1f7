"""What an attachment leaves on a model: when it is removed, dropped, or never kept."""

import contextlib
import copy
import gc
import weakref

import pytest
import torch
from attaching.helpers import (
    Net,
    alive,
    batch,
    by_hand,
    hooks,
    outputs_of,
    penalty_by_hand,
)
from torch import nn

import topoloss


@pytest.mark.parametrize("eval_pass", [False, True])
@pytest.mark.parametrize("passes", [0, 1])
def test_removal_takes_every_hook_and_twice_is_harmless(passes, eval_pass):
    model, x = Net(), batch(4, samples=16)
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
    model(x)
    asks = (penalty, penalty.diagrams, penalty.activations, lambda: penalty.neurons)
    for ask in asks:
        with pytest.raises(topoloss.AttachmentError, match="was removed"):
            ask()
    own.remove()


@pytest.mark.parametrize("make", [topoloss.attach, topoloss.observe])
def test_the_context_manager_removes_also_after_an_error(make):
    model = Net()
    with contextlib.suppress(ValueError), make(model) as seen:
        model(batch(4, samples=16))
        seen.activations()
        raise ValueError
    assert hooks(model) == []
    with pytest.raises(topoloss.AttachmentError, match="was removed"):
        seen.activations()


def test_an_observation_may_end_within_a_pass():
    class Ends(Net):
        ending = None

        def forward(self, x):
            h = self.first(x)
            if self.ending is not None:
                self.ending.remove()
            return self.last(self.second(h.relu()).tanh())

    model, x = Ends(), batch(4)
    model.ending = seen = topoloss.observe(model)
    model(x)
    assert hooks(model) == []
    assert torch.overrides._get_current_function_mode_stack() == []
    with pytest.raises(topoloss.AttachmentError, match="was removed"):
        seen.activations()


# Attachments that are dropped.


@pytest.mark.parametrize("make", [topoloss.attach, topoloss.observe])
def test_attachments_that_were_dropped_after_a_pass_leave_no_hook(make):
    model, x = Net(), batch(4, samples=16)
    for _ in range(50):
        seen = make(model)
        model(x)
        del seen
    gc.collect()
    assert hooks(model) == []
    assert torch.equal(model(x), by_hand(model, x)["last"])


def test_attachments_that_were_dropped_before_a_pass_leave_no_hook_after_it():
    model, x = Net(), batch(4, samples=16)
    for _ in range(50):
        topoloss.attach(model)
    gc.collect()
    assert len(hooks(model)) == 1  # the one that warns
    with pytest.warns(topoloss.AttachmentWarning) as warned:
        out = model(x)
    assert len(warned) == 1
    assert torch.equal(out, by_hand(model, x)["last"])
    gc.collect()
    assert hooks(model) == []


def test_an_attachment_that_is_not_kept_warns_once_at_the_next_pass():
    model, x = Net(), batch(4)
    topoloss.attach(model)
    gc.collect()
    with pytest.warns(topoloss.AttachmentWarning, match=r"penalty = topoloss\.attach"):
        model(x)
    model(x)


def test_an_attachment_that_was_used_and_then_dropped_does_not_warn():
    model, x = Net(), batch(4, samples=16)
    penalty = topoloss.attach(model)
    model(x)
    penalty()
    del penalty
    gc.collect()
    model(x)


def test_an_attachment_that_was_removed_before_a_pass_does_not_warn():
    model, x = Net(), batch(4)
    topoloss.attach(model).remove()
    with topoloss.attach(model):
        pass
    gc.collect()
    assert hooks(model) == []
    model(x)


def test_an_attachment_as_an_attribute_of_its_model_lives_with_it():
    model, x = Net(), batch(4, samples=16)
    modules = [name for name, _ in model.named_modules()]
    parameters = [name for name, _ in model.named_parameters()]
    state = list(model.state_dict())
    model.penalty = topoloss.attach(model)
    assert [name for name, _ in model.named_modules()] == modules
    assert [name for name, _ in model.named_parameters()] == parameters
    assert list(model.state_dict()) == state
    for _ in range(2):
        model(x)
        torch.testing.assert_close(model.penalty(), penalty_by_hand(model, x))
    other = copy.deepcopy(model)
    other(2 * x)
    torch.testing.assert_close(other.penalty(), penalty_by_hand(other, 2 * x))
    torch.testing.assert_close(model.penalty(), penalty_by_hand(model, x))
    references = [weakref.ref(model), weakref.ref(model.penalty)]
    del model
    assert alive(references) == []


# Memory.


@pytest.mark.parametrize("eval_pass", [False, True])
@pytest.mark.parametrize("passes", [1, 2])
def test_the_next_forward_pass_frees_the_one_before(passes, eval_pass):
    model = Net()
    penalty = topoloss.attach(model, eval_pass=eval_pass)
    for _ in range(passes):
        with outputs_of(model) as references:
            model(batch(4, samples=16))
            penalty().backward()
    assert alive(references)  # it is these that were recorded
    model(batch(4, samples=16))
    penalty()
    assert alive(references) == []


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("eval_pass", [False, True])
def test_removal_frees_everything(passes, eval_pass):
    model = Net()
    penalty = topoloss.attach(model, eval_pass=eval_pass)
    x = batch(4, samples=16)
    with outputs_of(model) as references:
        for _ in range(passes):
            model(x)
            penalty()
    references.append(weakref.ref(x))
    del x
    assert alive(references)
    penalty.remove()
    assert alive(references) == []


def test_dropping_frees_everything():
    model = Net()
    penalty = topoloss.attach(model)
    with outputs_of(model) as references:
        model(batch(4, samples=16))
        penalty()
    del penalty
    assert alive(references) == []


def test_model_and_attachment_are_freed_together():
    model = Net()
    penalty = topoloss.attach(model)
    with outputs_of(model) as references:
        model(batch(4, samples=16))
        penalty()
    references += [weakref.ref(model), weakref.ref(penalty)]
    del model, penalty
    assert alive(references) == []


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_pass_without_gradients_keeps_only_what_is_observed(mode):
    model = nn.Sequential(
        *(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(16, 8), nn.Softmax(1), nn.Linear(8, 3)),
    )
    seen = topoloss.observe(model)
    with mode():
        for _ in range(2):
            with outputs_of(model) as references:
                model(batch(2, 6, 6))
            kept = alive(references)
            assert {tuple(t.shape) for t in kept} == {(6, 4, 4, 4), (6, 8), (6, 3)}
            assert len(kept) == 3
            del kept
            seen.activations()


@pytest.mark.parametrize("asked", ["penalty", "activations", "diagrams", "neurons"])
def test_the_activations_of_a_pass_are_freed_when_the_next_one_begins(asked):
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    penalty = topoloss.attach(model, "t1")
    hidden, still = [], []
    model[1].register_forward_hook(lambda m, args, out: hidden.append(weakref.ref(out)))
    model[0].register_forward_pre_hook(lambda m, args: still.append([h() for h in hidden]))
    for _ in range(3):
        model(torch.randn(6, 4))
        if asked == "penalty":
            penalty().backward()
        elif asked == "neurons":
            assert penalty.neurons
        else:
            getattr(penalty, asked)()
    assert still == [[], [None], [None, None]]
