"""Warm-up, a penalty at every k-th step, and a share of the time."""

import copy
import logging
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from attaching.helpers import Net, alive, batch, gradients, outputs_of, penalty_by_hand
from torch import nn

import topoloss


def step(model, penalty, x):
    """A step of training, up to its penalty."""
    model(x)
    return penalty()


def values(model, penalty, steps, x):
    return [step(model, penalty, x).item() for _ in range(steps)]


def full(model, x):
    return penalty_by_hand(model, x).item()


@pytest.mark.parametrize("eval_pass", [False, True])
def test_warm_up_rises_linearly_from_0_to_1(eval_pass):
    model, x = Net(), batch(4)
    penalty = topoloss.attach(model, warmup=4, eval_pass=eval_pass)
    expected = [share * full(model, x) for share in (0, 0.25, 0.5, 0.75, 1, 1)]
    assert values(model, penalty, 6, x) == pytest.approx(expected)


def test_the_gradient_is_multiplied_as_well():
    model, x = Net(), batch(4)
    penalty = topoloss.attach(model, warmup=2)
    expected = gradients(penalty_by_hand(model, x), model)
    for factor in (0, 0.5, 1):
        value = step(model, penalty, x)
        torch.testing.assert_close(gradients(value, model), [factor * g for g in expected])


@pytest.mark.parametrize("eval_pass", [False, True])
def test_every_third_step_has_the_whole_penalty(eval_pass):
    model, x = Net(), batch(4)
    penalty = topoloss.attach(model, every=3, eval_pass=eval_pass)
    value = full(model, x)
    assert values(model, penalty, 7, x) == pytest.approx([value, 0, 0, value, 0, 0, value])


def test_warm_up_counts_the_steps_without_the_penalty_too():
    model, x = Net(), batch(4)
    penalty = topoloss.attach(model, warmup=4, every=3)
    value = full(model, x)
    expected = [0, 0, 0, 0.75 * value, 0, 0, value]
    assert values(model, penalty, 7, x) == pytest.approx(expected)


def test_between_steps_backward_is_accepted_and_gives_no_gradient():
    model, x = Net(), batch(4)
    penalty = topoloss.attach(model, every=2)
    step(model, penalty, x)
    step(model, penalty, x).backward()
    assert all(p.grad is None for p in model.parameters())
    step(model, penalty, x)
    loss = model(x).square().mean()
    expected = gradients(loss, model)
    (loss + 0.1 * penalty()).backward()
    torch.testing.assert_close([p.grad for p in model.parameters()], expected)


def test_between_steps_nothing_is_recorded():
    model, x = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)), batch(4)
    penalty = topoloss.attach(model, every=2)
    step(model, penalty, x)
    with outputs_of(model) as references:
        model(x)
    assert len(references) == 2
    assert not alive(references)
    for ask in (penalty.activations, penalty.diagrams, penalty.describe, lambda: penalty.neurons):
        with pytest.raises(topoloss.AttachmentError, match=r"nothing was recorded .* every="):
            ask()
    penalty()
    assert step(model, penalty, x).item() == pytest.approx(
        topoloss.regulariser("t1")(torch.cat(list(penalty.activations().values()), 1)).item()
    )


def test_a_description_of_given_inputs_needs_no_step():
    model, x = Net(), batch(4)
    for eval_pass in (False, True):
        penalty = topoloss.attach(model, every=2, eval_pass=eval_pass)
        values(model, penalty, 1, x)
        model(x)
        assert "first" in str(penalty.describe(x))
        assert penalty().item() == 0


def test_a_penalty_asked_for_twice_is_one_step():
    model, x = Net(), batch(4)
    penalty = topoloss.attach(model, warmup=2, every=2)
    for factor in (0, 0, 1, 0):
        model(x)
        assert penalty().item() == penalty().item() == pytest.approx(factor * full(model, x))


def test_a_pass_without_a_penalty_is_no_step():
    model, x = Net(), batch(4)
    penalty = topoloss.attach(model, every=2)
    model(x)
    assert step(model, penalty, x).item() != 0
    model(x)
    assert step(model, penalty, x).item() == 0


def test_evaluation_is_no_step_and_has_the_full_value():
    model, x = Net(), batch(4)
    penalty = topoloss.attach(model, warmup=10, every=2)
    step(model, penalty, x)
    model.eval()
    with torch.no_grad():
        assert values(model, penalty, 3, x) == pytest.approx([full(model, x)] * 3)
    model.train()
    with torch.no_grad():
        assert step(model, penalty, x).item() == pytest.approx(full(model, x))
    assert step(model, penalty, x).item() == 0  # the second step
    assert step(model, penalty, x).item() == pytest.approx(0.2 * full(model, x))


