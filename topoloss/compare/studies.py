"""The studies of a sweep know which runs are finished or missing, and do the missing ones.

There is one Optuna study for each search and split. A run is one of its trials: the parameter is
the weight, the value is the validation score, and the attribute "outcome" holds the row of the
whole outcome, with a digest that reveals damage. Only complete trials count.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from topoloss import owners
from topoloss.compare.records import Arm, Epoch, Outcome, Run, Setup, from_row, to_row
from topoloss.compare.searches import Search, state_of
from topoloss.compare.setups import dataset, run
from topoloss.compare.storage import open_storage, reading, using_experimental
from topoloss.errors import InputError
from topoloss.owners import no_exit

if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from optuna.trial import Trial

__all__ = ["Plan", "Studies"]


@dataclass(frozen=True)
class Plan:
    """What every process of a sweep needs to know."""

    searches: tuple[Search, ...]
    seeds: tuple[int, ...]
    setup: Setup
    digest: str
    storage: str
    device: str
    heartbeat: int

    @property
    def runs(self) -> int:
        """How many runs the plan asks for."""
        return len(self.seeds) * sum(search.runs for search in self.searches)


class Studies:
    """The open studies of a sweep, in the order of its searches, then of its seeds."""

    def __init__(self, plan: Plan) -> None:
        self._heartbeat = plan.heartbeat
        self._storage = open_storage(plan.storage, plan.heartbeat)
        self._studies = [
            _Study(plan, search, seed, self._storage)
            for search in plan.searches
            for seed in plan.seeds
        ]

    def __enter__(self) -> Studies:
        return self

    def __exit__(self, *error: object) -> None:
        self._storage.remove_session()
        self._storage.engine.dispose()

    def work(
        self,
        on_start: Callable[[Arm, int], None] = lambda arm, seed: None,
        on_epoch: Callable[[Epoch], None] = lambda epoch: None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        """Do runs until all are finished, by this process or by others."""
        unfinished = self._studies
        while unfinished:
            worked = [study.work(on_start, on_epoch, on_end) for study in unfinished]
            unfinished = [study for study in unfinished if study.missing()]
            if unfinished and not any(worked):
                # Other processes are doing what is left, unless they were killed.
                time.sleep(min(1, self._heartbeat))
                for study in unfinished:
                    study.fail_stale()

    def missing(self) -> int:
        """How many runs are not finished."""
        return sum(study.missing() for study in self._studies)

    def runs(self) -> list[Run]:
        """The finished runs that the sweep asks for."""
        return [run for study in self._studies for run in study.finished()]

    def unreported(self) -> Iterator[Run]:
        """The finished runs that no earlier call returned."""
        for study in self._studies:
            yield from study.unreported()

    def restore(self, known: Sequence[Run]) -> None:
        """Add finished runs that the storage lacks, each in one transaction."""
        for study in self._studies:
            study.restore(known)


class _Study:
    """One search on one split."""

    def __init__(self, plan: Plan, search: Search, seed: int, storage: RDBStorage) -> None:
        import optuna

        self._plan = plan
        self._search = search
        self._seed = seed
        self._storage = storage
        self._reported: set[Arm] = set()
        self._study = optuna.create_study(
            storage=storage,
            study_name=f"{search.study}, split {seed}",
            direction="maximize",
            sampler=search.sampler(),
            load_if_exists=True,
        )
        self._claim()

    def _claim(self) -> None:
        """Store the setup in a new study; raise if an old study holds another setup."""
        described = json.dumps(to_row(self._plan.setup) | {"digest": self._plan.digest})
        # Trials are read first: a process stores the setup before it begins a trial, so trials
        # without a setup are not of this version.
        with reading(self._plan.storage):
            has_trials = bool(self._study.get_trials(deepcopy=False))
            stored = self._study.user_attrs.get("setup")
        if stored is None and not has_trials:
            self._study.set_user_attr("setup", described)
            return
        if stored != described:
            whose = (
                "another version of topoloss"
                if stored is None
                else f"another setup: {_differences(stored, described)}"
            )
            raise InputError(
                f"{self._plan.storage} holds runs of {whose}. Choose another folder with --out, "
                "or another --storage, or delete its runs with --fresh."
            )

    def finished(self) -> list[Run]:
        """The finished runs that the search asks for, ascending by weight."""
        setup, fixed_test = self._plan.setup, dataset(self._plan.setup).fixed_test
        with reading(self._plan.storage):
            rows = {
                trial.params["weight"]: trial.user_attrs["outcome"]
                for trial in self._study.get_trials(deepcopy=False)
                if state_of(trial) == "COMPLETE" and self._search.has(trial.params["weight"])
            }
            return [
                Run(setup, arm, self._seed, self._read(arm, rows[arm.weight]), fixed_test)
                for arm in map(self._arm, sorted(rows))
            ]

    def _stored(self, arm: Arm, outcome: Outcome) -> dict[str, Any]:
        """The row of an outcome as a trial stores it."""
        row = to_row(outcome)
        return row | {"digest": self._digest(arm, row)}

    def _read(self, arm: Arm, stored: dict[str, Any]) -> Outcome:
        row = {key: value for key, value in stored.items() if key != "digest"}
        if stored.get("digest") != self._digest(arm, row):
            raise ValueError(f"the run {arm}, split {self._seed} is not the one that was stored")
        return from_row(Outcome, row)

    def _digest(self, arm: Arm, row: dict[str, Any]) -> str:
        described = json.dumps([arm.regulariser, arm.weight, self._seed, row], sort_keys=True)
        return hashlib.sha256(described.encode()).hexdigest()

    def _arm(self, weight: float) -> Arm:
        return Arm(self._search.regulariser, weight)

    def missing(self) -> int:
        return max(0, self._search.runs - len(self.finished()))

    def unreported(self) -> list[Run]:
        if len(self._reported) >= self._search.runs:
            return []
        new = [run for run in self.finished() if run.arm not in self._reported]
        self._reported.update(run.arm for run in new)
        return new

    def restore(self, known: Sequence[Run]) -> None:
        import optuna

        there = {run.arm for run in self.finished()}
        for each in known:
            if self._asks_for(each) and each.arm not in there:
                weight = {"weight": each.arm.weight}
                trial = optuna.trial.create_trial(
                    params=weight,
                    distributions={"weight": self._search.distribution()},
                    user_attrs=weight | {"outcome": self._stored(each.arm, each.outcome)},
                    value=each.outcome.validation_score,
                )
                self._study.add_trial(trial)
                there.add(each.arm)

    def _asks_for(self, each: Run) -> bool:
        return (
            (each.setup, each.seed) == (self._plan.setup, self._seed)
            and each.arm.regulariser == self._search.regulariser
            and self._search.has(each.arm.weight)
        )

    def work(
        self,
        on_start: Callable[[Arm, int], None],
        on_epoch: Callable[[Epoch], None],
        on_end: Callable[[], None],
    ) -> bool:
        """Do the runs that nobody has taken yet; return whether there was one."""

        def objective(trial: Trial) -> float:
            # Optuna records the first heartbeat in a thread, perhaps too late if we are killed.
            self._storage.record_heartbeat(trial._trial_id)
            arm = self._arm(self._search.weight(trial))
            on_start(arm, self._seed)
            try:
                with no_exit(f"code that the run {arm} called"):
                    done = run(self._plan.setup, arm, self._seed, on_epoch, self._plan.device)
            except Exception as error:
                owners.note(error)  # here, because the parent process does not see the frames
                error.add_note(
                    f"The run {arm}, split {self._seed} failed. {self._plan.storage} has the "
                    "finished runs: repeat the command to go on."
                )
                raise
            trial.set_user_attr("outcome", self._stored(arm, done.outcome))
            return done.outcome.validation_score

        worked = False
        while self._search.offer(self._study):
            worked = True
            self._do_trial(objective)
            on_end()
        return worked

    def _do_trial(self, objective: Callable[[Trial], float]) -> None:
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
            self._study.optimize(noting, n_trials=1)
        except (optuna.exceptions.UpdateFinishedTrialError, ValueError):
            if not done or state_of(self._study.trials[done[0].number]) != "FAIL":
                raise

    def fail_stale(self) -> None:
        """Fail the trials of processes that were killed, so that others can try their weights."""
        import optuna

        with using_experimental(optuna):
            optuna.storages.fail_stale_trials(self._study)
        # Optuna never calls a trial stale that was killed before its first heartbeat.
        since = datetime.now() - timedelta(seconds=2 * self._plan.heartbeat)
        running = (optuna.trial.TrialState.RUNNING,)
        for trial in self._study.get_trials(deepcopy=False, states=running):
            assert trial.datetime_start is not None  # because the trial is running
            if not trial.params and trial.datetime_start < since:
                self._study.tell(trial.number, state=optuna.trial.TrialState.FAIL)


def _differences(stored: str, described: str) -> str:
    there, here = map(json.loads, (stored, described))
    return ", ".join(
        f"{key} is {there.get(key)!r} there and {value!r} here"
        for key, value in here.items()
        if there.get(key) != value
    )
