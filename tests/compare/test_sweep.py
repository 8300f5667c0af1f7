import importlib
import os
import random
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import optuna
import pytest
import torch
from compare.quick import ARMS, SEARCHES, SETUP, TESTS

import topoloss
from topoloss.compare.paper import protocols
from topoloss.compare.records import Arm, Protocol, Setup
from topoloss.compare.searches import Grid, Tpe
from topoloss.compare.storage import database
from topoloss.compare.sweep import sweep

POINTS = [(ARMS[0], 0), (ARMS[0], 1), (ARMS[1], 0), (ARMS[2], 0), (ARMS[1], 1), (ARMS[2], 1)]


def started(folder, searches=SEARCHES, setup=SETUP, seeds=(0, 1), **callbacks):
    starts = []
    runs = sweep(
        searches,
        seeds,
        setup,
        database(folder),
        on_start=lambda arm, seed: starts.append((arm, seed)),
        **callbacks,
    )
    return starts, runs


# What a process needs to import the setup's network.
ENVIRONMENT = os.environ | {"PYTHONPATH": str(TESTS)}


def without_seconds(runs):
    """All of a run but what is measured."""
    return [
        replace(run, outcome=replace(run.outcome, seconds=0.0, step_seconds=None, cpu_seconds=None))
        for run in runs
    ]


def test_every_arm_meets_every_split_once(tmp_path):
    starts, runs = started(tmp_path)
    assert starts == POINTS
    assert [(run.arm, run.seed) for run in runs] == starts


def test_finished_runs_are_found_again_and_not_repeated(tmp_path):
    _, runs = started(tmp_path)
    starts, again = started(tmp_path)
    assert starts == []
    assert again == runs


def test_a_larger_grid_trains_only_what_is_new(tmp_path):
    started(tmp_path, searches=[Grid("l2", (1e-5,))])
    found = []
    starts, runs = started(tmp_path, searches=SEARCHES[1:], seeds=(0, 1, 2), on_found=found.append)
    assert found == [2]
    assert starts == [(ARMS[2], 0), (ARMS[2], 1), (ARMS[1], 2), (ARMS[2], 2)]
    assert len(runs) == 6


def test_a_smaller_grid_returns_no_more_than_it_asks_for(tmp_path):
    started(tmp_path)
    starts, runs = started(tmp_path, searches=[Grid("l2", (1e-4,))])
    assert starts == []
    assert [(run.arm, run.seed) for run in runs] == [(ARMS[2], 0), (ARMS[2], 1)]


def test_an_interrupted_sweep_goes_on_where_it_stopped(tmp_path):
    epochs = []

    def interrupt_third_run(epoch):
        epochs.append(epoch)
        if len(epochs) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        started(tmp_path, on_epoch=interrupt_third_run)
    starts, runs = started(tmp_path)
    assert starts == POINTS[2:]
    assert len(runs) == 6


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_sweep_interrupted_while_it_stores_a_run_mixes_nothing_up(tmp_path, monkeypatch, when):
    store = optuna.trial.Trial.set_user_attr

    def interrupted(trial, key, value):
        if when == "after":
            store(trial, key, value)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(optuna.trial.Trial, "set_user_attr", interrupted)
        with pytest.raises(KeyboardInterrupt):
            started(tmp_path)
    starts, runs = started(tmp_path)
    assert starts == POINTS
    starts, again = started(tmp_path)
    assert starts == []
    assert again == runs


KILLED = """
import sys
from compare.quick import SEARCHES, SETUP
from topoloss.compare.sweep import sweep

epochs = []

def epoch(e):
    epochs.append(e)
    if len(epochs) == 3:
        print("third run", flush=True)
        sys.stdin.read()  # until it is killed

sweep(SEARCHES, (0, 1), SETUP, sys.argv[1], heartbeat=1, on_epoch=epoch)
"""


