"""Many runs, resumably, in several processes and on several machines: a thin layer on Optuna.

There is one study for each regulariser and seed, so that a weight is searched for on each split
by itself. A run is a trial: its parameter is the weight, its value the validation score,
and the whole outcome one of its attributes. A trial counts once it is complete. The trial of a
process that was killed goes stale, and its weight is tried again.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from topoloss.compare.problems import check, dataset, run
from topoloss.compare.runs import Arm, Problem, Run
from topoloss.compare.searches import Search, state_of
from topoloss.compare.training import Epoch, Neurons, Outcome
from topoloss.errors import InputError, TopolossError
from topoloss.extras import needs_extra

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

    from optuna.study import Study
    from optuna.trial import Trial

__all__ = ["HEARTBEAT_SECONDS", "database", "sweep"]

HEARTBEAT_SECONDS = 20


def database(folder: Path) -> str:
    """The address of a folder's own storage."""
    return f"sqlite:///{folder / 'study.db'}"


def sweep(
    searches: Sequence[Search],
    seeds: Sequence[int],
    problem: Problem,
    storage: str,
    *,
    jobs: int = 1,
    known: Sequence[Run] = (),
    device: str = "cpu",
    heartbeat: int = HEARTBEAT_SECONDS,
    on_start: Callable[[Arm, int], None] = lambda arm, seed: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    on_finish: Callable[[Run], None] = lambda run: None,
) -> list[Run]:
    """Do the runs of every search on every split, but for those that the storage holds.

    Parameters
    ----------
    searches : sequence of Search
    seeds : sequence of int
    problem : Problem
    storage : str
        Address of a database, as for Optuna. Processes and machines that share it share the
        runs; each calls this function.
    jobs : int
        Processes; with more than one each has one torch thread, and `on_start` and `on_epoch`
        are not called. They see installed plugins, not those registered by hand.
    known : sequence of Run
        Finished runs to put into the storage first; those of another problem are left out.
    device : str
        Where to train.
    heartbeat : int
        Seconds between signs of life. A run whose process gave none for twice as long is
        done again, by whoever finds it.
    on_start, on_epoch, on_finish : callable
        Called for every run; for one found finished, or done elsewhere, only `on_finish`.

    Returns
    -------
    list of Run
        In the order of `searches`, then of `seeds`, then of the weights.

    Raises
    ------
    InputError
        If the storage cannot be opened, or holds runs of another problem.

    Notes
    -----
    A finished run is never lost or repeated, whichever process is killed when.
    """
    digest = check(problem, device)
    sweeping = _Sweep(tuple(searches), tuple(seeds), problem, digest, storage, device, heartbeat)
    with _Studies(sweeping) as studies:
        studies.restore(known)

        def report() -> None:
            for finished in studies.unreported():
                on_finish(finished)

        report()
        if jobs == 1:
            studies.work(on_start, on_epoch, report)
        else:
            _share(sweeping, jobs, report)
        report()
        return studies.runs()


@dataclass(frozen=True)
class _Sweep:
    """What every process of a sweep is told."""

    searches: tuple[Search, ...]
    seeds: tuple[int, ...]
    problem: Problem
    digest: str
    storage: str
    device: str
    heartbeat: int


def _share(sweeping: _Sweep, jobs: int, report: Callable[[], None]) -> None:
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    with ProcessPoolExecutor(jobs, context, _begin_child, (stop,)) as pool:
        try:
            running = {pool.submit(_work_in_child, sweeping) for _ in range(jobs)}
            while running:
                done, running = wait(running, timeout=2, return_when="FIRST_EXCEPTION")
                report()
                for future in done:
                    future.result()
        except BrokenProcessPool as error:
            raise TopolossError(
                "a process of the comparison was killed, maybe for want of memory. Finished runs "
                "are kept: repeat the command, or use fewer --jobs."
            ) from error
        except BaseException:
            stop.set()  # leaving the pool waits for its processes
            raise


_stop: Event


