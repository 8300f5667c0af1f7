"""What a comparison came to: tables, tests and figures, in a folder, from runs."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import isnan, nan
from pathlib import Path
from statistics import fmean, median, stdev
from typing import TYPE_CHECKING

from topoloss.compare import figures
from topoloss.compare.files import write_whole
from topoloss.compare.runs import Arm, Problem, Run, joined
from topoloss.compare.runs import write as write_runs
from topoloss.compare.statistics import (
    critical_difference,
    friedman,
    mean_ranks,
    nemenyi,
    paired_difference,
    scores,
    select,
)
from topoloss.compare.tables import as_markdown
from topoloss.compare.training import PROTOCOLS, Protocol
from topoloss.compare.training import protocol as named
from topoloss.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame, Series

__all__ = ["Row", "across", "check_plot_path", "header", "markdown", "plot", "summarise", "write"]


@dataclass(frozen=True)
class Row:
    """A regulariser over all splits; scores times 100.

    Attributes
    ----------
    regulariser : str
    weights : dict of float to int
        The weights chosen, ascending, and on how many splits.
    splits : int
    metric : str
        Name of the score.
    score, deviation : float
        Mean and sample standard deviation (NaN for one split) of the test score.
    gain : float or None
        Mean of the paired differences to ``none``, where it is there.
    epochs, seconds : float
        Means.
    diverged, cut : int
        Chosen runs that diverged, and that the limit on epochs ended.
    """

    regulariser: str
    weights: dict[float, int]
    splits: int
    metric: str
    score: float
    deviation: float
    gain: float | None
    epochs: float
    seconds: float
    diverged: int
    cut: int

    def cells(self) -> tuple[str, ...]:
        several = len(self.weights) > 1
        chosen = (f"{w:g}" + f" x {n}" * several for w, n in self.weights.items())
        weights = "-" if list(self.weights) == [0] else ", ".join(chosen)
        counts = {"diverged": self.diverged, "stopped at the limit of epochs": self.cut}
        told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        note = f" ({told})" if told else ""
        spread = "" if isnan(self.deviation) else f" ± {self.deviation:.2f}"
        return (
            self.regulariser,
            weights,
            f"{self.splits}",
            f"{self.score:.2f}{spread}{note}",
            "-" if self.gain is None else f"{self.gain:+.2f}",
            f"{self.epochs:.0f}",
            f"{self.seconds:.1f}",
        )


def header(rows: Sequence[Row]) -> tuple[str, ...]:
    """The names of the cells."""
    return (
        *("regulariser", "weight", "splits", f"test {rows[0].metric} (%)", "gain over none"),
        *("epochs", "s per run"),
    )


def summarise(runs: Sequence[Run]) -> list[Row]:
    """One row for each regulariser, in the order in which they were given; of one problem."""
    chosen = figures.by_regulariser(select(runs))
    plain = {run.seed: 100 * run.outcome.test_score for run in chosen.get("none", [])}
    rows = []
    for name, best in chosen.items():
        scored = [100 * run.outcome.test_score for run in best]
        gains = [s - plain[r.seed] for s, r in zip(scored, best, strict=True) if r.seed in plain]
        rows.append(
            Row(
                regulariser=name,
                weights=dict(sorted(Counter(run.arm.weight for run in best).items())),
                splits=len(best),
                metric=best[0].outcome.metric,
                score=fmean(scored),
                deviation=stdev(scored) if len(best) > 1 else nan,
                gain=fmean(gains) if gains and name != "none" else None,
                epochs=fmean(run.outcome.epochs for run in best),
                seconds=fmean(run.outcome.seconds for run in best),
                diverged=sum(run.outcome.diverged for run in best),
                cut=sum(
                    run.outcome.epochs == run.problem.protocol.max_epochs
                    and not run.outcome.diverged
                    for run in best
                ),
            )
        )
    return rows


def markdown(rows: Sequence[Row]) -> str:
    """The table as Markdown."""
    return as_markdown(header(rows), [row.cells() for row in rows])


def write(runs: Sequence[Run], folder: Path, also: Sequence[Run] = ()) -> list[Path]:
    """Write a report from runs, each of its files whole or not at all.

    What an earlier report in the folder has and this one has not is removed.

    Parameters
    ----------
    runs : sequence of Run
        Of one problem or several.
    folder : Path
        Where ``report.md``, ``runs.csv`` with every run and, for each problem, the report's
        parts ``table.md``, ``ranks.md``, ``differences.md``, ``weights.md`` and ``neurons.md``,
        ``figure.png`` (deaths and scores), ``weights.png`` and, from 3 regularisers on 2 splits on,
        ``critical_difference.png`` go; those of a second problem have ``-2`` at the end of
        their names, and so on. With several problems, ``across.md`` has them as blocks.
    also : sequence of Run
        Others that ``runs.csv`` holds too, so that none is lost.

    Returns
    -------
    list of Path
        Of the files.

    Raises
    ------
    InputError
        If there are no runs.
    """
    if not runs:
        raise InputError("there are no finished runs to report.")
    made: dict[str, Callable[[Path], object]] = {
        "runs.csv": lambda path: write_runs(joined(runs, also), path),
    }
    sections = ["# Comparison"]
    problems = list(dict.fromkeys(run.problem for run in runs))
    for number, problem in enumerate(problems, start=1):
        of_problem = [run for run in runs if run.problem == problem]
        text, files = _section(of_problem, "" if number == 1 else f"-{number}")
        sections.append(text)
        made |= files
    if len(problems) > 1:
        sections.append(across(runs))
        made["across.md"] = _text(sections[-1])
    made["report.md"] = _text("\n\n".join(sections))
    for path in folder.iterdir():
        if _OURS.fullmatch(path.name) and path.name not in made:
            path.unlink()
    return [write_whole(folder / name, make) for name, make in made.items()]


_OURS = re.compile(
    r"across\.md|(table|ranks|differences|weights|neurons)(-\d+)?\.md"
    r"|(figure|weights|critical_difference)(-\d+)?\.png"
)


def plot(chosen: Sequence[Run], path: Path) -> Path:
    """Draw the deaths before and after training, and scores; the PNG is whole or not there.

    Parameters
    ----------
    chosen : sequence of Run
        As from :func:`topoloss.compare.statistics.select`. Densities pool their splits.
    path : Path
        Of the PNG.

    Returns
    -------
    Path
    """
    return write_whole(path, _png(figures.scores_and_deaths(chosen)))


def check_plot_path(path: Path) -> None:
    """Raise unless a PNG can be written to `path`, so that no training is done in vain."""
    if path.suffix.lower() != ".png":
        raise InputError(f"the plot {path} is a PNG; give it a name that ends in .png.")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(f"the plot {path}: there is no folder {path.parent} to write to.")


_Files = dict[str, Callable[[Path], object]]


def _section(runs: Sequence[Run], suffix: str) -> tuple[str, _Files]:
    """What the report says of one problem, and the files that belong to it."""
    chosen = select(runs)
    drawn = {
        f"figure{suffix}.png": figures.scores_and_deaths(chosen),
        f"weights{suffix}.png": figures.weights(runs),
    }
    table_of_scores = scores(chosen)
    try:
        ranks = _ranks(table_of_scores, "splits of one data set, which are not independent")
        drawn[f"critical_difference{suffix}.png"] = figures.critical_differences(table_of_scores)
    except InputError as reason:
        ranks = f"No test of ranks: {reason}"
    parts = {
        "table": markdown(summarise(runs)),
        "ranks": ranks,
        "differences": _differences(chosen),
        "weights": _weights(runs, chosen),
        "neurons": _neurons(chosen),
    }
    head = (f"## {_title(runs[0].problem)}", _protocol(runs[0].problem.protocol))
    images = (f"![{name}]({name})" for name in drawn)
    files = {f"{name}{suffix}.md": _text(part) for name, part in parts.items()}
    files |= {name: _png(figure) for name, figure in drawn.items()}
    return "\n\n".join((*head, *parts.values(), *images)), files


def _title(problem: Problem) -> str:
    return f"{problem.model} on {problem.data}, {_name(problem.protocol)}"


def _name(protocol: Protocol) -> str:
    """The name of a protocol, whatever its settings beside the authors' behaviour."""
    return next((n for n in PROTOCOLS if named(n, protocol) == protocol), "own protocol")


