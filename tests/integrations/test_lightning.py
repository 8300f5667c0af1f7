"""Lightning trains with a penalty as a loop written by hand does."""

import copy
import logging
import os
import warnings
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from integrations.libraries import pytorch_lightning as pl
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.plugins.precision import MixedPrecision
from pytorch_lightning.strategies import DDPStrategy
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import topoloss
from topoloss.integrations.lightning import PenaltyCallback

SAMPLES, BATCH, RATE = 48, 8, 0.5
OPTIONS = {"sampler": "random", "fraction": 0.5, "warmup": 4, "every": 2}


def data():
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(SAMPLES, 4, generator=generator)
    return TensorDataset(x, torch.randint(3, (SAMPLES,), generator=generator))


class Classifier(pl.LightningModule):
    """Calls itself in its training step."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)
        self.steps = 0
        self.fails_at = None

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)))

    def training_step(self, batch, index):
        self.steps += 1
        if self.steps == self.fails_at:
            raise KeyError("on purpose")
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, index):
        self(batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=RATE)


class Holder(Classifier):
    """Calls a child, and returns a dictionary."""

    forward = pl.LightningModule.forward

    def __init__(self):
        pl.LightningModule.__init__(self)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
        self.metric = nn.Identity()

    def training_step(self, batch, index):
        return {"loss": F.cross_entropy(self.net(batch[0]), batch[1]), "other": 1}

    def validation_step(self, batch, index):
        self.net(batch[0])


def fit(model, *callbacks, resume=None, **options):
    defaults = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    trainer = pl.Trainer(callbacks=list(callbacks), **(defaults | options))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice about workers, and what torch has deprecated
        trainer.fit(model, DataLoader(data(), BATCH), DataLoader(data(), BATCH), ckpt_path=resume)
    return trainer


def by_hand(model, weight, *, epochs=1, accumulation=1, regulariser="t1", **options):
    """Train a copy of a model, as PyTorch's own documentation does."""
    model = copy.deepcopy(model).train()
    net = getattr(model, "net", model)
    penalty = topoloss.attach(net, regulariser, **options)
    optimiser = torch.optim.SGD(model.parameters(), lr=RATE)
    for _ in range(epochs):
        for k, (x, y) in enumerate(DataLoader(data(), BATCH), 1):
            loss = F.cross_entropy(net(x), y) + weight * penalty()
            (loss / accumulation).backward()
            if k % accumulation == 0:
                optimiser.step()
                optimiser.zero_grad()
    return model


def assert_same(model, expected, **tolerance):
    torch.testing.assert_close(model.state_dict(), expected.state_dict(), **tolerance)


@pytest.mark.parametrize("make", [Classifier, Holder])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_it_trains_as_a_loop_by_hand_does(make, accumulation):
    model = make()
    expected = by_hand(model, 0.1, accumulation=accumulation)
    without = by_hand(model, 0, accumulation=accumulation)
    fit(model, PenaltyCallback("t1", 0.1), accumulate_grad_batches=accumulation)
    assert_same(model, expected)
    with pytest.raises(AssertionError):
        assert_same(model, without)


def test_it_is_scaled_with_the_loss_in_mixed_precision():
    model = Classifier()
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    precision = MixedPrecision("16-mixed", "cpu", scaler)
    expected = by_hand(model, 0.1)
    fit(model, PenaltyCallback("t1", 0.1), plugins=[precision])
    # A penalty that is not scaled would count 256 times less.
    assert_same(model, expected, rtol=0.02, atol=0.01)


def test_a_strategy_that_wraps_the_model():
    model = Classifier()
    expected = by_hand(model, 0.1)
    with mock.patch.dict(os.environ):  # Lightning leaves its choices there
        strategy = DDPStrategy(process_group_backend="gloo")
        fit(model, PenaltyCallback("t1", 0.1), strategy=strategy, use_distributed_sampler=False)
        torch.distributed.destroy_process_group()
    assert_same(model, expected)


def test_two_penalties_at_once():
    model = Classifier()
    copied = copy.deepcopy(model).train()
    penalties = topoloss.attach(copied, "t1"), topoloss.attach(copied, "l2")
    optimiser = torch.optim.SGD(copied.parameters(), lr=RATE)
    for x, y in DataLoader(data(), BATCH):
        optimiser.zero_grad()
        loss = F.cross_entropy(copied(x), y) + 0.1 * penalties[0]() + 0.01 * penalties[1]()
        loss.backward()
        optimiser.step()
    trainer = fit(model, PenaltyCallback("t1", 0.1), PenaltyCallback("l2", 0.01))
    assert_same(model, copied)
    assert "training_step" not in vars(trainer.strategy)


def test_a_checkpoint_goes_on_as_if_nothing_had_happened(tmp_path):
    model = Classifier()
    expected = by_hand(model, 0.1, epochs=2, **OPTIONS)
    resumed = copy.deepcopy(model)
    trainer = fit(model, PenaltyCallback("t1", 0.1, **OPTIONS))
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    again = PenaltyCallback("t1", 0.1, **OPTIONS)
    fit(resumed, again, max_epochs=2, resume=tmp_path / "half.ckpt")
    assert_same(resumed, expected)
    assert again.state_dict()["schedule"]["step"] == 2 * SAMPLES // BATCH