def test_a_penalty_without_gradients_after_a_pass_of_training_counts_no_step():
    model, x = Net(), batch(4)
    penalty = topoloss.attach(model, warmup=2)
    for _ in range(3):
        model(x)
        with torch.no_grad():
            assert penalty().item() == 0
    assert values(model, penalty, 2, x) == pytest.approx([0, 0.5 * full(model, x)])


def test_training_in_evaluation_mode_is_told_of_once():
    model, x = Net().eval(), batch(4)
    penalty = topoloss.attach(model, warmup=2)
    with pytest.warns(topoloss.AttachmentWarning, match=r"not a training step.*warmup=") as told:
        assert values(model, penalty, 2, x) == pytest.approx([full(model, x)] * 2)
    assert len(told) == 1


def test_accumulation_counts_each_micro_batch():
    model, x = Net(), batch(4, samples=12)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    penalty = topoloss.attach(model, every=3)
    valued = []
    for _ in range(3):
        for part in x.chunk(2):
            loss = model(part).square().mean()
            value = penalty()
            valued.append(value.item() != 0)
            ((loss + value) / 2).backward()
        optimiser.step()
        optimiser.zero_grad()
    assert valued == [True, False, False, True, False, False]


def test_a_penalty_of_another_attachment_that_repeats_the_pass_is_no_step_of_this_one():
    model, x = Net(), batch(4)
    second = topoloss.attach(model, "t1", eval_pass=True)
    penalty = topoloss.attach(model, every=2)
    for applied in (True, False, True):
        model(x)
        second()
        assert (penalty().item() != 0) == applied


@pytest.mark.parametrize("regulariser", ["l2", "l1"])
def test_a_penalty_of_parameters_counts_its_calls(regulariser):
    model = Net()
    value = topoloss.attach(model, regulariser)().item()
    penalty = topoloss.attach(model, regulariser, warmup=2, every=2)
    assert [penalty().item() for _ in range(5)] == pytest.approx([0, 0, value, 0, value])


def test_the_state_goes_on_with_the_count():
    model, x = Net(), batch(4)
    penalty = topoloss.attach(model, warmup=8, every=3)
    values(model, penalty, 5, x)
    resumed = topoloss.attach(model)
    resumed.load_state_dict(penalty.state_dict())
    assert values(model, resumed, 5, x) == values(model, penalty, 5, x)


def test_a_state_that_is_taken_over_decides_on_the_next_pass():
    model, x = Net(), batch(4)
    penalty = topoloss.attach(model, every=2)
    state = penalty.state_dict()
    step(model, penalty, x)
    penalty.load_state_dict(state)  # back to the first step, which has the penalty
    assert step(model, penalty, x).item() == pytest.approx(full(model, x))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_a_copy_goes_on_with_the_count(copied):
    model, x = Net(), batch(4)
    penalty = topoloss.attach(model, every=3)
    values(model, penalty, 2, x)
    other, its_penalty = copied((model, penalty))
    assert values(other, its_penalty, 5, x) == values(model, penalty, 5, x)


def test_which_neurons_are_sampled_goes_on_from_one_applied_step_to_the_next():
    model, x = Net(), batch(4)

    def drawn(every):
        penalty = topoloss.attach(model, every=every, sampler="random", fraction=0.5)
        found = []
        for k in range(4 * every):
            step(model, penalty, x)
            if k % every == 0:
                found.append([index.tolist() for index in penalty.neurons.values()])
        return found

    assert drawn(3) == drawn(1)


def test_compiled_passes_are_counted():
    model, x = Net(), batch(4)
    penalty = topoloss.attach(model, warmup=2, every=2)
    step(model, penalty, x)
    compiled = torch.compile(model, backend="eager")
    expected = [factor * full(model, x) for factor in (0, 1, 0, 1)]
    assert values(compiled, penalty, 4, x) == pytest.approx(expected)


def test_a_compiled_model_may_go_on_between_applied_steps():
    model, x = Net(), batch(4)
    penalty = topoloss.attach(model, every=3)
    values(model, penalty, 1, x)
    resumed = topoloss.attach(model)
    resumed.load_state_dict(penalty.state_dict())
    assert step(model, resumed, x).item() == 0  # the second step, and the first watched
    compiled = torch.compile(model, backend="eager")
    value = full(model, x)
    assert values(compiled, resumed, 3, x) == pytest.approx([0, value, 0])