def _protocol(protocol: Protocol) -> str:
    listed = ", ".join(f"{name} {value}" for name, value in asdict(protocol).items())
    return (
        f"Protocol: {listed}. The weight is chosen on each split by the validation score, the "
        "least of the best. ± is the standard deviation over splits."
    )


def _ranks(table: DataFrame, blocks: str) -> str:
    ranks, test, pairs = mean_ranks(table), friedman(table), nemenyi(table)
    names = list(table)
    rows = [(n, f"{ranks[n]:.2f}", *(f"{pairs.loc[n, m]:.3g}" for m in names)) for n in names]
    return (
        f"Friedman's test over {len(table)} blocks: statistic {test.statistic:.4g}, "
        f"p = {test.p:.3g}. The blocks are {blocks}. P-values of Nemenyi's test; critical "
        f"difference of the mean ranks at 5%: {critical_difference(len(names), len(table)):.2f}."
        "\n\n" + as_markdown(("regulariser", "mean rank", *names), rows)
    )


def _differences(chosen: Sequence[Run]) -> str:
    grouped = figures.by_regulariser(chosen)
    if "none" not in grouped or len(grouped["none"]) < 2:
        return "No paired differences: they need `none` and at least 2 splits."
    outcome = chosen[0].outcome
    learnt_from = outcome.train_size + outcome.validation_size
    rows = []
    for name, runs in grouped.items():
        pairs = scores((*grouped["none"], *runs))
        if name == "none" or len(pairs) < 2:
            continue
        d = paired_difference(pairs, name, "none", outcome.test_size / learnt_from)
        interval = f"{d.low:+.2f} to {d.high:+.2f}"
        corrected = ("-", "-") if chosen[0].fixed_test else (f"{d.t:.2f}", f"{d.p:.3g}")
        rows.append((name, f"{len(pairs)}", f"{d.mean:+.2f}", interval, *corrected))
    header = (
        *("regulariser", "splits", "gain over none", "95% interval", "corrected t"),
        "corrected p",
    )
    licensed = (
        "All splits have the same test part, so nothing is said of other test samples."
        if chosen[0].fixed_test
        else "The corrected resampled t-test (Nadeau and Bengio) allows for the overlap of the "
        f"parts, of {outcome.test_size} samples for the test and {learnt_from} to learn from, "
        "validation included."
    )
    return (
        f"Paired differences in the test {outcome.metric} (%). The interval is the percentile "
        f"bootstrap's and holds for these samples. {licensed}\n\n" + as_markdown(header, rows)
    )


