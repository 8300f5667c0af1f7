"""A loop that accelerate runs trains with a penalty as one written by hand does."""

import copy

import pytest
import torch
import torch.nn.functional as F
from integrations.libraries import accelerate
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import topoloss
from topoloss.integrations.accelerate import attach

SAMPLES, BATCH, RATE, WEIGHT = 48, 8, 0.5, 0.1


def network():
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def data():
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(SAMPLES, 4, generator=generator, dtype=torch.float64)
    return DataLoader(TensorDataset(x, torch.randint(3, (SAMPLES,), generator=generator)), BATCH)


class Run:
    """A model, its penalty and its optimiser, in the care of an accelerator."""

    def __init__(self, model, *, accumulation=1, after=True, scale=None, **options):
        self.accelerator = accelerate.Accelerator(
            cpu=True, gradient_accumulation_steps=accumulation
        )
        if scale is not None:
            self.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        if not after:
            self.penalty = attach(self.accelerator, model, "t1", **options)
        optimiser = torch.optim.SGD(model.parameters(), lr=RATE)
        self.model, self.optimiser, self.data = self.accelerator.prepare(model, optimiser, data())
        if after:
            self.penalty = attach(self.accelerator, self.model, "t1", **options)

    def epoch(self):
        for x, y in self.data:
            with self.accelerator.accumulate(self.model):
                loss = F.cross_entropy(self.model(x), y) + WEIGHT * self.penalty()
                self.accelerator.backward(loss)
                self.optimiser.step()
                self.optimiser.zero_grad()


def by_hand(model, *, accumulation=1, weight=WEIGHT, epochs=1, **options):
    model = copy.deepcopy(model)
    penalty = topoloss.attach(model, "t1", **options)
    optimiser = torch.optim.SGD(model.parameters(), lr=RATE)
    for _ in range(epochs):
        for k, (x, y) in enumerate(data(), 1):
            loss = F.cross_entropy(model(x), y) + weight * penalty()
            (loss / accumulation).backward()
            if k % accumulation == 0:
                optimiser.step()
                optimiser.zero_grad()
    return model


def assert_same(model, expected):
    torch.testing.assert_close(model.state_dict(), expected.state_dict())


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_it_trains_as_a_loop_by_hand_does(after, accumulation):
    model = network()
    expected = by_hand(model, accumulation=accumulation)
    without = by_hand(model, accumulation=accumulation, weight=0)
    Run(model, accumulation=accumulation, after=after).epoch()
    assert_same(model, expected)
    with pytest.raises(AssertionError):
        assert_same(model, without)


def test_it_is_scaled_with_the_loss_in_mixed_precision():
    model = network()
    expected = by_hand(model, accumulation=2)
    run = Run(model, accumulation=2, scale=256.0)
    run.epoch()
    assert_same(model, expected)
    assert run.accelerator.scaler.state_dict()["_growth_tracker"] == 3  # steps that it scaled


def test_the_global_batch_of_one_process_is_its_own():
    model = network()
    expected = by_hand(model)
    Run(model, global_batch=True).epoch()
    assert_same(model, expected)


def test_a_checkpoint_goes_on_as_if_nothing_had_happened(tmp_path):
    options = {"sampler": "random", "fraction": 0.5, "warmup": 8, "every": 2}
    model = network()
    expected = by_hand(model, epochs=2, **options)
    run = Run(copy.deepcopy(model), **options)
    run.epoch()
    run.accelerator.save_state(str(tmp_path))
    resumed = Run(model, **options)
    resumed.accelerator.load_state(str(tmp_path))
    resumed.epoch()
    assert_same(model, expected)


def test_a_flag_that_is_none_is_refused():
    accelerator = accelerate.Accelerator(cpu=True)
    with pytest.raises(topoloss.OptionError, match="global_batch='yes'"):
        attach(accelerator, network(), global_batch="yes")


def test_a_group_beside_the_global_batch_is_refused():
    accelerator = accelerate.Accelerator(cpu=True)
    with pytest.raises(topoloss.OptionError, match="global_batch=True and group= were given"):
        attach(accelerator, network(), global_batch=True, group=object())
