"""What a comparison came to: tables, tests and figures, in a folder, from runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from math import isnan, nan
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from topoloss.compare import figures
from topoloss.compare.runs import Problem, Run
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
from topoloss.compare.training import PROTOCOLS, Protocol
from topoloss.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame, Series

__all__ = ["HEADER", "Row", "check_plot_path", "markdown", "plot", "summarise", "write"]

HEADER = ("regulariser", "weight", "test accuracy (%)", "gain over none", "epochs", "s per run")


@dataclass(frozen=True)
class Row:
    """A regulariser over all splits; accuracies in percent.

    Attributes
    ----------
    regulariser : str
    weights : tuple of float
        The weights chosen, over the splits.
    accuracy, deviation : float
        Mean and sample standard deviation (NaN for one split) of the test accuracy.
    gain : float or None
        Mean of the paired differences to ``none``, where it is there.
    epochs, seconds : float
        Means.
    diverged : int
        Runs among the chosen ones that diverged.
    """

    regulariser: str
    weights: tuple[float, ...]
    accuracy: float
    deviation: float
    gain: float | None
    epochs: float
    seconds: float
    diverged: int

    def cells(self) -> tuple[str, ...]:
        weights = ", ".join(f"{w:g}" for w in self.weights if w) or "-"
        note = f" ({self.diverged} diverged)" if self.diverged else ""
        spread = "" if isnan(self.deviation) else f" ± {self.deviation:.2f}"
        return (
            self.regulariser,
            weights,
            f"{self.accuracy:.2f}{spread}{note}",
            "-" if self.gain is None else f"{self.gain:+.2f}",
            f"{self.epochs:.0f}",
            f"{self.seconds:.1f}",
        )


def summarise(runs: Sequence[Run]) -> list[Row]:
    """One row for each regulariser, in the order in which they were given; of one problem."""
    chosen = figures.by_regulariser(select(runs))
    plain = {run.seed: 100 * run.outcome.test_accuracy for run in chosen.get("none", [])}
    rows = []
    for name, best in chosen.items():
        accuracies = [100 * run.outcome.test_accuracy for run in best]
        gains = [
            a - plain[r.seed] for a, r in zip(accuracies, best, strict=True) if r.seed in plain
        ]
        rows.append(
            Row(
                regulariser=name,
                weights=tuple(sorted({run.arm.weight for run in best})),
                accuracy=fmean(accuracies),
                deviation=stdev(accuracies) if len(best) > 1 else nan,
                gain=fmean(gains) if gains and name != "none" else None,
                epochs=fmean(run.outcome.epochs for run in best),
                seconds=fmean(run.outcome.seconds for run in best),
                diverged=sum(run.outcome.diverged for run in best),
            )
        )
    return rows


def markdown(rows: Sequence[Row]) -> str:
    """The table as Markdown."""
    return _table(HEADER, [row.cells() for row in rows])


def write(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Write a report from runs, each of its files whole or not at all.

    Parameters
    ----------
    runs : sequence of Run
        Of one problem or several.
    folder : Path
        Where ``report.md``, ``runs.csv`` with every run and, for each problem, ``table.md``,
        ``figure.png`` (deaths and accuracies), ``weights.png`` and, from 3 regularisers on 2
        splits on, ``critical_difference.png`` go; those of a second problem have ``-2`` at the
        end of their names, and so on.

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
        "runs.csv": lambda path: write_runs(runs, path),
    }
    sections = ["# Comparison"]
    problems = list(dict.fromkeys(run.problem for run in runs))
    for number, problem in enumerate(problems, start=1):
        of_problem = [run for run in runs if run.problem == problem]
        text, files = _section(of_problem, "" if number == 1 else f"-{number}")
        sections.append(text)
        made |= files
    if len(problems) > 1:
        sections.append(_across(runs))
    made["report.md"] = _text("\n\n".join(sections) + "\n")
    return [_whole(folder / name, make) for name, make in made.items()]


def plot(chosen: Sequence[Run], path: Path) -> Path:
    """Draw the deaths before and after training, and accuracies; the PNG is whole or not there.

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
    return _whole(path, _png(figures.accuracies_and_deaths(chosen)))


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
    table = markdown(summarise(runs))
    drawn = {
        f"figure{suffix}.png": figures.accuracies_and_deaths(chosen),
        f"weights{suffix}.png": figures.weights(runs),
    }
    table_of_scores = scores(chosen)
    parts = [f"## {_title(runs[0].problem)}", _protocol(runs[0].problem.protocol), table]
    try:
        parts.append(_ranks(table_of_scores, "splits of one data set, which are not independent"))
        drawn[f"critical_difference{suffix}.png"] = figures.critical_differences(table_of_scores)
    except InputError as reason:
        parts.append(f"No test of ranks: {reason}")
    parts += [_differences(table_of_scores, runs), _neurons(chosen)]
    parts += [f"![{name}]({name})" for name in drawn]
    files = {f"table{suffix}.md": _text(table)} | {name: _png(f) for name, f in drawn.items()}
    return "\n\n".join(part.strip() for part in parts), files


