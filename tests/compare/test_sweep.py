import importlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import optuna
import pytest
import torch

import topoloss
from topoloss.compare.networks import protocol as usual
from topoloss.compare.runs import Arm, Problem
from topoloss.compare.searches import Grid, Tpe
from topoloss.compare.sweep import _opened, database, sweep
from topoloss.compare.training import Protocol, protocol

PROBLEM = Problem("net0", "digits", Protocol(max_epochs=1))
SEARCHES = [Grid("none", (0.0,)), Grid("l2", (1e-5, 1e-4))]
ARMS = [Arm("none", 0.0), Arm("l2", 1e-5), Arm("l2", 1e-4)]
POINTS = [(ARMS[0], 0), (ARMS[0], 1), (ARMS[1], 0), (ARMS[2], 0), (ARMS[1], 1), (ARMS[2], 1)]


def started(folder, searches=SEARCHES, problem=PROBLEM, seeds=(0, 1), **callbacks):
    starts = []
    runs = sweep(
        searches,
        seeds,
        problem,
        database(folder),
        on_start=lambda arm, seed: starts.append((arm, seed)),
        **callbacks,
    )
    return starts, runs


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
    starts, runs = started(tmp_path, searches=SEARCHES[1:], seeds=(0, 1, 2))
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
from topoloss.compare.runs import Problem
from topoloss.compare.searches import Grid
from topoloss.compare.sweep import sweep
from topoloss.compare.training import Protocol, protocol

problem = Problem("net0", "digits", Protocol(max_epochs=1))
searches = [Grid("none", (0.0,)), Grid("l2", (1e-5, 1e-4))]
epochs = []

def epoch(e):
    epochs.append(e)
    if len(epochs) == 3:
        print("third run", flush=True)
        sys.stdin.read()  # until it is killed

sweep(searches, (0, 1), problem, sys.argv[1], heartbeat=1, on_epoch=epoch)
"""


def test_a_killed_sweep_loses_and_repeats_no_finished_run(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, database(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "third run\n"
        process.kill()
    starts, runs = started(tmp_path, heartbeat=1)
    # The third point is done last, once the killed process has given no sign of life.
    assert sorted(starts) == sorted(POINTS[2:])
    assert [(run.arm, run.seed) for run in runs] == POINTS
    starts, again = started(tmp_path)
    assert starts == []
    assert again == runs


KILLED_WITH_CHILDREN = """
import sys
from topoloss.compare.runs import Problem
from topoloss.compare.searches import Grid
from topoloss.compare.sweep import sweep
from topoloss.compare.training import Protocol

def told(run):
    print("a run", flush=True)

if __name__ == "__main__":
    problem = Problem("net0", "digits", Protocol(max_epochs=1))
    searches = [Grid("none", (0.0,)), Grid("l2", (1e-5, 1e-4))]
    sweep(searches, (0, 1), problem, sys.argv[1], heartbeat=1, jobs=2, on_finish=told)
"""


def test_children_end_with_their_killed_parent(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(KILLED_WITH_CHILDREN, encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, str(script), database(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "a run\n"
        process.kill()
        process.stdout.read()  # which ends when the children do, who have it open too
    starts, runs = started(tmp_path, heartbeat=1)
    assert len(starts) < len(POINTS)
    assert [(run.arm, run.seed) for run in runs] == POINTS


KILLED_AT_ONCE = """
import os, sys
import optuna
from topoloss.compare.runs import Problem
from topoloss.compare.searches import Grid
from topoloss.compare.sweep import sweep
from topoloss.compare.training import Protocol

