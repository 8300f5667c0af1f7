"""Many runs, resumably: a thin layer on Optuna, one study for each regulariser.

A run is a trial with a weight and a seed; its validation accuracy is the trial's value and
the rest of its outcome the trial's attributes. Finished trials are never run again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from topoloss import registry
from topoloss.compare import data, networks
from topoloss.compare.training import Epoch, Outcome, Protocol, train
from topoloss.errors import InputError, OptionError
from topoloss.extras import needs_extra

__all__ = ["Arm", "Problem", "Run", "parse_arms", "sweep"]

_LARGEST_WEIGHT = 1e9
_LARGEST_SEED = 2**31 - 1


@dataclass(frozen=True, order=True)
class Arm:
    """A regulariser by name, and its weight in the loss."""

    regulariser: str
    weight: float

    def __str__(self) -> str:
        return f"{self.regulariser}={self.weight:g}" if self.weight else self.regulariser


@dataclass(frozen=True)
class Problem:
    """What the regularisers are compared on."""

    model: str = "net0"
    data: str = "digits"
    protocol: Protocol = field(default_factory=Protocol)


@dataclass(frozen=True)
class Run:
    """One trained network."""

    arm: Arm
    seed: int
    outcome: Outcome


def parse_arms(specifications: Sequence[str]) -> list[Arm]:
    """Parse ``NAME`` or ``NAME=WEIGHT[,WEIGHT...]``, checking names and weights.

    Examples
    --------
    >>> from topoloss.compare.sweep import parse_arms
    >>> [str(arm) for arm in parse_arms(["none", "t1=1e-3,1e-2"])]
    ['none', 't1=0.001', 't1=0.01']
    """
    arms: list[Arm] = []
    for specification in specifications:
        name, _, weights = specification.partition("=")
        registry.regulariser(name)
        if name != "none" and not weights:
            raise OptionError(
                f"{specification!r} has no weight; write {name}=WEIGHT[,WEIGHT...], for example "
                f"{name}=0.001,0.01."
            )
        arms += [Arm(name, _weight(w, specification)) for w in (weights or "0").split(",")]
    if not arms:
        raise OptionError("no regulariser was given; write for example: none t1=0.001 t2=1")
    return list(dict.fromkeys(arms))


def sweep(
    arms: Sequence[Arm],
    seeds: Sequence[int],
    problem: Problem,
    folder: Path,
    *,
    on_start: Callable[[Arm, int], None] = lambda arm, seed: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    on_finish: Callable[[Run], None] = lambda run: None,
) -> list[Run]:
    """Train every arm on every split, but for the runs that `folder` holds already.

    Parameters
    ----------
    arms : sequence of Arm
    seeds : sequence of int
        Each fixes a split, an initialisation and an order of batches, for all arms alike.
    problem : Problem
    folder : Path
        Where ``study.db`` is, or will be.
    on_start, on_epoch, on_finish : callable
        Called for every run; for a run found finished only `on_finish`.

    Returns
    -------
    list of Run
        In the order of `arms`, then of `seeds`.

    Raises
    ------
    InputError
        If the folder holds runs of another problem.
    """
    dataset = data.load(problem.data)
    with torch.random.fork_rng(devices=[]):
        networks.build(problem.model, dataset)  # before a folder is made
    runs = []
    with _studies(folder, problem) as study_of:
        for arm in arms:
            study = study_of(arm.regulariser)
            finished = _finished(study)
            for seed in seeds:
                run = finished.get((arm, seed))
                if run is None:
                    on_start(arm, seed)
                    outcome = _train(arm, seed, problem, dataset, on_epoch)
                    _store(study, arm, seed, outcome)
                    run = Run(arm, seed, outcome)
                runs.append(run)
                on_finish(run)
    return runs


def _train(
    arm: Arm, seed: int, problem: Problem, dataset: data.Dataset, on_epoch: Callable[[Epoch], None]
) -> Outcome:
    # The global random state serves initialisation and dropout, and is given back.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = networks.build(problem.model, dataset)
        split = data.split(dataset, seed)
        return train(
            model,
            split,
            arm.regulariser,
            arm.weight,
            problem.protocol,
            seed=seed,
            on_epoch=on_epoch,
        )


@contextmanager
def _studies(folder: Path, problem: Problem) -> Iterator[Callable[[str], Any]]:
    with needs_extra("compare"):
        import optuna
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder {folder} cannot be made: {error}.") from error
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder / 'study.db'}")
    described = json.dumps(asdict(problem))

    def study_of(regulariser: str) -> Any:
        study = optuna.create_study(
            storage=storage, study_name=regulariser, direction="maximize", load_if_exists=True
        )
        stored = study.user_attrs.get("problem", described)
        if stored != described:
            raise InputError(
                f"{folder} holds runs of another problem: {_differences(stored, described)}. "
                "Choose another folder with --out, or forget its runs with --fresh."
            )
        study.set_user_attr("problem", described)
        return study

    try:
        yield study_of
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _differences(stored: str, described: str) -> str:
    there, here = ({**p, **p.pop("protocol")} for p in map(json.loads, (stored, described)))
    return ", ".join(
        f"{key} is {there.get(key)!r} there and {value!r} here"
        for key, value in here.items()
        if there.get(key) != value
    )


def _finished(study: Any) -> dict[tuple[Arm, int], Run]:
    runs = {}
    for trial in study.trials:
        if trial.state.name == "COMPLETE":
            arm, seed = Arm(study.study_name, trial.params["weight"]), trial.params["seed"]
            runs[arm, seed] = Run(arm, seed, Outcome(**trial.user_attrs["outcome"]))
    return runs


def _store(study: Any, arm: Arm, seed: int, outcome: Outcome) -> None:
    from optuna.distributions import FloatDistribution, IntDistribution
    from optuna.trial import create_trial

    # One transaction: a run is stored whole or not at all, whoever else writes meanwhile.
    trial = create_trial(
        params={"weight": arm.weight, "seed": seed},
        distributions={
            "weight": FloatDistribution(0, _LARGEST_WEIGHT),
            "seed": IntDistribution(0, _LARGEST_SEED),
        },
        user_attrs={"outcome": asdict(outcome)},
        value=outcome.validation_accuracy,
    )
    study.add_trial(trial)


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