def _begin_child(stop: Event) -> None:
    global _stop
    _stop = stop
    torch.set_num_threads(1)
    # The pool's processes would wait for work for ever when their parent is killed.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work_in_child(sweeping: _Sweep) -> None:
    def end_if_told(epoch: Epoch) -> None:
        if _stop.is_set():
            raise KeyboardInterrupt

    with _Studies(sweeping) as studies:
        studies.work(on_epoch=end_if_told)


class _Studies:
    """The studies of a sweep, open."""

    def __init__(self, sweeping: _Sweep) -> None:
        self.sweeping = sweeping
        self._storage = _opened(sweeping.storage, sweeping.heartbeat)
        self._told: dict[tuple[Search, int], set[Arm]] = {}
        self._studies = [
            (search, seed, self._study(search, seed))
            for search in sweeping.searches
            for seed in sweeping.seeds
        ]

    def __enter__(self) -> _Studies:
        return self

    def __exit__(self, *error: object) -> None:
        self._storage.remove_session()
        self._storage.engine.dispose()

    def _study(self, search: Search, seed: int) -> Study:
        import optuna

        described = json.dumps(asdict(self.sweeping.problem) | {"digest": self.sweeping.digest})
        study = optuna.create_study(
            storage=self._storage,
            study_name=f"{search.study}, split {seed}",
            direction="maximize",
            sampler=search.sampler(),
            load_if_exists=True,
        )
        stored = study.user_attrs.get("problem")
        if stored is None:
            study.set_user_attr("problem", described)
        elif stored != described:
            raise InputError(
                f"{self.sweeping.storage} holds runs of another problem: "
                f"{_differences(stored, described)}. Choose another folder with --out, or "
                "another --storage, or forget its runs with --fresh."
            )
        return study

    def work(
        self,
        on_start: Callable[[Arm, int], None] = lambda arm, seed: None,
        on_epoch: Callable[[Epoch], None] = lambda epoch: None,
        report: Callable[[], None] = lambda: None,
    ) -> None:
        """Take runs until all are finished, here or elsewhere."""
        open_studies = self._studies
        while open_studies:
            worked = False
            for search, seed, study in open_studies:

                def objective(trial: Trial, search: Search = search, seed: int = seed) -> float:
                    # Optuna's own first sign of life comes from a thread, maybe after a kill.
                    self._storage.record_heartbeat(trial._trial_id)
                    arm = Arm(search.regulariser, search.weight(trial))
                    on_start(arm, seed)
                    problem, device = self.sweeping.problem, self.sweeping.device
                    outcome = run(problem, arm, seed, on_epoch, device).outcome
                    trial.set_user_attr("outcome", asdict(outcome))
                    return outcome.validation_score

                while search.offer(study):
                    worked = True
                    self._optimise(study, objective)
                    report()
            open_studies = [
                each for each in open_studies if len(_finished(each[0], each[2])) < each[0].runs
            ]
            if open_studies and not worked:
                # Other processes are at the rest; one of them may have been killed.
                time.sleep(min(1, self.sweeping.heartbeat))
                for _, _, study in open_studies:
                    self._fail_stale(study)

    def _optimise(self, study: Study, objective: Callable[[Trial], float]) -> None:
        """Do one trial, unless this process slept so long that another has taken it over."""
        import optuna

        done: list[Trial] = []

        def noting(trial: Trial) -> float:
            try:
                value = objective(trial)
            except optuna.exceptions.UpdateFinishedTrialError:
                done.append(trial)
                raise
            done.append(trial)
            return value

        try:
            study.optimize(noting, n_trials=1)
        except (optuna.exceptions.UpdateFinishedTrialError, ValueError):
            if not done or state_of(study.trials[done[0].number]) != "FAIL":
                raise

    def _fail_stale(self, study: Study) -> None:
        import optuna

        with _experimental_by_choice(optuna):
            optuna.storages.fail_stale_trials(study)
        # Killed before its first sign of life, a trial never goes stale for Optuna.
        since = datetime.now() - timedelta(seconds=2 * self.sweeping.heartbeat)
        for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            assert trial.datetime_start is not None  # of a running trial
            if not trial.params and trial.datetime_start < since:
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL)

    def runs(self) -> list[Run]:
        """The finished runs that the sweep asks for."""
        return [found for each in self._studies for found in self._runs(*each)]

    def unreported(self) -> Iterator[Run]:
        """The finished runs that this was not asked for before."""
        for search, seed, study in self._studies:
            told = self._told.setdefault((search, seed), set())
            if len(told) < search.runs:
                new = [each for each in self._runs(search, seed, study) if each.arm not in told]
                told.update(each.arm for each in new)
                yield from new

    def _runs(self, search: Search, seed: int, study: Study) -> list[Run]:
        problem = self.sweeping.problem
        fixed_test = dataset(problem).fixed_test
        found = _finished(search, study)
        return [Run(problem, arm, seed, outcome, fixed_test) for arm, outcome in found]

    def restore(self, known: Sequence[Run]) -> None:
        """Add finished runs, each in one transaction, but for those that are there."""
        import optuna

        for search, seed, study in self._studies:
            there = {arm for arm, _ in _finished(search, study)}
            for each in known:
                if (
                    each.problem == self.sweeping.problem
                    and each.seed == seed
                    and each.arm.regulariser == search.regulariser
                    and search.has(each.arm.weight)
                    and each.arm not in there
                ):
                    weight = {"weight": each.arm.weight}
                    trial = optuna.trial.create_trial(
                        params=weight,
                        distributions={"weight": search.distribution()},
                        user_attrs=weight | {"outcome": asdict(each.outcome)},
                        value=each.outcome.validation_score,
                    )
                    study.add_trial(trial)
                    there.add(each.arm)


