"""Many runs, resumably, in several processes and on several machines: a thin layer on Optuna.

There is one study for each regulariser and seed, so that a weight is searched for on each split
by itself. A run is a trial: its parameter is the weight, its value the validation score,
and the whole outcome one of its attributes. A trial counts once it is complete. The trial of a
process that was killed goes stale, and its weight is tried again.
"""

from __future__ import annotations

import hashlib
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
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from topoloss import registry
from topoloss.compare import data, networks
from topoloss.compare.runs import Arm, Problem, Run
from topoloss.compare.training import Epoch, Neurons, Outcome, train
from topoloss.errors import InputError, OptionError, TopolossError
from topoloss.extras import needs_extra

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

__all__ = ["PAPER_WEIGHTS", "Grid", "Search", "Tpe", "check", "database", "parse", "run", "sweep"]

PAPER_WEIGHTS: tuple[float, ...] = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 5.0, 10.0, 100.0)
HEARTBEAT_SECONDS = 20

_LARGEST_WEIGHT = 1e9


@dataclass(frozen=True)
class Grid:
    """Every one of some weights, on every split.

    The points wait in Optuna's queue: its grid sampler would draw one twice when processes
    draw at once, and repeat finished ones when the grid grows.
    """

    regulariser: str
    weights: tuple[float, ...]

    @property
    def study(self) -> str:
        return self.regulariser

    @property
    def runs(self) -> int:
        """How many there are on a split."""
        return len(self.weights)

    def sampler(self) -> Any:
        """None: a grid has nothing to sample."""
        return None

    def offer(self, study: Study) -> bool:
        """Queue the next weight, if nobody has; return whether one waits."""
        trials = study.get_trials(deepcopy=False)
        live = {t.user_attrs.get("weight") for t in trials if _state(t) in _LIVE}
        missing = [w for w in self.weights if w not in live]
        if missing:
            study.enqueue_trial({"weight": missing[0]}, user_attrs={"weight": missing[0]})
        return bool(missing) or any(_state(t) == "WAITING" for t in trials)

    def weight(self, trial: Trial) -> float:
        """Return the trial's weight; it is pruned if another trial has the same."""
        import optuna

        weight = trial.user_attrs.get("weight")
        if weight is None:  # another process took what waited
            raise optuna.TrialPruned
        rivals = [
            t
            for t in trial.study.get_trials(deepcopy=False)
            if t.number != trial.number and t.user_attrs.get("weight") == weight
        ]
        # Of those that live the first goes on, so that exactly one does.
        if any(_state(t) == "COMPLETE" for t in rivals) or any(
            _state(t) in _LIVE and t.number < trial.number for t in rivals
        ):
            raise optuna.TrialPruned
        return trial.suggest_float("weight", 0, _LARGEST_WEIGHT)

    def has(self, weight: float) -> bool:
        return weight in self.weights

    def distribution(self) -> Any:
        from optuna.distributions import FloatDistribution

        return FloatDistribution(0, _LARGEST_WEIGHT)


@dataclass(frozen=True)
class Tpe:
    """Weights that Optuna's TPE sampler draws from a range, in its logarithm, on every split."""

    regulariser: str
    low: float
    high: float
    trials: int

    @property
    def study(self) -> str:
        return f"{self.regulariser} from {self.low:g} to {self.high:g}"

    @property
    def runs(self) -> int:
        return self.trials

    def sampler(self) -> Any:
        from optuna.samplers import TPESampler

        # Not seeded: a sweep that goes on would draw its first weights again.
        return TPESampler()

    def offer(self, study: Study) -> bool:
        return self._taken(study.get_trials(deepcopy=False)) < self.trials

    def weight(self, trial: Trial) -> float:
        import optuna

        trials = trial.study.get_trials(deepcopy=False)
        if self._taken([t for t in trials if t.number < trial.number]) >= self.trials:
            raise optuna.TrialPruned
        return trial.suggest_float("weight", self.low, self.high, log=True)

    def _taken(self, trials: Sequence[FrozenTrial]) -> int:
        """Weights that are finished, each once, and trials that are not."""
        finished = {t.params["weight"] for t in trials if _state(t) == "COMPLETE"}
        return len(finished) + sum(_state(t) in ("WAITING", "RUNNING") for t in trials)

    def has(self, weight: float) -> bool:
        return self.low <= weight <= self.high

    def distribution(self) -> Any:
        from optuna.distributions import FloatDistribution

        return FloatDistribution(self.low, self.high, log=True)


Search: TypeAlias = Grid | Tpe

_LIVE = ("WAITING", "RUNNING", "COMPLETE")


