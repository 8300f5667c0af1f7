import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from topoloss.compare.training import Protocol, train

PROTOCOL = Protocol(batch_size=16, max_epochs=60, patience=4, learning_rate=0.05)


def history_of(model, split, regulariser="none", weight=0.0, protocol=PROTOCOL, seed=0):
    epochs = []
    outcome = train(model, split, regulariser, weight, protocol, seed=seed, on_epoch=epochs.append)
    return outcome, epochs


def test_stops_after_patience_and_restores_the_best_weights(small_network, blob_split):
    model = small_network()
    outcome, epochs = history_of(model, blob_split, protocol=replace(PROTOCOL, max_epochs=400))
    losses = [e.validation_loss for e in epochs]
    best = losses.index(min(losses))
    assert best + 1 < len(losses) < 400, "the case must stop early, with a best epoch before"
    assert len(losses) == best + 1 + PROTOCOL.patience + 1
    assert outcome.epochs == len(losses)
    with torch.no_grad():
        restored = F.cross_entropy(model.eval()(blob_split.validation.x), blob_split.validation.y)
    assert restored.item() == pytest.approx(losses[best], rel=1e-6)


def test_a_loss_that_only_equals_the_best_is_no_improvement(small_network, blob_split):
    protocol = replace(PROTOCOL, learning_rate=0.0)
    outcome, _ = history_of(small_network(), blob_split, protocol=protocol)
    assert outcome.epochs == 1 + PROTOCOL.patience + 1


def test_none_is_plain_training(small_network, blob_split):
    """One epoch of the protocol, written out by hand."""
    model, by_hand = small_network(), small_network()
    protocol = replace(PROTOCOL, max_epochs=1)
    history_of(model, blob_split, protocol=protocol, seed=5)
    optimiser = torch.optim.SGD(by_hand.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(5))
    for batch in (order[:16], order[16:]):
        optimiser.zero_grad()
        F.cross_entropy(by_hand(blob_split.train.x[batch]), blob_split.train.y[batch]).backward()
        optimiser.step()
    for trained, expected in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(trained, expected)


def test_learning_rate_decays_in_steps(small_network, blob_split):
    """With the rate falling to almost nothing after two steps the second epoch changes little."""
    protocol = replace(PROTOCOL, decay=1e-12, decay_steps=2, momentum=0.0, max_epochs=1)
    one, two = small_network(), small_network()
    # Nesterov's method needs momentum; the smallest will do.
    protocol = replace(protocol, momentum=1e-12)
    history_of(one, blob_split, protocol=protocol)
    history_of(two, blob_split, protocol=replace(protocol, max_epochs=2))
    start = small_network()
    for a, b, before in zip(one.parameters(), two.parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
        assert not torch.equal(a, before)


def test_same_seed_same_run(small_network, blob_split):
    first, _ = history_of(small_network(), blob_split, "t1", 0.1)
    second, _ = history_of(small_network(), blob_split, "t1", 0.1)
    assert replace(first, seconds=0.0) == replace(second, seconds=0.0)


@pytest.mark.parametrize(("regulariser", "weight"), [("t1", 0.05), ("t2", 1.0)])
def test_the_penalty_raises_the_deaths(small_network, blob_split, regulariser, weight):
    protocol = replace(PROTOCOL, max_epochs=40, patience=40)
    plain, _ = history_of(small_network(), blob_split, protocol=protocol)
    penalised, _ = history_of(small_network(), blob_split, regulariser, weight, protocol)
    assert plain.deaths_before == penalised.deaths_before
    assert sum(penalised.deaths_after) > sum(plain.deaths_after)


def test_deaths_are_those_of_all_neurons(small_network, blob_split):
    outcome, _ = history_of(small_network(), blob_split, protocol=replace(PROTOCOL, max_epochs=1))
    assert len(outcome.deaths_before) == len(outcome.deaths_after) == 12 + 3 - 1


def test_divergence_ends_the_run_and_is_told(small_network, blob_split):
    model = small_network()
    before = copy.deepcopy(model.state_dict())
    outcome, _ = history_of(model, blob_split, "l2", 1e38)
    assert outcome.diverged
    assert outcome.epochs == 1
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_the_model_is_left_without_hooks(small_network, blob_split):
    model = small_network()
    history_of(model, blob_split, "t1", 0.1, replace(PROTOCOL, max_epochs=2, eval_pass=True))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