def _opened(storage: str, heartbeat: int) -> Any:
    with needs_extra("compare"):
        import optuna
        import sqlalchemy
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # a failed run raises its error anyway
    # Several processes wait for one another's writes.
    engine = {"connect_args": {"timeout": 60}} if storage.startswith("sqlite") else None
    # Of processes that make the tables of a new storage at once all but one fail, for a moment.
    for attempt in reversed(range(5)):
        try:
            with _experimental_by_choice(optuna):
                opened = optuna.storages.RDBStorage(
                    storage, engine_kwargs=engine, heartbeat_interval=heartbeat
                )
            break
        except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
            if attempt == 0 or not isinstance(error, sqlalchemy.exc.DatabaseError):
                raise InputError(f"the storage {storage} cannot be opened: {error}.") from error
            time.sleep(0.2)
    if opened.engine.dialect.name == "sqlite":
        _lock_from_the_start(opened.engine)
    return opened


def _lock_from_the_start(engine: Any) -> None:
    """Make SQLite's transactions write-locked before they read.

    SQLite knows no ``SELECT ... FOR UPDATE``: two processes could both read that a trial waits,
    and both take it.
    """
    from sqlalchemy import event

    engine.dispose()  # what is connected already would do without

    @event.listens_for(engine, "connect")
    def leave_transactions_to_us(connection: Any, record: object) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


@contextmanager
def _experimental_by_choice(optuna: Any) -> Iterator[None]:
    """Heartbeats, which Optuna calls experimental, are what a kill is noticed by."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def _finished(search: Search, study: Study) -> list[tuple[Arm, Outcome]]:
    """The arms and outcomes of complete trials that the search asks for, by weight."""
    complete = {
        trial.params["weight"]: trial.user_attrs["outcome"]
        for trial in study.get_trials(deepcopy=False)
        if state_of(trial) == "COMPLETE" and search.has(trial.params["weight"])
    }
    return [
        (Arm(search.regulariser, weight), _outcome(complete[weight])) for weight in sorted(complete)
    ]


def _outcome(stored: dict[str, Any]) -> Outcome:
    neurons = {
        when: Neurons(**stored[when] | {"deaths": tuple(stored[when]["deaths"])})
        for when in ("before", "after")
    }
    return Outcome(**stored | neurons)


def _differences(stored: str, described: str) -> str:
    there, here = ({**p, **p.pop("protocol")} for p in map(json.loads, (stored, described)))
    return ", ".join(
        f"{key} is {there.get(key)!r} there and {value!r} here"
        for key, value in here.items()
        if there.get(key) != value
    )