@pytest.mark.parametrize("fails_at", [None, 3])
def test_it_detaches_at_the_end_and_after_a_failure(fails_at):
    model, callback = Classifier(), PenaltyCallback("t1", 0.1)
    model.fails_at = fails_at
    if fails_at is None:
        fit(model, callback)
    else:
        with pytest.raises(KeyError, match="on purpose"):
            fit(model, callback)
    assert callback.penalty is None
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_it_idles_in_validation():
    seen = []

    class Watching(pl.Callback):
        def on_validation_batch_end(self, trainer, pl_module, *rest):
            seen.append(callback.penalty.paused)

        def on_train_batch_end(self, trainer, pl_module, *rest):
            seen.append(not callback.penalty.paused)

    callback = PenaltyCallback("t1", 0.1)
    fit(Classifier(), callback, Watching())
    assert len(seen) >= 2 * SAMPLES // BATCH
    assert all(seen)


def test_the_loggers_get_the_numbers(tmp_path):
    table, board = CSVLogger(tmp_path / "csv"), TensorBoardLogger(tmp_path / "board")
    fit(
        Classifier(),
        PenaltyCallback("t1", 0.1),
        logger=[table, board],
        log_every_n_steps=2,
        accumulate_grad_batches=2,
        max_epochs=2,
    )
    rows = (Path(table.log_dir) / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("topoloss/share")
    shares = [float(row.split(",")[column]) for row in rows[1:]]
    read = EventAccumulator(board.log_dir)
    read.Reload()
    written = read.Scalars("topoloss/share")
    assert [event.step for event in written] == [2, 4, 6]
    assert [event.value for event in written] == pytest.approx(shares)
    assert [event.step for event in read.Histograms("topoloss/deaths")] == [6]  # it keeps one


def test_a_state_that_does_not_fit_is_told_and_leaves_nothing_behind():
    model, other = Classifier(), topoloss.attach(nn.Linear(2, 2), sampler="random", fraction=0.5)
    callback = PenaltyCallback("t1", 0.1)
    callback.load_state_dict(other.state_dict())
    trainers = []

    class Watching(pl.Callback):
        def setup(self, trainer, pl_module, stage):
            trainers.append(trainer)

    with pytest.raises(topoloss.OptionError, match="the state is that of a sampler"):
        fit(model, callback, Watching())
    assert "training_step" not in vars(trainers[0].strategy)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_penalties_that_differ_in_any_option_keep_states_of_their_own(tmp_path):
    joined = PenaltyCallback("t1", 0.1, every=2)
    single = PenaltyCallback("t1", 0.1, every=2, per="layer", warmup=3)
    trainer = fit(Classifier(), joined, single)
    trainer.save_checkpoint(tmp_path / "both.ckpt")
    saved = torch.load(tmp_path / "both.ckpt", weights_only=False)["callbacks"]
    assert {joined.state_key, single.state_key} <= saved.keys()


def test_the_name_of_a_state_does_not_hang_on_where_an_option_lies_in_memory():
    def made():
        def counts(args, kwargs):
            return torch.ones(1, 1)

        sampler = topoloss.sampler("random")
        layers = [nn.Linear, "conv*"]
        return PenaltyCallback(
            "t1", 0.1, units="channel", layers=layers, mask=counts, sampler=sampler
        )

    first, second = made(), made()
    assert first.state_key == second.state_key


SAME = {"max_neurons": None, "on_small_batch": "skip", "eval_pass": False, "sampler": "importance"}


@pytest.mark.parametrize("option", SAME)
def test_a_run_is_resumed_with_its_state_where_an_option_changes_nothing_of_it(tmp_path, option):
    expected = Classifier()
    resumed = copy.deepcopy(expected)
    fit(expected, PenaltyCallback("t1", 0.1, warmup=1000), max_epochs=2)
    trainer = fit(resumed, PenaltyCallback("t1", 0.1, warmup=1000), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    again = PenaltyCallback("t1", 0.1, warmup=1000, **{option: SAME[option]})
    fit(resumed, again, max_epochs=2, resume=tmp_path / "half.ckpt")
    assert_same(resumed, expected)


class ByHand(Classifier):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


class TwoNets(Holder):
    def __init__(self):
        super().__init__()
        self.other = nn.Linear(2, 2)


class CallsAChild(Holder):
    def forward(self, x):
        return self.net(x)


@pytest.mark.parametrize(
    ("make", "options", "match"),
    [
        (ByHand, {}, "uses manual optimisation"),
        (TwoNets, {}, r"2 children .*\['net', 'other'\]; say with module="),
        (Holder, {"module": "nets"}, r"module='nets' is not a module of Holder.*\['net'"),
        (Classifier, {"layers": "conv*"}, r"conv\*"),
        (CallsAChild, {}, "was not run"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(make, options, match):
    callback = PenaltyCallback("t1", 0.1, **options)
    with pytest.raises(topoloss.TopolossError, match=match) as error:
        fit(make(), callback)
    assert callback.penalty is None
    if make is CallsAChild:
        assert "module='net'" in error.value.__notes__[0]
