"""The tables and the figure of the confirming runs that the docs begin with.

`topoloss.compare.report` writes the full report, with a section for each problem.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import t as student

from benchmarks.today.choosing import at_edge
from benchmarks.today.declared import ADDED, EVERYWHERE, GRIDS, PROBLEMS, Problem
from topoloss.compare import statistics, tables
from topoloss.compare.records import Run, exactly
from topoloss.palette import looks

NONE = "none"
TREE, CONTROLS = "covariance-tree", ("variance", "random-path", "decov")
LEVEL = 0.05


def write(found: Sequence[Run], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    whole = of(found, PROBLEMS[0])
    alone = [run for run in whole if "+" not in run.arm.regulariser]
    parts = {
        "headline": headline(whole),
        "problems": by_problem(found),
        "controls": beside_controls(found),
        "alone-measures": tables.measures(alone),
        "alone-neurons": tables.neurons(alone),
    }
    for name, text in parts.items():
        (folder / f"{name}.md").write_text(f"{text}\n", encoding="utf-8")
    draw(whole).savefig(folder / "headline.png", dpi=150)


def of(found: Iterable[Run], problem: Problem) -> list[Run]:
    """The runs of a problem."""
    return [r for r in found if (r.setup.model, r.setup.data) == problem.of]


def headline(found: Sequence[Run]) -> str:
    """A line for each arm, the best first: its score, its gain, and what T1 and T2 add to it.

    A strength at an end of its grid is marked, as a better one may lie beyond.
    """
    scores = statistics.scores(found)
    strengths = {run.arm.regulariser: run.arm.weight for run in found}
    alone = [name for name in scores if "+" not in name]
    lines = []
    for name in sorted(alone, key=lambda name: -scores[name].mean()):
        cells = [name, _strength(name, strengths[name])]
        cells.append(f"{scores[name].mean():.2f}")
        cells.append("-" if name == NONE else with_interval(gain(found, scores, name, NONE)))
        for added in ADDED:
            sums = (each for each in scores if under(each, added) == name)
            cells += [with_interval(gain(found, scores, each, name)) for each in sums] or ["-"]
        lines.append(cells)
    header = ["regulariser", "strength", f"test {found[0].outcome.metric} (%)", "gain over none"]
    header += [f"{added.upper()} on top adds" for added in ADDED]
    return f"{tables.as_markdown(header, lines)}\n\n{_legend(found)} {_INTERVALS}"


def _strength(name: str, strength: float) -> str:
    if not strength:
        return "-"
    end = at_edge(strength, GRIDS[name])
    return f"{exactly(strength)} ({end})" if end else exactly(strength)


def under(name: str, added: str) -> str | None:
    """To which arm, named without its strength, the arm `name` adds `added`; None if to none."""
    first, _, rest = name.partition("+")
    return rest.partition("=")[0] if rest and first == added else None


@dataclass(frozen=True)
class Gain:
    """Mean difference to another arm on the same splits.

    Attributes
    ----------
    mean, low, high : float
        The mean and Student's 95% interval, which holds for these samples only.
    p : float
        P-value of the corrected resampled t-test, which allows for new samples.
    """

    mean: float
    low: float
    high: float
    p: float

    def __str__(self) -> str:
        return f"{self.mean:+.2f}{'*' * (self.p < LEVEL)}"


def gain(found: Sequence[Run], scores: pd.DataFrame, name: str, baseline: str) -> Gain:
    outcome, differences = found[0].outcome, scores[name] - scores[baseline]
    _, p = statistics.corrected_t_test(differences, outcome.test_size / outcome.train_size)
    return Gain(float(differences.mean()), *statistics.student_interval(differences), p)


def with_interval(gain: Gain) -> str:
    return f"{gain} [{gain.low:+.2f}, {gain.high:+.2f}]"


def by_problem(found: Sequence[Run]) -> str:
    """A line for each problem: the score of `none`, and the gains over it; then mean ranks.

    Ranks are over the problems that have all arms; problems that share their samples are one
    block.
    """
    lines, means, blocks = [], [], []
    for problem in PROBLEMS:
        own = [run for run in of(found, problem) if run.arm.regulariser in EVERYWHERE]
        scores = statistics.scores(own)
        gains = (
            str(gain(own, scores, name, NONE)) if name in scores else "-" for name in EVERYWHERE[1:]
        )
        lines.append([problem.name, f"{scores[NONE].mean():.2f}", *gains])
        if set(EVERYWHERE) <= set(scores):
            means.append(scores.mean()[list(EVERYWHERE)])
            blocks.append(problem.block)
    ranks = statistics.mean_ranks(statistics.of_blocks(pd.DataFrame(means), blocks))
    count = len(set(blocks))
    lines.append([f"mean rank, {count} data sets", *(f"{ranks[name]:.2f}" for name in EVERYWHERE)])
    table = tables.as_markdown(["problem", *EVERYWHERE], lines)
    return f"{table}\n\n{_legend(found)} {_RANKS}"


def beside_controls(found: Sequence[Run]) -> str:
    """A line for each problem: what `covariance-tree` gains over its controls and over DeCov."""
    lines = []
    for problem in PROBLEMS:
        own = of(found, problem)
        scores = statistics.scores(own)
        gains = (with_interval(gain(own, scores, TREE, other)) for other in CONTROLS)
        lines.append([problem.name, *gains])
    table = tables.as_markdown(["problem", *(f"over {other}" for other in CONTROLS)], lines)
    return f"{table}\n\n{_legend(found)} {_INTERVALS}"


def _legend(found: Sequence[Run]) -> str:
    splits = len({run.seed for run in found})
    takes = sorted({f"{_takes(run, splits):.1f}" for run in found}, key=float)
    least = " to ".join(dict.fromkeys((takes[0], takes[-1])))
    return (
        f"Means over {splits} splits; gains in points, on the same splits. A star: p < {LEVEL} by "
        "the corrected resampled t-test (Nadeau and Bengio), which asks about new samples. A "
        f"star needs a mean of at least {least} standard deviations of the differences, more where "
        "the test part is larger relative to the training part. So without a star there may still "
        "be a difference."
    )


def _takes(run: Run, splits: int) -> float:
    """How many standard deviations of the differences their mean must be for a star."""
    ratio = run.outcome.test_size / run.outcome.train_size
    return float(student.ppf(1 - LEVEL / 2, splits - 1)) * sqrt(1 / splits + ratio)


_INTERVALS = (
    "Intervals are Student's, at 95%; they say what more splits of these very samples would give, "
    "and are much too narrow for new samples."
)
_RANKS = (
    "Mean ranks, 1 is best, are over the problems that have all arms; problems that share their "
    "samples are one data set, in which arms are ranked by their mean rank. They describe these "
    "problems, and are not a test."
)


def draw(found: Sequence[Run]) -> Figure:
    """Draw gains over none with their intervals: filled alone, hollow with T1 on top."""
    scores = statistics.scores(found)
    alone = [name for name in scores if "+" not in name and name != NONE]
    alone.sort(key=lambda name: scores[name].mean())
    look = looks(alone)
    figure = Figure(figsize=(7, 0.8 + 0.36 * len(alone)), layout="constrained")
    axes = figure.subplots()
    for row, name in enumerate(alone):
        sums = [each for each in scores if under(each, ADDED[0]) == name]
        for shift, each, inside in ((0.13, name, None), *((-0.17, s, "white") for s in sums)):
            d = gain(found, scores, each, NONE)
            axes.errorbar(
                d.mean,
                row + shift,
                xerr=[[d.mean - d.low], [d.high - d.mean]],
                color=look[name]["color"],
                marker=look[name]["marker"],
                markerfacecolor=inside or look[name]["color"],
                capsize=2,
            )
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(alone)), alone)
    axes.set_xlabel(
        f"gain in test {found[0].outcome.metric} over none (points), with 95% intervals\n"
        "filled: alone; hollow: with T1 on top"
    )
    axes.spines[["top", "right"]].set_visible(False)
    return figure
