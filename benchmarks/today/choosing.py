"""Choose by the runs of a stage, and tell which choices are at an end of their grid."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from statistics import fmean

from benchmarks.today import declared
from benchmarks.today.choices import Frozen
from benchmarks.today.declared import GRIDS, RATES, file_of
from benchmarks.today.stages import jobs_of
from topoloss.compare import batch, runs
from topoloss.compare.records import Arm, Setup, exactly
from topoloss.compare.tables import as_markdown
from topoloss.errors import InputError


def freeze(stage: str) -> Frozen:
    """Choose by the mean validation score over the splits of a stage, and write the choice.

    Of weights that tie the smallest is taken; of rates the first.
    """
    if file_of("confirm").exists():
        raise InputError("confirming runs have begun; what they run with is frozen for good.")
    frozen = Frozen.read()
    means = _mean_scores(stage, frozen)
    for problem in declared.PROBLEMS:
        of_problem = {
            (setup, arm): mean
            for (setup, arm), mean in means.items()
            if (setup.model, setup.data) == (problem.model, problem.data)
        }
        if stage == "rates":
            setup, _ = max(of_problem, key=of_problem.__getitem__)
            frozen.rates[problem.name] = setup.protocol.learning_rate
            frozen.monitors[problem.name] = setup.protocol.monitor
            continue
        chosen = frozen.weights.setdefault(problem.name, {})
        for name in dict.fromkeys(arm.regulariser for _, arm in of_problem):
            at_weight = {a.weight: m for (_, a), m in of_problem.items() if a.regulariser == name}
            chosen[name] = max(at_weight, key=lambda weight: (at_weight[weight], -weight))
    frozen.write()
    return frozen


def _mean_scores(stage: str, frozen: Frozen) -> dict[tuple[Setup, Arm], float]:
    jobs = jobs_of(stage, frozen)
    found = runs.read(file_of(stage)) if file_of(stage).exists() else []
    left = batch.missing(jobs, found)
    if left:
        raise InputError(f"{len(left)} of {len(jobs)} runs of the stage {stage} are missing.")
    scores: dict[tuple[Setup, Arm], list[float]] = {}
    for each in found:
        scores.setdefault((each.setup, each.arm), []).append(each.outcome.validation_score)
    return {key: fmean(values) for key, values in scores.items()}


def edges(frozen: Frozen) -> str:
    """Which chosen rates and weights are the lowest or highest of their grid: it was too small."""
    rows = []
    for problem in declared.PROBLEMS:
        chosen: list[tuple[str, float, Iterable[float]]] = []
        if problem.name in frozen.rates:
            chosen.append(("learning rate", frozen.rates[problem.name], RATES))
        for name, weight in frozen.weights.get(problem.name, {}).items():
            chosen.append((name, weight, GRIDS[re.split(r"[+=]", name)[0]]))
        for what, value, grid in chosen:
            end = at_edge(value, tuple(grid))
            if end:
                rows.append((problem.name, what, exactly(value), end))
    if not rows:
        return "Nothing that was chosen is at an end of its grid."
    return as_markdown(("problem", "arm", "chosen", "of its grid the"), rows)


def at_edge(value: float, grid: Sequence[float]) -> str:
    """Say whether a value is the lowest or the highest of several; empty if it is neither."""
    if len(grid) < 2:
        return ""
    return {min(grid): "lowest", max(grid): "highest"}.get(value, "")
