"""Count the runs, estimate how long they take, and do them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.today import declared
from benchmarks.today.choices import Frozen, stand_in
from benchmarks.today.declared import CONFIRMING, MEASURING, file_of
from benchmarks.today.stages import STAGES, jobs_of, runs_of
from topoloss.compare import batch, runs
from topoloss.compare.batch import Job
from topoloss.compare.records import Run
from topoloss.compare.tables import as_markdown
from topoloss.errors import InputError


def run(stage: str, processes: int) -> None:
    """Do the runs of a stage that are missing, if the whole plan is within its budget."""
    hours, unmeasured = estimate()
    if unmeasured:
        raise InputError(f"{len(unmeasured)} kinds of run are not measured; run `measure` first.")
    if hours > declared.CORE_HOURS:
        raise InputError(
            f"{hours:.1f} core-hours are planned, and the budget is {declared.CORE_HOURS}."
        )
    frozen = Frozen.read()
    runs_of(stage, frozen)  # raises if the file holds runs with another choice
    _work(jobs_of(stage, frozen), file_of(stage), processes)


def measure(processes: int = 1) -> None:
    """Do one run of each kind, with the middle of its first grid, on a split used only here."""
    jobs = [
        Job(job.setup, job.arm, MEASURING)
        for job in jobs_of("confirm", stand_in())
        if job.seed == CONFIRMING[0]
    ]
    _work(jobs, file_of("measured"), processes)


def _work(jobs: Sequence[Job], file: Path, processes: int) -> None:
    done = len(jobs) - len(batch.missing(jobs, runs.read(file) if file.exists() else []))

    def tell(each: Run) -> None:
        nonlocal done
        done += 1
        score = f"{100 * each.outcome.validation_score:.2f}, {each.outcome.seconds:.0f} s"
        where = f"{each.setup.model} on {each.setup.data}, split {each.seed}"
        print(f"{done}/{len(jobs)} {each.arm}, {where}: {score}", flush=True)

    batch.work(jobs, file, processes, tell)


def estimate() -> tuple[float, set[str]]:
    """Core-hours of all stages by the measured runs, and the kinds of run not measured."""
    seconds = _measured()
    kinds = [_kind(job) for stage in STAGES for job in jobs_of(stage, stand_in())]
    unmeasured = {f"{arm} on {problem}" for problem, arm in kinds if (problem, arm) not in seconds}
    return sum(seconds.get(kind, 0.0) for kind in kinds) / 3600, unmeasured


def plan() -> str:
    """How many runs each stage has, and how many core-hours they take."""
    seconds = _measured()
    rows = []
    for stage in STAGES:
        kinds = [_kind(job) for job in jobs_of(stage, stand_in())]
        known = [seconds[kind] for kind in kinds if kind in seconds]
        hours = f"{sum(known) / 3600:.1f}" if len(known) == len(kinds) else "not measured"
        rows.append((stage, f"{len(kinds):,}", hours))
    hours, unmeasured = estimate()
    total = "not measured" if unmeasured else f"{hours:.1f}"
    rows.append(("all", f"{sum(int(row[1].replace(',', '')) for row in rows):,}", total))
    table = as_markdown(("stage", "runs", "core-hours"), rows)
    return (
        f"{table}\n\nThe budget is {declared.CORE_HOURS} core-hours. The hours follow from the "
        "processor's time for one run of each problem and arm, with the middle of the arm's "
        "first grid, stopped by the validation score."
    )


def _measured() -> dict[tuple[str, str], float]:
    file = file_of("measured")
    found = runs.read(file) if file.exists() else []
    return {_kind(each): each.outcome.cpu_seconds or each.outcome.seconds for each in found}


def _kind(job: Job | Run) -> tuple[str, str]:
    """Problem and arm, without any strength."""
    arm = re.sub(r"=[^+]*", "", job.arm.regulariser)
    return f"{job.setup.model} on {job.setup.data}", arm