def _neurons(chosen: Sequence[Run]) -> str:
    grouped = figures.by_regulariser(chosen)
    time_of = {
        name: sum(r.outcome.seconds for r in runs) / sum(r.outcome.epochs for r in runs)
        for name, runs in grouped.items()
    }
    rows = []
    for name, runs in grouped.items():
        before, after = ([getattr(r.outcome, w) for r in runs] for w in ("before", "after"))
        overhead = f"{time_of[name] / time_of['none']:.2f}" if "none" in time_of else "-"
        rows.append(
            (
                name,
                *(f"{fmean(n.constant for n in part):.0f}" for part in (before, after)),
                *(f"{fmean(n.varying_correlation for n in part):.3f}" for part in (before, after)),
                *(f"{fmean(n.varying_median for n in part):.2f}" for part in (before, after)),
                f"{100 * fmean(r.outcome.off for r in runs):.1f}",
                f"{1000 * time_of[name]:.1f}",
                overhead,
            )
        )
    header = (
        *("regulariser", "constant neurons before", "after"),
        *("mean abs. correlation before", "after", "median death before", "after"),
        *("batches switched off (%)", "ms per epoch", "times none"),
    )
    return (
        "Neurons, before and after training, on the validation part: how many are constant, and "
        "the correlations and deaths of those that are not.\n\n" + as_markdown(header, rows)
    )


def _weights(runs: Sequence[Run], chosen: Sequence[Run]) -> str:
    times_chosen = Counter(run.arm for run in chosen)
    of_arm: dict[Arm, list[float]] = {}
    for run in runs:
        of_arm.setdefault(run.arm, []).append(100 * run.outcome.validation_score)
    rows = [
        (
            *(arm.regulariser, f"{arm.weight:g}", f"{len(values)}", f"{median(values):.2f}"),
            *(f"{min(values):.2f}", f"{times_chosen[arm]}"),
        )
        for arm, values in of_arm.items()
    ]
    metric = runs[0].outcome.metric
    header = ("regulariser", "weight", "splits", f"median validation {metric} (%)", "lowest")
    return as_markdown((*header, "chosen on"), rows)


_PROBLEMS_AS_BLOCKS = "problems, each with its mean score; those on one data set share its samples"


def across(runs: Sequence[Run]) -> str:
    """Ranks with problems as blocks, for each protocol.

    Networks that are trained at other rates are blocks of one test nevertheless.
    """
    import pandas as pd

    means: dict[tuple[str, str, int, int], dict[str, Series]] = {}
    for problem in dict.fromkeys(run.problem for run in runs):
        table = scores(select(run for run in runs if run.problem == problem))
        protocol = problem.protocol
        key = (_name(protocol), protocol.monitor, protocol.patience, protocol.max_epochs)
        of_protocol = means.setdefault(key, {})
        of_protocol[f"{problem.model} on {problem.data}"] = table.mean()
    parts = ["## Problems as blocks"]
    for (name, monitor, patience, max_epochs), columns in means.items():
        table = pd.DataFrame(columns).T.dropna(axis="columns")
        stopped = f"{patience} epochs without a better {monitor}, or {max_epochs} in all"
        parts.append(f"### {name}, stopped by {stopped}")
        try:
            parts.append(_ranks(table, _PROBLEMS_AS_BLOCKS))
        except InputError as reason:
            parts.append(f"No test of ranks: {reason}")
    return "\n\n".join(parts)


def _text(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(f"{text}\n", encoding="utf-8")


def _png(figure: Figure) -> Callable[[Path], object]:
    return lambda path: figure.savefig(path, dpi=150, format="png")
