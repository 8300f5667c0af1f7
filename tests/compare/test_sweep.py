import optuna
import pytest
import torch

import topoloss
from topoloss.compare.sweep import Arm, Problem, parse_arms, sweep
from topoloss.compare.training import Protocol

PROBLEM = Problem("net0", "digits", Protocol(max_epochs=1))
ARMS = [Arm("none", 0.0), Arm("l2", 1e-4), Arm("l2", 1e-5)]


def started(folder, arms=ARMS, problem=PROBLEM, seeds=(0, 1), **callbacks):
    starts = []
    runs = sweep(
        arms,
        seeds,
        problem,
        folder,
        on_start=lambda arm, seed: starts.append((arm, seed)),
        **callbacks,
    )
    return starts, runs


def test_every_arm_meets_every_split_once(tmp_path):
    starts, runs = started(tmp_path)
    assert starts == [(arm, seed) for arm in ARMS for seed in (0, 1)]
    assert [(run.arm, run.seed) for run in runs] == starts


def test_finished_runs_are_found_again_and_not_repeated(tmp_path):
    _, runs = started(tmp_path)
    starts, again = started(tmp_path)
    assert starts == []
    assert again == runs


def test_a_larger_grid_trains_only_what_is_new(tmp_path):
    started(tmp_path, arms=ARMS[:1])
    starts, runs = started(tmp_path, arms=ARMS[:2], seeds=(0, 1, 2))
    assert starts == [(ARMS[0], 2), (ARMS[1], 0), (ARMS[1], 1), (ARMS[1], 2)]
    assert len(runs) == 6


def test_an_interrupted_sweep_goes_on_where_it_stopped(tmp_path):
    epochs = []

    def interrupt_third_run(epoch):
        epochs.append(epoch)
        if len(epochs) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        started(tmp_path, on_epoch=interrupt_third_run)
    starts, runs = started(tmp_path)
    assert starts == [(arm, seed) for arm in ARMS for seed in (0, 1)][2:]
    assert len(runs) == 6


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_sweep_interrupted_while_it_stores_a_run_mixes_nothing_up(tmp_path, monkeypatch, when):
    store = optuna.Study.add_trial

    def interrupted(study, trial):
        if when == "after":
            store(study, trial)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "add_trial", interrupted)
        with pytest.raises(KeyboardInterrupt):
            started(tmp_path)
    _, runs = started(tmp_path)
    starts, again = started(tmp_path)
    assert starts == []
    assert again == runs


def test_a_sweep_leaves_the_random_state_as_found(tmp_path):
    before = torch.get_rng_state()
    started(tmp_path, arms=ARMS[:1])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_split_is_the_same_for_all_arms(tmp_path):
    """The untrained network and the data coincide, so the deaths before training do."""
    _, runs = started(tmp_path)
    by_seed = {seed: [r.outcome.deaths_before for r in runs if r.seed == seed] for seed in (0, 1)}
    assert all(deaths == by_seed[0][0] for deaths in by_seed[0])
    assert by_seed[0][0] != by_seed[1][0]


def test_a_folder_of_another_problem_is_refused(tmp_path):
    started(tmp_path, arms=ARMS[:1], seeds=(0,))
    other = Problem("net2", "digits", Protocol(max_epochs=1))
    with pytest.raises(topoloss.InputError, match=r"model is 'net0' there and 'net2' here"):
        started(tmp_path, arms=ARMS[:1], seeds=(0,), problem=other)


def test_an_unknown_network_leaves_no_folder(tmp_path):
    with pytest.raises(topoloss.UnknownNameError):
        started(tmp_path / "new", problem=Problem("net9"))
    assert not (tmp_path / "new").exists()


def test_parse_arms_keeps_order_and_drops_repetitions():
    arms = parse_arms(["t1=1e-2,1e-3", "none", "t1=0.01"])
    assert arms == [Arm("t1", 0.01), Arm("t1", 0.001), Arm("none", 0.0)]


@pytest.mark.parametrize(
    ("arms", "error", "message"),
    [
        (["t9=1"], topoloss.UnknownNameError, "no regulariser is named 't9'"),
        (["t1"], topoloss.OptionError, "has no weight; write t1=WEIGHT"),
        (["t1=x"], topoloss.OptionError, "'x' is not a number"),
        (["t1=-1"], topoloss.OptionError, "'-1' is not a number between"),
        (["t1=nan"], topoloss.OptionError, "'nan' is not a number between"),
        ([], topoloss.OptionError, "no regulariser was given"),
    ],
)
def test_arms_that_make_no_sense(arms, error, message):
    with pytest.raises(error, match=message):
        parse_arms(arms)