@pytest.mark.slow
def test_a_killed_sweep_loses_and_repeats_no_finished_run(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, database(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    ) as process:
        assert process.stdout.readline() == "third run\n"
        process.kill()
    starts, runs = started(tmp_path, heartbeat=1)
    # The third point is done last, once the killed process has given no sign of life.
    assert sorted(starts) == sorted(POINTS[2:])
    assert [(run.arm, run.seed) for run in runs] == POINTS
    (tmp_path / "whole").mkdir()
    _, uninterrupted = started(tmp_path / "whole")
    assert without_seconds(runs) == without_seconds(uninterrupted)
    starts, again = started(tmp_path)
    assert starts == []
    assert again == runs


KILLED_WITH_CHILDREN = """
import sys
from compare.quick import SEARCHES, SETUP
from topoloss.compare.sweep import sweep

def told(run):
    print("a run", flush=True)

if __name__ == "__main__":
    sweep(SEARCHES, (0, 1), SETUP, sys.argv[1], heartbeat=1, jobs=2, on_finish=told)
"""


@pytest.mark.slow
def test_children_end_with_their_killed_parent(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(KILLED_WITH_CHILDREN, encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, str(script), database(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    ) as process:
        assert process.stdout.readline() == "a run\n"
        process.kill()
        process.stdout.read()  # which ends when the children do, who have it open too
    starts, runs = started(tmp_path, heartbeat=1)
    assert len(starts) < len(POINTS)
    assert [(run.arm, run.seed) for run in runs] == POINTS


KILLED_AT_ONCE = """
import os, sys, threading
from compare.quick import SEARCHES, SETUP
from topoloss.compare.sweep import sweep

# Optuna gives signs of life from a thread.
threading.Thread.start = threading.Thread.join = lambda thread: None
sweep(SEARCHES[:1], (0, 1), SETUP, sys.argv[1], heartbeat=1, on_start=lambda *_: os._exit(3))
"""


@pytest.mark.slow
def test_a_trial_killed_with_its_weight_before_optunas_first_sign_of_life(tmp_path):
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_AT_ONCE, database(tmp_path)], check=False, env=ENVIRONMENT
    )
    assert killed.returncode == 3
    starts, _ = started(tmp_path, searches=SEARCHES[:1], heartbeat=1)
    assert sorted(starts) == POINTS[:2]


def test_a_trial_killed_before_its_first_sign_of_life_is_done_again(tmp_path):
    started(tmp_path, searches=[SEARCHES[0], Grid("l2", ())])
    # As another process has it open.
    storage = optuna.storages.RDBStorage(database(tmp_path))
    study = optuna.load_study(study_name="l2, split 0", storage=storage)
    study.enqueue_trial({"weight": 1e-5}, user_attrs={"weight": 1e-5})
    study.ask()
    starts, _ = started(tmp_path, heartbeat=1)
    assert sorted(starts) == sorted(POINTS[2:])


@pytest.mark.slow
def test_processes_share_the_runs(tmp_path):
    finished = []
    runs = sweep(SEARCHES, (0, 1), SETUP, database(tmp_path), jobs=2, on_finish=finished.append)
    assert [(run.arm, run.seed) for run in runs] == POINTS
    key = lambda run: (run.arm, run.seed)  # noqa: E731
    assert sorted(finished, key=key) == sorted(runs, key=key)
    storage = optuna.storages.RDBStorage(database(tmp_path))
    trials = [
        t
        for study in optuna.study.get_all_study_summaries(storage)
        for t in optuna.load_study(study_name=study.study_name, storage=storage).trials
    ]
    assert [t.state.name for t in trials].count("COMPLETE") == len(POINTS)
    storage.engine.dispose()


@pytest.mark.slow
def test_an_error_in_a_process_is_raised_and_ends_the_others(tmp_path, monkeypatch):
    """A run takes very long, so the test ends only because the other process stops its own."""
    (tmp_path / "sometimes.py").write_text(
        "import multiprocessing, os, torch\n"
        "def make():\n"
        "    if multiprocessing.parent_process():\n"
        "        try:\n"
        "            os.mkdir('first')\n"
        "        except FileExistsError:\n"
        "            pass\n"
        "        else:\n"
        "            raise RuntimeError('the first of all')\n"
        "    return torch.nn.Linear(64, 10)\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    setup = Setup("sometimes:make", "digits", Protocol(max_epochs=100_000, patience=100_000))
    with pytest.raises(RuntimeError, match="the first of all") as raised:
        sweep(SEARCHES, (0, 1), setup, database(tmp_path), jobs=2)
    assert re.search(r"study\.db has the finished runs", "".join(raised.value.__notes__))


def test_a_killed_process_is_told(tmp_path, monkeypatch):
    (tmp_path / "killed_network.py").write_text(
        "import multiprocessing, os, signal, torch\n"
        "def make():\n"
        "    if multiprocessing.parent_process():\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return torch.nn.Linear(64, 10)\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    setup = Setup("killed_network:make", "digits", Protocol(max_epochs=1))
    with pytest.raises(topoloss.TopolossError, match=r"was killed.*fewer --jobs"):
        sweep(SEARCHES[:1], (0,), setup, database(tmp_path), jobs=2)


OWN = """
import torch
width = 4
def network():
    return torch.nn.Linear(64, 6 + width)
"""


def test_runs_of_a_changed_module_are_those_of_another_setup(tmp_path, own_module, monkeypatch):
    name = own_module(OWN)
    setup = Setup(f"{name}:network", "digits", Protocol(max_epochs=1))
    started(tmp_path, SEARCHES[:1], setup, seeds=(0,))
    monkeypatch.setattr(importlib.import_module(name), "width", 5)
    with pytest.raises(topoloss.InputError, match="digest is"):
        started(tmp_path, SEARCHES[:1], setup, seeds=(0, 1))


def test_tpe_draws_so_many_weights_on_each_split_and_goes_on(tmp_path):
    searches = [Tpe("l2", 1e-6, 1e-2, trials=3)]
    starts, runs = started(tmp_path, searches=searches)
    assert [seed for _, seed in starts] == [0, 0, 0, 1, 1, 1]
    assert all(1e-6 <= run.arm.weight <= 1e-2 for run in runs)
    assert len({run.arm for run in runs}) == 6
    assert started(tmp_path, searches=searches) == ([], runs)


@pytest.mark.parametrize(
    ("model", "data"),
    [
        ("net1", "mnist"),
        pytest.param("vgg256-dropout", "cifar10", marks=pytest.mark.slow),
    ],
)
def test_the_papers_large_setups_in_small(tmp_path, openml, model, data):
    """Its networks on data in the format of its own; one step, with and without T1."""
    openml(140)
    setup = protocols.setup(model, data, "faithful", max_epochs=1)
    searches = [Grid("none", (0.0,)), Grid("t1", (1e-3,))]
    _, runs = started(tmp_path, searches, setup, seeds=(0,))
    assert [run.outcome.epochs for run in runs] == [1, 1]
    assert not any(run.outcome.diverged for run in runs)
    assert sum(runs[0].outcome.before.deaths) == {"mnist": 1009, "cifar10": 1151}[data]


def test_known_runs_are_not_done_again(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    _, runs = started(tmp_path / "a")
    starts, again = started(tmp_path / "b", known=runs[:4])
    assert starts == POINTS[4:]
    assert again[:4] == runs[:4]
    assert started(tmp_path / "b", known=runs)[0] == []


def test_known_runs_of_another_setup_are_left_out(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    other = Setup("net2", "wine", Protocol(max_epochs=1))
    _, runs = started(tmp_path / "a", setup=other, searches=SEARCHES[:1])
    starts, _ = started(tmp_path / "b", searches=SEARCHES[:1], known=runs)
    assert starts == POINTS[:2]


def test_tpe_takes_known_runs_of_its_range(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    _, runs = started(tmp_path / "a", searches=SEARCHES[1:], seeds=(0,))
    searches = [Tpe("l2", 5e-5, 1e-2, trials=2)]
    starts, found = started(tmp_path / "b", searches=searches, seeds=(0,), known=runs)
    assert len(starts) == 1
    assert runs[1] in found


def test_a_folder_of_another_setup_is_refused(tmp_path):
    first, other = (Setup(name, "wine", Protocol(max_epochs=1)) for name in ("net0", "net2"))
    started(tmp_path, searches=SEARCHES[:1], seeds=(0,), setup=first)
    with pytest.raises(topoloss.InputError, match=r"model is 'net0' there and 'net2' here"):
        started(tmp_path, searches=SEARCHES[:1], seeds=(0,), setup=other)


def test_a_folder_of_another_version_is_refused(tmp_path):
    """Whatever its trials hold, a study that does not describe its setup is none of ours."""
    foreign = optuna.create_study(storage=database(tmp_path), study_name="none, split 0")
    foreign.add_trial(optuna.trial.create_trial(value=0.5, user_attrs={"outcome": {"score": 1}}))
    with pytest.raises(topoloss.InputError, match="runs of another version of topoloss"):
        started(tmp_path, searches=SEARCHES[:1], seeds=(0,))


def test_an_unknown_network_leaves_no_storage(tmp_path):
    with pytest.raises(topoloss.UnknownNameError):
        started(tmp_path, setup=Setup("net9"))
    assert list(tmp_path.iterdir()) == []


FULL = """
import resource, sys
from compare.quick import SEARCHES, SETUP
from topoloss.compare.sweep import sweep
from topoloss.errors import TopolossError

finished = []

def full_after_two(run):
    finished.append(run)
    if len(finished) == 2:  # no file can be written beyond its first 4096 bytes
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))

try:
    sweep(SEARCHES, (0, 1), SETUP, sys.argv[1], heartbeat=1, on_finish=full_after_two)
except TopolossError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_full_disk_is_told_and_finished_runs_are_kept(tmp_path):
    pytest.importorskip("resource")
    told = subprocess.run(
        [sys.executable, "-c", FULL, database(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env=ENVIRONMENT,
    ).stdout
    assert re.search(r"study\.db failed: .*make room and repeat the command", told)
    starts, runs = started(tmp_path, heartbeat=1)
    assert sorted(starts) == sorted(POINTS[2:])
    assert [(run.arm, run.seed) for run in runs] == POINTS


def damaged(content, how):
    """A database with 20 wrong bytes, a page of zeros, or without its end."""
    spoilt, start = bytearray(content), 4096 * random.randrange(len(content) // 4096)
    if how == "bytes":
        for at in random.sample(range(start, start + 4096), 20):
            spoilt[at] = random.randrange(256)
    elif how == "page":
        spoilt[start : start + 4096] = bytes(4096)
    else:
        del spoilt[random.randrange(len(content)) :]
    return bytes(spoilt)


@pytest.mark.parametrize("how", ["bytes", "page", pytest.param("end", marks=pytest.mark.slow)])
def test_a_damaged_storage_is_told_or_its_damaged_runs_are_done_again(tmp_path, how):
    """What is returned is always what was once stored, or what the same training gives again."""
    _, runs = started(tmp_path, searches=SEARCHES[:1], seeds=(0,))
    whole = (tmp_path / "study.db").read_bytes()
    random.seed(0)
    told = []
    for _ in range(20):
        (tmp_path / "study.db").write_bytes(damaged(whole, how))
        try:
            _, found = started(tmp_path, searches=SEARCHES[:1], seeds=(0,))
        except topoloss.TopolossError as error:
            told.append(str(error))
        else:
            assert without_seconds(found) == without_seconds(runs)
    said = r"study\.db (failed|is damaged|cannot be opened): .*move it away and repeat the command"
    assert told
    assert all(re.search(said, text) for text in told)


def test_a_number_that_was_changed_in_the_storage_is_told(tmp_path):
    _, (run,) = started(tmp_path, searches=SEARCHES[:1], seeds=(0,))
    score = repr(run.outcome.test_score)
    content = (tmp_path / "study.db").read_bytes()
    other = score[:-1] + ("1" if score[-1] != "1" else "2")
    assert content.count(score.encode()) >= 1
    (tmp_path / "study.db").write_bytes(content.replace(score.encode(), other.encode()))
    with pytest.raises(topoloss.InputError, match="run none, split 0 is not the one"):
        started(tmp_path, searches=SEARCHES[:1], seeds=(0,))


def test_a_damaged_storage_is_made_anew_from_the_runs_of_a_report(tmp_path):
    _, runs = started(tmp_path)
    shutil.move(tmp_path / "study.db", tmp_path / "damaged.db")
    assert started(tmp_path, known=runs) == ([], runs)


def test_no_process_is_started_when_nothing_is_missing(tmp_path, monkeypatch):
    _, runs = started(tmp_path)
    monkeypatch.setattr("multiprocessing.get_context", None)
    finished = []
    again = sweep(SEARCHES, (0, 1), SETUP, database(tmp_path), jobs=2, on_finish=finished.append)
    assert again == runs
    assert len(finished) == len(runs)


class FailingInTheFifthStep(topoloss.Loss):
    calls = 0

    def forward(self, diagrams):
        FailingInTheFifthStep.calls += 1
        if FailingInTheFifthStep.calls == 5:  # of the second split, as an epoch has 3 steps
            raise ZeroDivisionError("the fifth step")
        return diagrams[0].deaths.sum()


class Plugin:
    @topoloss.hookimpl
    def topoloss_regularisers(self):
        return {"fails": lambda: topoloss.pipeline("euclidean", "mst", FailingInTheFifthStep())}


def test_a_plugin_that_raises_is_named_and_finished_runs_are_kept(tmp_path):
    searches = [Grid("fails", (1e-3,))]
    FailingInTheFifthStep.calls = 0
    with topoloss.registered(Plugin()):
        with pytest.raises(ZeroDivisionError) as raised:
            started(tmp_path, searches=searches)
        notes = "".join(raised.value.__notes__)
        assert re.search("the loss .*FailingInTheFifthStep", notes)
        assert re.search(r"run fails=0.001, split 1 failed. .*study\.db has the finished", notes)
        starts, runs = started(tmp_path, searches=searches)
        assert starts == [(Arm("fails", 1e-3), 1)]
        (tmp_path / "whole").mkdir()
        _, healthy = started(tmp_path / "whole", searches=searches)
    assert without_seconds(runs) == without_seconds(healthy)


def test_a_run_uses_one_thread_of_torch(tmp_path):
    # Threads that wait for one another beside busy processes make training many times slower.
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(3)
    try:
        sweep(
            SEARCHES[:1], (0,), SETUP, database(tmp_path),
            on_epoch=lambda epoch: seen.append(torch.get_num_threads()),
        )  # fmt: skip
        assert set(seen) == {1}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
