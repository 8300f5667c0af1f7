"""The runs of each stage, given what was chosen by the stages before."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.today import declared
from benchmarks.today.choices import Frozen
from benchmarks.today.declared import (
    CONFIRMING,
    GRIDS,
    MONITORS,
    RATE_SPLITS,
    RATES,
    WEIGHT_SPLITS,
    on_top,
    tops,
)
from topoloss.compare import batch, protocols, runs
from topoloss.compare.batch import Job
from topoloss.compare.records import Arm, Run
from topoloss.errors import InputError


def jobs_of(stage: str, frozen: Frozen) -> list[Job]:
    """The runs of a stage, given what was frozen by the stages before.

    Raises
    ------
    InputError
        If something is not frozen yet.
    """
    try:
        return list(_STAGES[stage](frozen))
    except KeyError as error:
        raise InputError(
            f"the stage {stage} needs a choice for {error} that is not frozen; run and freeze the "
            "stages before it."
        ) from error


def runs_of(stage: str, frozen: Frozen) -> list[Run]:
    """The runs of a stage that are done.

    Raises
    ------
    InputError
        If the file of the stage holds runs that were made with another choice.
    """
    file = declared.file_of(stage)
    held = runs.read(file) if file.exists() else []
    others = {Job(r.setup, r.arm, r.seed) for r in held} - set(jobs_of(stage, frozen))
    if others:
        raise InputError(
            f"{file} holds {len(others)} runs that do not belong to this stage: something else "
            "is frozen now. Confirming splits are run only once, with what was frozen before."
        )
    return held


def finished(stage: str, frozen: Frozen) -> list[Run]:
    """All runs of a stage.

    Raises
    ------
    InputError
        If some are missing, or were made with another choice.
    """
    found, jobs = runs_of(stage, frozen), jobs_of(stage, frozen)
    left = batch.missing(jobs, found)
    if left:
        raise InputError(f"{len(left)} of {len(jobs)} runs of the stage {stage} are missing.")
    return found


def _rates(frozen: Frozen) -> Iterator[Job]:
    for problem in declared.PROBLEMS:
        for monitor in MONITORS:
            for rate in RATES:
                setup = protocols.setup(
                    problem.model, problem.data, "today", learning_rate=rate, monitor=monitor
                )
                for seed in RATE_SPLITS:
                    yield Job(setup, Arm("none", 0.0), seed)


def _alone(frozen: Frozen) -> Iterator[Job]:
    for problem in declared.PROBLEMS:
        setup = frozen.setup(problem)
        for name in problem.alone:
            for weight in GRIDS[name]:
                for seed in WEIGHT_SPLITS:
                    yield Job(setup, Arm(name, weight), seed)


def _top(frozen: Frozen) -> Iterator[Job]:
    for problem in declared.PROBLEMS:
        for added, under in tops(problem):
            name = on_top(added, under, frozen.weights[problem.name][under])
            for weight in GRIDS[added]:
                for seed in WEIGHT_SPLITS:
                    yield Job(frozen.setup(problem), Arm(name, weight), seed)


def _confirm(frozen: Frozen) -> Iterator[Job]:
    for problem in declared.PROBLEMS:
        weights = frozen.weights[problem.name]
        sums = [on_top(added, under, weights[under]) for added, under in tops(problem)]
        for name in (*problem.alone, *sums):
            for seed in CONFIRMING:
                yield Job(frozen.setup(problem), Arm(name, weights[name]), seed)


_STAGES = {"rates": _rates, "alone": _alone, "top": _top, "confirm": _confirm}
STAGES = tuple(_STAGES)
