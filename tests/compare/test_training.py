import copy
import time
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import r2_score
from torch import nn

import topoloss
from topoloss.compare.data import Part, Split
from topoloss.compare.records import Protocol
from topoloss.compare.training import train
from topoloss.compare.treatments import Treatment

NO_TIMES = {"seconds": 0.0, "step_seconds": None, "cpu_seconds": None}
PROTOCOL = Protocol(batch_size=16, max_epochs=60, patience=4, learning_rate=0.05)


def history_of(model, split, regulariser="none", weight=0.0, protocol=PROTOCOL, seed=0):
    epochs = []
    outcome = train(
        model, split, [(regulariser, weight)], protocol, seed=seed, on_epoch=epochs.append
    )
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


@pytest.mark.parametrize("eval_pass", [False, True])
def test_dropout_is_on_in_training_alone(blob_split, eval_pass):
    """By the mode in which the model meets each number of samples, over three epochs."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(2, 12), nn.Tanh(), nn.Dropout(0.5), nn.Linear(12, 3))
    modes = []
    model.register_forward_pre_hook(lambda m, args: modes.append((len(args[0]), m.training)))
    protocol = replace(PROTOCOL, batch_size=30, max_epochs=3, eval_pass=eval_pass)
    history_of(model, blob_split, "t1", 0.01, protocol)
    # The parts have 30, 15 and 15 samples; only training batches are in training mode.
    assert modes.count((30, True)) == 3
    assert modes.count((30, False)) == (3 if eval_pass else 0)
    assert {training for size, training in modes if size == 15} == {False}


def test_weights_after_which_the_loss_is_not_finite_are_not_the_best(blob_split):
    """Accuracy is a number whatever the logits are, so it alone would keep them."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(2, 12), nn.ReLU(), nn.Linear(12, 3))
    protocol = replace(PROTOCOL, batch_size=30, max_epochs=1, learning_rate=1e30, monitor="score")
    before = copy.deepcopy(model.state_dict())
    history_of(model, blob_split, protocol=protocol)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


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


def test_a_regression_is_plain_training_on_squared_errors(blob_split):
    """One step without momentum, written out by hand, and the score by scikit-learn."""
    protocol = replace(
        PROTOCOL, batch_size=30, max_epochs=1, momentum=0.0, nesterov=False, learning_rate=0.05
    )
    mixed = torch.tensor([[2.0, 1.0], [-1.0, 3.0]])
    parts = Split(*(Part(part.x, part.x @ mixed + 1) for part in blob_split))
    torch.manual_seed(0)
    model = nn.Linear(2, 2)
    w, b = model.weight.detach().clone(), model.bias.detach().clone()
    outcome, (epoch,) = history_of(model, parts, protocol=protocol)
    x, y = parts.train
    error = x @ w.T + b - y
    torch.testing.assert_close(model.weight.data, w - 0.05 * error.T @ x / 30)
    torch.testing.assert_close(model.bias.data, b - 0.05 * error.mean(0))
    x, y = parts.validation
    predicted = model(x).detach()
    assert epoch.validation_loss == pytest.approx((predicted - y).square().mean().item(), rel=1e-6)
    assert outcome.metric == "R2"
    assert outcome.validation_score == pytest.approx(r2_score(y, predicted), rel=1e-6)


def test_learning_rate_decays_in_steps(blob_split):
    """Five epochs of one batch each, written out by hand: two steps at each rate."""
    protocol = replace(
        PROTOCOL,
        batch_size=30,
        max_epochs=5,
        momentum=0.0,
        nesterov=False,
        learning_rate=0.1,
        decay=0.5,
        decay_steps=2,
    )
    parts = Split(*(Part(part.x, part.x.flip(1) + 1) for part in blob_split))
    torch.manual_seed(0)
    model = nn.Linear(2, 2, bias=False)
    w = model.weight.detach().clone()
    _, epochs = history_of(model, parts, protocol=protocol)
    x, y = parts.train
    for rate in (0.1, 0.1, 0.05, 0.05, 0.025):
        w -= rate * (x @ w.T - y).T @ x / 30
    assert len(epochs) == 5
    torch.testing.assert_close(model.weight.data, w)


def test_same_seed_same_run(small_network, blob_split):
    first, _ = history_of(small_network(), blob_split, "t1", 0.1)
    second, _ = history_of(small_network(), blob_split, "t1", 0.1)
    assert replace(first, **NO_TIMES) == replace(second, **NO_TIMES)


@pytest.mark.parametrize(("regulariser", "weight"), [("t1", 0.05), ("t2", 1.0)])
def test_the_penalty_raises_the_deaths(small_network, blob_split, regulariser, weight):
    protocol = replace(PROTOCOL, max_epochs=40, patience=40)
    plain, _ = history_of(small_network(), blob_split, protocol=protocol)
    penalised, _ = history_of(small_network(), blob_split, regulariser, weight, protocol)
    assert plain.before == penalised.before
    assert penalised.after.median > plain.after.median
    assert penalised.after.correlation < plain.after.correlation