thread = optuna.storages._heartbeat.HeartbeatThread
thread.start = thread.join = lambda thread: None
problem = Problem("net0", "digits", Protocol(max_epochs=1))
searches = [Grid("none", (0.0,))]
sweep(searches, (0, 1), problem, sys.argv[1], heartbeat=1, on_start=lambda *_: os._exit(3))
"""


def test_a_trial_killed_with_its_weight_before_optunas_first_sign_of_life(tmp_path):
    killed = subprocess.run([sys.executable, "-c", KILLED_AT_ONCE, database(tmp_path)], check=False)
    assert killed.returncode == 3
    starts, _ = started(tmp_path, searches=SEARCHES[:1], heartbeat=1)
    assert sorted(starts) == POINTS[:2]


def test_a_trial_killed_before_its_first_sign_of_life_is_done_again(tmp_path):
    started(tmp_path, searches=SEARCHES[:1])
    study = optuna.load_study(study_name="l2, split 0", storage=_other(tmp_path))
    study.enqueue_trial({"weight": 1e-5}, user_attrs={"weight": 1e-5})
    study.ask()
    starts, _ = started(tmp_path, heartbeat=1)
    assert sorted(starts) == sorted(POINTS[2:])


def _other(folder):
    """What another process would have open."""
    storage = optuna.storages.RDBStorage(database(folder))
    optuna.create_study(storage=storage, study_name="l2, split 0", direction="maximize")
    return storage


def test_processes_share_the_runs(tmp_path):
    finished = []
    runs = sweep(SEARCHES, (0, 1), PROBLEM, database(tmp_path), jobs=2, on_finish=finished.append)
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


def test_an_error_in_a_process_is_raised(tmp_path, monkeypatch):
    (tmp_path / "own_network.py").write_text(
        "import multiprocessing, torch\n"
        "def make():\n"
        "    if multiprocessing.parent_process():\n"
        "        raise RuntimeError('only in children')\n"
        "    return torch.nn.Linear(64, 10)\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    problem = Problem("own_network:make", "digits", Protocol(max_epochs=1))
    with pytest.raises(RuntimeError, match="only in children"):
        sweep(SEARCHES[:1], (0,), problem, database(tmp_path), jobs=2)


def test_an_error_in_a_process_ends_the_others(tmp_path, monkeypatch):
    """Of many runs, none of which is short, those that have begun are the most that finish."""
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
    problem = Problem("sometimes:make", "digits", Protocol(max_epochs=100_000, patience=100_000))
    with pytest.raises(RuntimeError, match="the first of all"):
        sweep(SEARCHES, (0, 1), problem, database(tmp_path), jobs=2)


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
    problem = Problem("killed_network:make", "digits", Protocol(max_epochs=1))
    with pytest.raises(topoloss.TopolossError, match=r"was killed.*fewer --jobs"):
        sweep(SEARCHES[:1], (0,), problem, database(tmp_path), jobs=2)


OWN = """
import torch
samples, seed, width = 30, 0, 4
def data():
    x = torch.rand(samples, 3, generator=torch.Generator().manual_seed(seed))
    return x, torch.arange(samples) % 2
def network():
    return torch.nn.Linear(3, width)
shared_network = network()
def shared():
    return shared_network
def unseeded():
    return torch.rand(samples, 3), torch.arange(samples) % 2
