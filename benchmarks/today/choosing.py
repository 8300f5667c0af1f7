"""Choose by the runs of a stage, and list the choices at an end of their grid."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from statistics import fmean

from benchmarks.today import declared
from benchmarks.today.choices import Frozen
from benchmarks.today.declared import GRIDS, RATES, file_of
from benchmarks.today.stages import finished
from topoloss.compare.records import Run, Setup, exactly
from topoloss.compare.statistics import best_on_average
from topoloss.compare.tables import as_markdown
from topoloss.errors import InputError


def freeze(stage: str) -> Frozen:
    """Choose by the mean validation score over the splits of a stage, and write the choice.

    If weights tie the smallest is chosen; if rates tie, the first. Choices of later stages are
    dropped, because their runs used another choice.
    """
    if file_of("confirm").exists():
        raise InputError("confirming runs have begun; what they run with is frozen for good.")
    frozen = Frozen.read()
    found = finished(stage, frozen)
    if stage == "rates":
        frozen = Frozen()
    for problem in declared.PROBLEMS:
        of_problem = [r for r in found if (r.setup.model, r.setup.data) == problem.of]
        if stage == "rates":
            protocol = _best_setup(of_problem).protocol
            frozen.rates[problem.name] = protocol.learning_rate
            frozen.monitors[problem.name] = protocol.monitor
            continue
        if stage == "alone":
            frozen.weights[problem.name] = {}
        best = best_on_average(of_problem)
        frozen.weights[problem.name] |= {run.arm.regulariser: run.arm.weight for run in best}
    frozen.write()
    return frozen


def _best_setup(found: Sequence[Run]) -> Setup:
    scores: dict[Setup, list[float]] = {}
    for run in found:
        scores.setdefault(run.setup, []).append(run.outcome.validation_score)
    return max(scores, key=lambda setup: fmean(scores[setup]))


def edges(frozen: Frozen) -> str:
    """List the chosen rates and weights at an end of their grid, which may be too small."""
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
    return as_markdown(("problem", "arm", "chosen", "end of its grid"), rows)


def at_edge(value: float, grid: Sequence[float]) -> str:
    """Say whether a value is the lowest or the highest of several; empty if it is neither."""
    if len(grid) < 2:
        return ""
    return {min(grid): "lowest", max(grid): "highest"}.get(value, "")