def parse(specifications: Sequence[str], trials: int | None = None) -> list[Search]:
    """Parse ``NAME`` or ``NAME=WEIGHT[,WEIGHT...]``, checking names and weights.

    Parameters
    ----------
    specifications : sequence of str
        ``NAME=paper`` stands for the grid of the paper.
    trials : int, optional
        Search with so many trials on each split between two weights, the lowest and the
        highest, instead of trying each.

    Examples
    --------
    >>> from topoloss.compare.sweep import parse
    >>> parse(["none", "t1=1e-3,1e-2"])
    [Grid(regulariser='none', weights=(0.0,)), Grid(regulariser='t1', weights=(0.001, 0.01))]
    >>> parse(["t1=1e-6,100"], trials=20)
    [Tpe(regulariser='t1', low=1e-06, high=100.0, trials=20)]
    """
    grids: dict[str, tuple[float, ...]] = {}
    for specification in specifications:
        name, _, text = specification.partition("=")
        registry.regulariser(name)
        if name != "none" and not text:
            raise OptionError(
                f"{specification!r} has no weight; write {name}=WEIGHT[,WEIGHT...], for example "
                f"{name}=0.001,0.01, or {name}=paper."
            )
        if text == "paper":
            weights = PAPER_WEIGHTS
        else:
            weights = tuple(_weight(w, specification) for w in (text or "0").split(","))
        grids[name] = tuple(dict.fromkeys((*grids.get(name, ()), *weights)))
    if not grids:
        raise OptionError("no regulariser was given; write for example: none t1=0.001 t2=1")
    return [
        Grid(name, weights) if trials is None or name == "none" else _tpe(name, weights, trials)
        for name, weights in grids.items()
    ]


def _tpe(name: str, weights: tuple[float, ...], trials: int) -> Tpe:
    low, high = min(weights), max(weights)
    if (weights != PAPER_WEIGHTS and len(weights) != 2) or not 0 < low < high:
        raise OptionError(
            f"{name}={','.join(f'{w:g}' for w in weights)} is no range to search; write "
            f"{name}=LOWEST,HIGHEST, both positive."
        )
    return Tpe(name, low, high, trials)


def _weight(text: str, specification: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = -1.0
    if not 0 <= weight <= _LARGEST_WEIGHT:
        raise OptionError(
            f"{specification!r}: the weight {text!r} is not a number between 0 and "
            f"{_LARGEST_WEIGHT:g}."
        )
    return weight


def run(
    problem: Problem,
    arm: Arm,
    seed: int,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    device: str = "cpu",
) -> Run:
    """Train one network, reproducibly, and leave the global random state as found.

    Parameters
    ----------
    problem : Problem
    arm : Arm
    seed : int
        Fixes the split, the initialisation, and the order of batches, for all arms alike.
    on_epoch : callable, optional
        Called after every epoch.
    device : str
        Where to train. The split and the initialisation are the same everywhere.
    """
    dataset = _dataset(problem)
    with _seeded(seed, device):
        model = networks.build(problem.model, dataset).to(device)
        outcome = train(
            model,
            data.split(dataset, seed).to(device),
            arm.regulariser,
            arm.weight,
            problem.protocol,
            seed=seed,
            on_epoch=on_epoch,
        )
    return Run(problem, arm, seed, outcome, dataset.fixed_test)


@contextmanager
def _seeded(seed: int, device: str = "cpu") -> Iterator[None]:
    where = torch.device(device)
    with torch.random.fork_rng([] if where.type == "cpu" else [where]):
        torch.manual_seed(seed)
        yield


@lru_cache(maxsize=1)
def _dataset(problem: Problem) -> data.Dataset:
    dataset = data.load(problem.data)
    return data.divided_twice(dataset) if problem.protocol.divide_twice else dataset


def check(problem: Problem, device: str = "cpu") -> str:
    """Raise unless the runs of a problem can be done, and be done again.

    Returns
    -------
    str
        A digest of the data and of an untrained network: runs of another belong to another
        problem, whatever its name is.

    Raises
    ------
    InputError, OptionError, UnknownNameError
        If the device or the data cannot be had, the network does not take them, a batch would
        hold one sample, or either is not the same the next time.
    """
    try:
        torch.zeros(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise OptionError(
            f"device={device!r} cannot be used here: {reason}. Choose for example 'cpu'."
        ) from error
    dataset = _dataset(problem)
    data.split(dataset, 0)
    batch_size = problem.protocol.batch_size
    if dataset.train % batch_size == 1 or dataset.validation < 2:
        raise InputError(
            f"{dataset.train} samples for training and {dataset.validation} for validation were "
            f"given; in batches of {batch_size} the last would hold one sample, or the "
            "validation part has less than two, which have no correlation. Return a "
            "topoloss.compare.data.Dataset with other sizes."
        )
    models, digests = [], []
    for _ in range(2):
        with _seeded(0):
            models.append(networks.build(problem.model, dataset))
        _dataset.cache_clear()
        again = _dataset(problem)
        digests.append(_digest([again.x, again.y, *models[-1].state_dict().values()]))
    if models[0] is models[1] or digests[0] != digests[1]:
        raise InputError(
            f"model {problem.model!r} and data {problem.data!r} are not the same when they are "
            "made again: return a new network each time, which follows torch's seed, and seed "
            "what is random in the data."
        )
    return digests[0]


def _digest(tensors: Sequence[torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(str(tuple(tensor.shape)).encode())
        values = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()


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
            if not done or _state(study.trials[done[0].number]) != "FAIL":
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
        fixed_test = _dataset(problem).fixed_test
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


def _state(trial: FrozenTrial) -> str:
    name: str = trial.state.name
    return name


def _finished(search: Search, study: Study) -> list[tuple[Arm, Outcome]]:
    """The arms and outcomes of complete trials that the search asks for, by weight."""
    complete = {
        trial.params["weight"]: trial.user_attrs["outcome"]
        for trial in study.get_trials(deepcopy=False)
        if _state(trial) == "COMPLETE" and search.has(trial.params["weight"])
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