def test_the_steps_take_a_part_of_the_loop_and_the_loop_a_part_of_the_training(
    small_network, blob_split
):
    wall, cpu = time.perf_counter(), time.process_time()
    outcome, _ = history_of(small_network(), blob_split, protocol=replace(PROTOCOL, max_epochs=3))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    # 30 samples in batches of 16, in three epochs.
    assert 0 < 3 * 2 * outcome.step_seconds <= outcome.seconds <= wall
    assert 0 < outcome.cpu_seconds <= cpu


def test_divergence_ends_the_run_and_is_told(small_network, blob_split):
    model = small_network()
    before = copy.deepcopy(model.state_dict())
    outcome, _ = history_of(model, blob_split, "l2", 1e38)
    assert outcome.diverged
    assert outcome.epochs == 1
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def hooks_of(model):
    return [
        {name: len(hooks) for name, hooks in vars(module).items() if "hooks" in name and hooks}
        for module in model.modules()
    ]


def test_the_model_is_left_without_hooks(small_network, blob_split):
    model = small_network()
    history_of(model, blob_split, "t1", 0.1, replace(PROTOCOL, max_epochs=2, eval_pass=True))
    assert hooks_of(model) == [{}] * 4


@pytest.mark.parametrize("eval_pass", [False, True])
def test_the_regulariser_sees_the_layers_and_the_fraction_of_the_protocol(blob_split, eval_pass):
    """Its neurons, as counted by a regulariser that looks at nothing else."""

    class Count(topoloss.Regulariser):
        def compute(self, x):
            seen.add(x.shape[1])
            return 0 * x.sum()

    model = nn.Sequential(nn.Linear(2, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 3))
    for layers, fraction, neurons in (
        ("auto", 1.0, 12 + 3),
        ("trainable", 1.0, 12 + 12 + 3),
        ("auto", 0.5, 6 + 3),
    ):
        seen = set()
        changes = {"layers": layers, "fraction": fraction, "eval_pass": eval_pass}
        outcome, _ = history_of(
            model, blob_split, Count(), 1.0, replace(PROTOCOL, max_epochs=1, **changes)
        )
        assert seen == {neurons}
        assert sum(outcome.before.deaths) == sum(outcome.after.deaths) == neurons - 1


def test_stopping_by_accuracy(small_network, blob_split):
    """Here the accuracy stands still while the loss still falls."""
    protocol = replace(PROTOCOL, max_epochs=400, monitor="score")
    outcome, epochs = history_of(small_network(), blob_split, protocol=protocol)
    accuracies = [e.validation_score for e in epochs]
    best = accuracies.index(max(accuracies))
    assert outcome.epochs == best + 1 + PROTOCOL.patience + 1
    assert epochs[-1].validation_loss < epochs[best].validation_loss


@pytest.mark.parametrize("regulariser", ["none", "l1", "l2"])
def test_options_about_neurons_leave_arms_without_neurons_alone(
    small_network, blob_split, regulariser
):
    plain = Protocol(max_epochs=2, batch_size=16)
    about_neurons = replace(plain, layers="trainable", fraction=0.5, eval_pass=True)
    models = []
    for protocol in (plain, about_neurons):
        models.append(small_network())
        train(models[-1], blob_split, [(regulariser, 1e-3)], protocol)
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict(), rtol=0, atol=0)


def test_an_arm_without_a_spanning_tree_is_given_what_it_takes(small_network, blob_split):
    protocol = Protocol(max_epochs=1, batch_size=16, fraction=0.5)
    assert train(small_network(), blob_split, [("naive", 0.1)], protocol).epochs == 1


def test_several_penalties_add_up(small_network, blob_split):
    models = []
    for penalties in ([("l2", 0.1), ("t1", 0.0), ("l2[]", 0.2)], [("l2", 0.3)]):
        models.append(small_network())
        train(models[-1], blob_split, penalties, replace(PROTOCOL, max_epochs=2))
    for first, second in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(first, second)


def one_epoch(**changes):
    return replace(PROTOCOL, batch_size=30, max_epochs=1, momentum=0.0, nesterov=False, **changes)


def test_labels_are_smoothed_in_training_alone(small_network, blob_split):
    """One step against labels of which a third is spread over the three classes."""
    model, by_hand = small_network(), small_network()
    history = []
    treatment = Treatment(label_smoothing=1 / 3)
    train(model, blob_split, [], one_epoch(), treatment=treatment, on_epoch=history.append)
    x, y = blob_split.train
    target = F.one_hot(y, 3) * 2 / 3 + 1 / 9
    loss = -(target * by_hand(x).log_softmax(1)).sum(1).mean()
    for p, g in zip(
        by_hand.parameters(), torch.autograd.grad(loss, by_hand.parameters()), strict=True
    ):
        p.data -= 0.05 * g
    for trained, expected in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(trained, expected)
    x, y = blob_split.validation
    assert history[0].validation_loss == pytest.approx(F.cross_entropy(by_hand(x), y).item())


