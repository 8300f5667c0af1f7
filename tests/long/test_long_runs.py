"""Long trainings with attachments: nothing accumulates, on the model or in memory.

By default some hundred steps, which count objects and hooks.
``pytest -m deep tests/long`` trains for 20,000 steps and measures the memory of the process.
"""

import contextlib
import gc
import itertools
from pathlib import Path

import pytest
import torch
from attaching.helpers import hooks
from torch import nn

import topoloss

STATM = Path("/proc/self/statm")


def network():
    return nn.Sequential(
        *(nn.Linear(4, 12), nn.ReLU(inplace=True), nn.Dropout(0.1)),
        *(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3)),
    )


def batches():
    """Batches of 16 samples, and one of a single sample after every third."""
    generator = torch.Generator().manual_seed(1)
    full = [torch.randn(16, 4, generator=generator) for _ in range(3)]
    return itertools.cycle([*full, full[0][:1]])


def sequences():
    return itertools.cycle([torch.randn(6, 5, 4), torch.randn(8, 3, 4)])


def every_other_position(args, kwargs):
    samples, positions = args[0].shape[:2]
    return (torch.arange(positions) % 2 == 0).expand(samples, positions)


class FailsEveryThirdTime(topoloss.Loss):
    calls = 0

    def forward(self, diagrams):
        self.calls += 1
        if self.calls % 3 == 0:
            raise ZeroDivisionError("every third time")
        return diagrams[0].deaths.sum()


def step(model, optimiser, x, penalties):
    optimiser.zero_grad()
    loss = model(x).square().mean()
    for penalty in penalties:
        loss = loss + 1e-2 * penalty()
    loss.backward()
    optimiser.step()


def attached_once(make_batches=batches, **options):
    """Steps of a training with one attachment."""

    def steps(model, optimiser):
        with topoloss.attach(model, on_small_batch="skip", **options) as penalty:
            for x in make_batches():
                yield step(model, optimiser, x, [penalty])

    return steps


def failing(model, optimiser):
    """Each third penalty raises."""
    regulariser = topoloss.pipeline("correlation", "mst", FailsEveryThirdTime())
    with topoloss.attach(model, regulariser, on_small_batch="skip") as penalty:
        for x in batches():
            with contextlib.suppress(ZeroDivisionError):
                step(model, optimiser, x, [penalty])
            yield


def one_after_another(model, optimiser):
    """Attachments that are removed, left or dropped, some of them two at once."""
    given = batches()
    while True:
        penalty = topoloss.attach(model, on_small_batch="skip")
        yield step(model, optimiser, next(given), [penalty])
        penalty.remove()
        with topoloss.attach(model, "t2", on_small_batch="skip") as penalty:
            yield step(model, optimiser, next(given), [penalty])
            other = topoloss.attach(model, "t1", sampler="random", on_small_batch="skip")
            yield step(model, optimiser, next(given), [penalty, other])
            del other
        seen = topoloss.observe(model)
        yield step(model, optimiser, next(given), [])
        seen.activations()
        del seen, penalty


TRAININGS = {
    "t1": attached_once(),
    "sampler": attached_once(sampler="random", fraction=0.5),
    "evaluation pass": attached_once(eval_pass=True),
    "mask": attached_once(sequences, units="channel", mask=every_other_position),
    "layer by layer": attached_once(per="layer"),
    "failing": failing,
    "one after another": one_after_another,
}


def train(which, *, warm_up, steps, measure):
    """Measure after the warm-up and at the end; nothing that hangs on the model grows."""
    torch.manual_seed(0)
    model = network()
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-2)
    running = TRAININGS[which](model, optimiser)
    found = []
    for count in (warm_up, steps - warm_up):
        for _ in itertools.islice(running, count):
            pass
        gc.collect()
        found.append((measure(), len(hooks(model))))
        assert torch.overrides._get_current_function_mode_stack() == []
    running.close()
    gc.collect()
    assert hooks(model) == []
    (before, hooks_before), (after, hooks_after) = found
    assert hooks_after == hooks_before
    return after - before


def objects():
    """How many objects the garbage collector knows: tensors, functions, hooks, containers."""
    return len(gc.get_objects())


# Both counts are taken at the same place of the cycle of batches.
@pytest.mark.parametrize("which", TRAININGS)
def test_no_object_is_kept_for_each_step(which):
    """One for each cycle of four batches would be 60; a cache elsewhere may still take a few."""
    assert train(which, warm_up=60, steps=300, measure=objects) < 30


def resident_bytes():
    return int(STATM.read_text().split()[1]) * 4096


@pytest.mark.deep
@pytest.mark.skipif(not STATM.exists(), reason="the system does not tell a process's memory there")
@pytest.mark.parametrize("which", TRAININGS)
def test_memory_does_not_grow_in_20000_steps(which):
    """A tensor kept for each step, of some 500 bytes, would make 9 MB of the 18,000 steps.

    The allocators take memory by pieces of up to 1 MiB, and may do so a few times: 4 MiB.
    """
    assert train(which, warm_up=2_000, steps=20_000, measure=resident_bytes) < 4 * 2**20