"""


def own_problem(own_module, model="network", data="data"):
    name = own_module(OWN)
    return Problem(f"{name}:{model}", f"{name}:{data}", Protocol(max_epochs=1))


def change(monkeypatch, problem, values):
    module = importlib.import_module(problem.model.partition(":")[0])
    for name, value in values.items():
        monkeypatch.setattr(module, name, value)


@pytest.mark.parametrize("values", [{"seed": 1}, {"width": 5}])
def test_runs_of_a_changed_module_are_those_of_another_problem(
    tmp_path, own_module, monkeypatch, values
):
    problem = own_problem(own_module)
    started(tmp_path, SEARCHES[:1], problem, seeds=(0,))
    change(monkeypatch, problem, values)
    with pytest.raises(topoloss.InputError, match="digest is"):
        started(tmp_path, SEARCHES[:1], problem, seeds=(0, 1))


@pytest.mark.parametrize("functions", [{"data": "unseeded"}, {"model": "shared"}])
def test_data_and_networks_that_are_not_made_anew_alike_are_refused(
    tmp_path, own_module, functions
):
    with pytest.raises(topoloss.InputError, match="not the same when they are made again"):
        started(tmp_path, SEARCHES[:1], own_problem(own_module, **functions))


@pytest.mark.parametrize("samples", [427, 5])
def test_a_batch_of_one_sample_is_told_before_any_run(tmp_path, own_module, monkeypatch, samples):
    """427 are split into 257, 85 and 85; the last of 257 in batches of 256 is alone."""
    problem = own_problem(own_module)
    change(monkeypatch, problem, {"samples": samples})
    with pytest.raises(topoloss.InputError, match="the last would hold one sample"):
        started(tmp_path, SEARCHES[:1], problem)


def test_tpe_draws_so_many_weights_on_each_split_and_goes_on(tmp_path):
    searches = [Tpe("l2", 1e-6, 1e-2, trials=3)]
    starts, runs = started(tmp_path, searches=searches)
    assert [seed for _, seed in starts] == [0, 0, 0, 1, 1, 1]
    assert all(1e-6 <= run.arm.weight <= 1e-2 for run in runs)
    assert len({run.arm for run in runs}) == 6
    assert started(tmp_path, searches=searches) == ([], runs)


@pytest.mark.parametrize(("model", "data"), [("net1", "mnist"), ("vgg256-dropout", "cifar10")])
def test_the_papers_large_problems_in_small(tmp_path, openml, model, data):
    """Its networks on data in the format of its own; one step, with and without T1."""
    openml(140)
    problem = Problem(model, data, protocol("faithful", replace(usual(model), max_epochs=1)))
    searches = [Grid("none", (0.0,)), Grid("t1", (1e-3,))]
    _, runs = started(tmp_path, searches, problem, seeds=(0,))
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


def test_known_runs_of_another_problem_are_left_out(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    other = Problem("net2", "digits", Protocol(max_epochs=1))
    _, runs = started(tmp_path / "a", problem=other, searches=SEARCHES[:1])
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


def test_a_sweep_leaves_the_random_state_as_found(tmp_path):
    before = torch.get_rng_state()
    started(tmp_path, searches=SEARCHES[:1])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_split_is_the_same_for_all_arms(tmp_path):
    """The untrained network and the data coincide, so the deaths before training do."""
    _, runs = started(tmp_path)
    by_seed = {seed: [r.outcome.before for r in runs if r.seed == seed] for seed in (0, 1)}
    assert all(deaths == by_seed[0][0] for deaths in by_seed[0])
    assert by_seed[0][0] != by_seed[1][0]


def test_a_folder_of_another_problem_is_refused(tmp_path):
    started(tmp_path, searches=SEARCHES[:1], seeds=(0,))
    other = Problem("net2", "digits", Protocol(max_epochs=1))
    with pytest.raises(topoloss.InputError, match=r"model is 'net0' there and 'net2' here"):
        started(tmp_path, searches=SEARCHES[:1], seeds=(0,), problem=other)


def test_an_unknown_network_leaves_no_storage(tmp_path):
    with pytest.raises(topoloss.UnknownNameError):
        started(tmp_path, problem=Problem("net9"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("storage", ["sqlite:////no/such/folder/study.db", "nonsense"])
def test_a_storage_that_cannot_be_opened_is_told(storage):
    with pytest.raises(topoloss.InputError, match="cannot be opened"):
        sweep(SEARCHES, (0,), PROBLEM, storage)


@pytest.mark.filterwarnings("ignore:Heartbeat")
def test_a_trial_that_waits_is_taken_once(tmp_path):
    """Four workers, each with connections of its own, empty a queue."""

    def opened():
        return _opened(database(tmp_path), heartbeat=20)

    queue = optuna.create_study(storage=opened(), study_name="queue")
    for k in range(40):
        queue.enqueue_trial({"x": k})
    workers = [optuna.load_study(study_name="queue", storage=opened()) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        taken = pool.map(lambda worker: [worker.ask().number for _ in range(10)], workers)
        assert sorted(number for numbers in taken for number in numbers) == list(range(40))