def test_labels_of_a_regression_cannot_be_smoothed(blob_split):
    parts = Split(*(Part(part.x, part.x.sum(1, keepdim=True)) for part in blob_split))
    with pytest.raises(topoloss.InputError, match=r"label-smoothing=0\.1 was given"):
        train(nn.Linear(2, 1), parts, [], PROTOCOL, treatment=Treatment(label_smoothing=0.1))


def test_noise_is_added_to_the_inputs_of_training_alone(blob_split):
    def noise_of(seed):
        seen = {True: [], False: []}
        model = nn.Linear(2, 3)
        model.register_forward_pre_hook(lambda m, args: seen[m.training].append(args[0]))
        train(model, blob_split, [], one_epoch(), treatment=Treatment(input_noise=0.5), seed=seed)
        (batch,) = seen[True]
        assert any(torch.equal(x, blob_split.validation.x) for x in seen[False])
        order = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
        return batch - blob_split.train.x[order]

    noise = noise_of(seed=5)
    # 60 draws: mean and deviation to within four standard errors.
    assert abs(noise.mean()) < 4 * 0.5 / 60**0.5
    assert noise.std().item() == pytest.approx(0.5, rel=4 / 120**0.5)
    torch.testing.assert_close(noise_of(seed=5), noise)
    assert not torch.isclose(noise_of(seed=6), noise).any()


def sure_of_class_0(parts):
    """A model and parts with one class, of which it is so sure that its gradient is 0."""
    model = nn.Linear(2, 2)
    model.bias.data = torch.tensor([1e4, 0.0])
    return model, Split(*(Part(part.x, torch.zeros_like(part.y)) for part in parts))


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_weights_decay_as_the_optimiser_does_it(blob_split, optimiser):
    model, parts = sure_of_class_0(blob_split)
    before = model.weight.detach().clone()
    protocol = one_epoch(optimiser=optimiser)
    protocol = replace(protocol, monitor="score")
    train(model, parts, [], protocol, treatment=Treatment(weight_decay=0.2))
    torch.testing.assert_close(model.weight.data, before * (1 - 0.05 * 0.2))


def test_adam_is_torch_s_without_decay(small_network, blob_split):
    model, by_hand = small_network(), small_network()
    protocol = replace(PROTOCOL, batch_size=30, max_epochs=3, optimiser="adamw")
    train(model, blob_split, [], replace(protocol, monitor="score", patience=9), seed=0)
    optimiser = torch.optim.Adam(by_hand.parameters(), lr=0.05)
    best, kept = -1.0, None
    for _ in range(3):
        optimiser.zero_grad()
        F.cross_entropy(by_hand(blob_split.train.x), blob_split.train.y).backward()
        optimiser.step()
        x, y = blob_split.validation
        score = (by_hand(x).argmax(1) == y).double().mean().item()
        if score > best:
            best, kept = score, copy.deepcopy(by_hand.state_dict())
    torch.testing.assert_close(model.state_dict(), kept)


def test_the_weights_that_are_kept_are_of_an_epoch_after_the_warm_up(blob_split):
    """The model is right at first, and the penalty makes it worse in each epoch."""
    model, parts = sure_of_class_0(blob_split)
    protocol = replace(one_epoch(), warmup=2, max_epochs=5, learning_rate=1.0, patience=9)

    class Away(topoloss.Regulariser):
        source = "parameters"

        def compute(self, parameters):
            return sum(p.sum() for p in parameters.values())

    epochs = []
    train(model, parts, [(Away(), 1.0)], protocol, on_epoch=epochs.append)
    losses = [epoch.validation_loss for epoch in epochs]
    assert losses.index(min(losses)) < 2, "the case must be best in the warm-up"
    assert [epoch.best for epoch in epochs[:3]] == [False, False, True]


def test_the_weight_rises_linearly_over_the_epochs_of_the_warm_up(blob_split):
    """The loss has no gradient, the penalty a gradient of 1, and the learning rate is 1."""

    class Sum(topoloss.Regulariser):
        source = "parameters"

        def compute(self, parameters):
            return sum(p.sum() for p in parameters.values())

    model, parts = sure_of_class_0(blob_split)
    values = []
    protocol = replace(
        one_epoch(), warmup=2, max_epochs=4, batch_size=15, learning_rate=1.0, patience=9
    )
    model.register_forward_hook(
        lambda m, args, out: values.append(m.bias[1].item()) if m.training else None
    )
    train(model, parts, [(Sum(), 8.0)], protocol)
    # Two steps of each epoch; the bias is seen before each step.
    steps = [before - after for before, after in pairwise(values)]
    factors = [0, 1 / 4, 2 / 4, 3 / 4, 1, 1, 1]
    assert steps == pytest.approx([8 * factor for factor in factors], abs=1e-6)