def _title(problem: Problem) -> str:
    return f"{problem.model} on {problem.data}, {_name(problem.protocol)}"


def _name(protocol: Protocol) -> str:
    """The name of a protocol, whatever its number of epochs and criterion of stopping."""
    plain = replace(protocol, max_epochs=Protocol.max_epochs, monitor=Protocol.monitor)
    return next((name for name, known in PROTOCOLS.items() if known == plain), "own protocol")


def _protocol(protocol: Protocol) -> str:
    listed = ", ".join(f"{name} {value}" for name, value in asdict(protocol).items())
    return (
        f"Protocol: {listed}. The weight is chosen on each split by validation accuracy, the "
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
        "\n\n" + _table(("regulariser", "mean rank", *names), rows)
    )


def _differences(table: DataFrame, runs: Sequence[Run]) -> str:
    if "none" not in table or len(table) < 2:
        return "No paired differences: they need `none` and at least 2 splits."
    ratio = runs[0].outcome.test_size / runs[0].outcome.train_size
    rows = []
    for name in table:
        if name != "none":
            d = paired_difference(table, name, "none", ratio)
            interval = f"{d.low:+.2f} to {d.high:+.2f}"
            rows.append((name, f"{d.mean:+.2f}", interval, f"{d.t:.2f}", f"{d.p:.3g}"))
    header = ("regulariser", "gain over none", "95% interval", "corrected t", "corrected p")
    return (
        f"Paired differences in test accuracy (%) over {len(table)} splits. The interval is the "
        "percentile bootstrap's and holds for these samples; the corrected resampled t-test "
        "(Nadeau and Bengio) allows for the overlap of the training parts.\n\n"
        + _table(header, rows)
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
                *(f"{fmean(n.correlation for n in part):.3f}" for part in (before, after)),
                *(f"{fmean(n.median for n in part):.3f}" for part in (before, after)),
                f"{1000 * time_of[name]:.1f}",
                overhead,
                f"{100 * fmean(r.outcome.off for r in runs):.1f}",
            )
        )
    header = (
        *("regulariser", "mean abs. correlation before", "after", "median death before", "after"),
        *("ms per epoch", "times none", "batches switched off (%)"),
    )
    return "Neurons, on the validation part; time.\n\n" + _table(header, rows)


def _across(runs: Sequence[Run]) -> str:
    """Ranks with problems as blocks, for each protocol that has several."""
    import pandas as pd

    means: dict[Protocol, dict[str, Series]] = {}
    for problem in dict.fromkeys(run.problem for run in runs):
        table = scores(select(run for run in runs if run.problem == problem))
        of_protocol = means.setdefault(problem.protocol, {})
        of_protocol[f"{problem.model} on {problem.data}"] = table.mean()
    parts = ["## Problems as blocks"]
    for protocol, columns in means.items():
        table = pd.DataFrame(columns).T.dropna(axis="columns")
        parts.append(f"### {_name(protocol)}")
        try:
            parts.append(_ranks(table, "mean accuracies on each problem"))
        except InputError as reason:
            parts.append(f"No test of ranks: {reason}")
    return "\n\n".join(part.strip() for part in parts)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ("-",) * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _text(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text, encoding="utf-8")


def _png(figure: Figure) -> Callable[[Path], object]:
    return lambda path: figure.savefig(path, dpi=150, format="png")


def _whole(path: Path, make: Callable[[Path], object]) -> Path:
    partial = path.with_name(path.name + ".partial")
    try:
        make(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path