# A share of the time: the clock is the test's own.


class Clock:
    """A clock that is put forward, instead of `time.perf_counter`."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    clock = Clock()
    with mock.patch("topoloss.attaching.schedule.perf_counter", clock):
        yield clock


def train(model, penalty, x, clock, steps, *, cost, accumulation=1, slow=()):
    """Train with a penalty that costs `cost` times as much as the rest; say when it was applied."""
    applied = []
    for k in range(steps):
        applied.append(step(model, penalty, x).item() != 0)
        clock.now += 1 + cost * applied[-1] + (k in slow) * 100
        clock.now += 0.5 * (k % accumulation == accumulation - 1)  # the optimiser's step
    return applied


@pytest.mark.parametrize(
    ("cost", "every"), [(0.05, 1), (0.1499, 1), (0.1501, 2), (0.29, 2), (1.49, 10), (2.99, 20)]
)
def test_the_share_of_time_decides_on_the_steps_with_the_penalty(clock, caplog, cost, every):
    model, x = Net(), batch(4)
    caplog.set_level(logging.INFO, "topoloss")
    penalty = topoloss.attach(model, overhead=0.1)
    # The step itself takes 1.5.
    train(model, penalty, x, clock, 20, cost=cost, slow=(0, 7, 17))
    assert re.search(rf"overhead=0\.1.*every={every}\b", caplog.text)
    applied = train(model, penalty, x, clock, 4 * every, cost=cost)
    assert sum(applied) == 4
    assert [k % every for k, each in enumerate(applied, 20) if each] == [0] * 4


@pytest.mark.parametrize("accumulation", [1, 2, 3, 4])
def test_accumulation_leaves_the_share_below_its_bound(clock, accumulation):
    model, x = Net(), batch(4)
    penalty = topoloss.attach(model, overhead=0.1)
    train(model, penalty, x, clock, 20, cost=1.2, accumulation=accumulation)
    applied = train(model, penalty, x, clock, 240, cost=1.2, accumulation=accumulation)
    plain = 240 * (1 + 0.5 / accumulation)
    assert 0.05 <= 1.2 * sum(applied) / plain <= 0.1 + 1e-9


def test_what_was_measured_is_kept_in_the_state(clock):
    model, x = Net(), batch(4)
    penalty = topoloss.attach(model, overhead=0.1)
    train(model, penalty, x, clock, 24, cost=0.6)
    resumed = topoloss.attach(model, overhead=0.1)
    resumed.load_state_dict(copy.deepcopy(penalty.state_dict()))
    expected = train(model, penalty, x, clock, 25, cost=0.6)
    assert sum(expected) < 25 / 2
    assert train(model, resumed, x, clock, 25, cost=9) == expected


def test_a_measurement_that_was_interrupted_begins_anew(clock):
    model, x = Net(), batch(4)
    penalty = topoloss.attach(model, overhead=0.1)
    train(model, penalty, x, clock, 13, cost=0.6)
    resumed = topoloss.attach(model, overhead=0.1)
    resumed.load_state_dict(penalty.state_dict())
    train(model, resumed, x, clock, 20, cost=1.5)
    assert sum(train(model, resumed, x, clock, 40, cost=1.5)) == 4


PROCESS = """
import sys
from unittest import mock

import torch

import topoloss
from attaching.test_schedule import Clock, Net, train

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group(
    "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
)
clock = Clock()
with mock.patch("topoloss.attaching.schedule.perf_counter", clock):
    penalty = topoloss.attach(model := Net(), overhead=0.1)
    x = torch.randn(6, 4)
    train(model, penalty, x, clock, 20, cost=[0.59, 2.99][rank])
    print(sum(train(model, penalty, x, clock, 40, cost=1)))
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_rank_0_decides_for_all_processes(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(rank), str(tmp_path)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    ended = [process.communicate(timeout=120) for process in processes]
    # Rank 0 measured that every 4th step has the penalty; rank 1 alone would have every 20th.
    assert [out for out, _ in ended] == ["10\n", "10\n"], ended


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"warmup": -1}, "warmup=-1 .* integer, warmup >= 0"),
        ({"warmup": 0.5}, "warmup=0.5 .* integer"),
        ({"every": 0}, "every=0 .* every >= 1"),
        ({"overhead": 0}, "overhead=0 .* overhead > 0"),
        ({"overhead": 0.1, "every": 2}, "overhead chooses every"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, match):
    with pytest.raises(topoloss.OptionError, match=match):
        topoloss.attach(Net(), **options)
