"""An attachment in a training loop."""

import copy

import pytest
import torch
import torch.nn.functional as F
from attaching.helpers import Net, batch, by_hand, gradients, penalty_by_hand
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import topoloss


def test_gradients_accumulate_over_batches():
    model = Net()
    batches = [batch(4, samples=n) for n in (16, 16, 7)]
    penalty = topoloss.attach(model)
    for x in batches:
        (model(x).square().mean() + penalty()).backward()
    loss = sum(
        by_hand(model, x)["last"].square().mean() + penalty_by_hand(model, x) for x in batches
    )
    torch.testing.assert_close([p.grad for p in model.parameters()], gradients(loss, model))


def test_backward_may_be_called_on_loss_and_penalty_one_after_the_other():
    model, x = Net(), batch(4, samples=16)
    penalty = topoloss.attach(model)
    model(x).square().mean().backward(retain_graph=True)
    penalty().backward()
    loss = by_hand(model, x)["last"].square().mean() + penalty_by_hand(model, x)
    torch.testing.assert_close([p.grad for p in model.parameters()], gradients(loss, model))
    with pytest.raises(RuntimeError, match="second time"):
        penalty().backward()


@pytest.mark.parametrize("optimiser", ["SGD", "LBFGS"])
def test_training_takes_the_steps_of_training_by_hand(optimiser):
    model, x = Net().double(), batch(4, samples=16).double()
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
    # At most 6e-17 apart; without the penalty they would be 0.02 apart.
    torch.testing.assert_close(
        list(model.parameters()), list(twin.parameters()), rtol=1e-12, atol=1e-12
    )


# Activation checkpointing.


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
        x = batch(4, samples=16).requires_grad_()
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
    for _ in range(3):
        x = batch(4, samples=16).requires_grad_()
        model.zero_grad()
        out = checkpoint(model, x, use_reentrant=False)
        (out.square().mean() + penalty()).backward()
        loss = by_hand(model, x)["last"].square().mean() + penalty_by_hand(model, x)
        torch.testing.assert_close([p.grad for p in model.parameters()], gradients(loss, model))
        # Repeating the pass inside the backward pass is none of the user's passes.
        torch.testing.assert_close(penalty.diagrams()[0].deaths.sum(), -penalty_by_hand(model, x))


def test_a_pass_that_checkpointing_repeats_is_none_of_the_users():
    """Reentrant checkpointing repeats it whole and with gradients, on detached inputs."""
    model, x = Net(), batch(4, samples=16).requires_grad_()
    seen, penalty = topoloss.attach(model), topoloss.attach(model, eval_pass=True)
    out = checkpoint(model, x, use_reentrant=True)
    for _ in range(2):
        with pytest.raises(topoloss.AttachmentError, match="use_reentrant=False"):
            seen()
        # It makes a pass of its own, of the inputs that the user gave.
        torch.testing.assert_close(
            torch.autograd.grad(penalty(), x), torch.autograd.grad(penalty_by_hand(model, x), x)
        )
        out.sum().backward(retain_graph=True)


def test_a_sequence_may_be_checkpointed_in_segments():
    class Segments(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(
                nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3)
            )

        def forward(self, x):
            return checkpoint_sequential(self.net, 2, x, use_reentrant=False)

    model = Segments()
    penalty = topoloss.attach(model)
    for _ in range(2):
        x = batch(4, samples=16).requires_grad_()
        model.zero_grad()
        (model(x).square().mean() + penalty()).backward()
        first = model.net[:2](x)
        second = model.net[2:4](first)
        out = model.net[4](second)
        value = topoloss.regulariser("t1")(torch.cat([first, second, out], 1))
        torch.testing.assert_close(
            [p.grad for p in model.parameters()], gradients(out.square().mean() + value, model)
        )


def test_checkpointing_that_drops_gradients_is_an_error_with_the_remedy():
    model = Checkpointed(use_reentrant=True)
    penalty = topoloss.attach(model)
    for _ in range(2):
        model(batch(4, samples=16).requires_grad_())
        with pytest.raises(topoloss.AttachmentError, match=r"'net\.first'.*use_reentrant=False"):
            penalty()
    # Layers outside the checkpoint are not concerned.
    penalty.remove()
    outside = topoloss.attach(model, layers="head")
    out = model(batch(4, samples=16).requires_grad_())
    torch.testing.assert_close(outside(), topoloss.regulariser("t1")(out))
