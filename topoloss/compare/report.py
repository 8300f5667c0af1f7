"""The report of a comparison: tables, tests and figures in a folder, made from runs."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from topoloss.compare import figures, tables
from topoloss.compare.protocols import name_of
from topoloss.compare.protocols import setup as named
from topoloss.compare.records import Defects, Measures, Protocol, Run, Setup, columns, to_row
from topoloss.compare.runs import joined
from topoloss.compare.runs import write as write_runs
from topoloss.compare.statistics import of_blocks, scores, select
from topoloss.errors import InputError, listed
from topoloss.files import make_folder, write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import Series

__all__ = ["across", "check_plot_path", "plot", "write"]


def write(runs: Sequence[Run], folder: Path, also: Sequence[Run] = ()) -> list[Path]:
    """Write a report of runs into a folder.

    If writing fails, each file is still either whole or as it was. Files of an earlier report
    that this one does not write are removed once all others are written.

    Parameters
    ----------
    runs : sequence of Run
        Runs of one setup or several.
    folder : Path
        Made if there is none. It gets ``report.md``, and ``runs.csv`` with every run. For each
        setup it gets the parts of the report: ``table.md``, ``ranks.md``, ``differences.md``,
        ``weights.md``, ``neurons.md``, ``measures.md`` if they are known, ``figure.png`` (deaths
        and scores), ``weights.png`` and, if there are at least 3 regularisers on 2 splits,
        ``critical_difference.png``. Names for the second setup end in ``-2``, and so on. If there
        are several setups, ``across.md`` ranks regularisers with the data sets as blocks.
    also : sequence of Run
        Other runs to keep in ``runs.csv``.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    InputError
        If there are no runs.
    TopolossError
        If a file cannot be written.
    """
    if not runs:
        raise InputError("there are no finished runs to report.")
    made: dict[str, Callable[[Path], object]] = {
        "runs.csv": lambda path: write_runs(joined(runs, also), path),
    }
    sections = ["# Comparison"]
    setups = list(dict.fromkeys(run.setup for run in runs))
    for number, setup in enumerate(setups, start=1):
        of_setup = [run for run in runs if run.setup == setup]
        text, files = _section(of_setup, "" if number == 1 else f"-{number}")
        sections.append(text)
        made |= files
    if len(setups) > 1:
        sections.append(across(runs))
        made["across.md"] = _text(sections[-1])
    made["report.md"] = _text("\n\n".join(sections))
    make_folder(folder)
    written = [write_whole(folder / name, make) for name, make in made.items()]
    for path in folder.iterdir():
        if _OURS.fullmatch(path.name) and path.name not in made:
            path.unlink()
    return written


_OURS = re.compile(
    r"across\.md|(table|ranks|differences|weights|neurons|measures)(-\d+)?\.md"
    r"|(figure|weights|critical_difference)(-\d+)?\.png"
)


def plot(chosen: Sequence[Run], path: Path) -> Path:
    """Draw the deaths before and after training, and the scores, as a PNG.

    Parameters
    ----------
    chosen : sequence of Run
        As returned by :func:`topoloss.compare.statistics.select`. The densities pool all splits.
    path : Path
        The PNG to write. An error leaves an earlier file unchanged.

    Returns
    -------
    Path
    """
    return write_whole(path, _png(figures.scores_and_deaths(chosen)))


def check_plot_path(path: Path) -> None:
    """Raise unless a PNG can be written to `path`; call this before a long training."""
    if path.suffix.lower() != ".png":
        raise InputError(f"the plot {path} will be a PNG; give it a name that ends in .png.")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(f"the plot {path}: there is no folder {path.parent} to write to.")


_Files = dict[str, Callable[[Path], object]]


def _section(runs: Sequence[Run], suffix: str) -> tuple[str, _Files]:
    """The section of the report about one setup, and the files that belong to it."""
    chosen = select(runs)
    drawn = {
        f"figure{suffix}.png": figures.scores_and_deaths(chosen),
        f"weights{suffix}.png": figures.weights(runs),
    }
    table_of_scores = scores(chosen)
    try:
        ranks = tables.ranks(table_of_scores, "splits of one data set, which are not independent")
        drawn[f"critical_difference{suffix}.png"] = figures.critical_differences(table_of_scores)
    except InputError as reason:
        ranks = f"No test of ranks: {reason}"
    parts = {
        "table": tables.summary(tables.summarise(runs)),
        "ranks": ranks,
        "differences": tables.differences(chosen),
        "weights": tables.weights(runs, chosen),
        "neurons": tables.neurons(chosen),
    }
    if any(run.outcome.measures != Measures() for run in chosen):
        parts["measures"] = tables.measures(chosen)
    head = (f"## {_title(runs[0].setup)}", _protocol(runs))
    images = (f"![{name}]({name})" for name in drawn)
    files = {f"{name}{suffix}.md": _text(part) for name, part in parts.items()}
    files |= {name: _png(figure) for name, figure in drawn.items()}
    return "\n\n".join((*head, *parts.values(), *images)), files


def _title(setup: Setup) -> str:
    return f"{setup.model} on {setup.data}, {name_of(setup)}"


def _protocol(runs: Sequence[Run]) -> str:
    setup, arms = runs[0].setup, {run.arm for run in runs}
    settings = to_row(setup.protocol) | to_row(setup.defects)
    always = {*columns(Protocol, later=False), *columns(Defects)}
    usual = to_row(Protocol())
    listed = ", ".join(
        f"{name} {value}"
        for name, value in settings.items()
        if name in always or value != usual[name]
    )
    several = len(arms) > len({arm.regulariser for arm in arms})
    chosen = "The weight is chosen on each split by the validation score, the least of the best. "
    return f"Protocol: {listed}. {chosen * several}± is the standard deviation over splits."


def across(runs: Sequence[Run]) -> str:
    """Rank regularisers with data sets as blocks, once for each protocol.

    Setups on one data set share its samples, so they are one block. One test covers setups that
    differ in network (with the settings that the protocol gives it), data set or learning rate
    and, under ``today``, in `monitor`. Setups that differ in anything else enter another test.
    """
    import pandas as pd

    means: dict[str, dict[Setup, Series]] = {}
    for setup in dict.fromkeys(run.setup for run in runs):
        table = scores(select(run for run in runs if run.setup == setup))
        means.setdefault(_comparable(setup), {})[setup] = table.mean()
    parts = ["## Data sets as blocks"]
    for heading, of_protocol in means.items():
        every = pd.DataFrame(list(of_protocol.values()))
        table = every.dropna(axis="columns")
        blocks = [setup.data.partition("[")[0] for setup in of_protocol]
        counted = ", ".join(
            f"{data} ({count} setup{'s' * (count > 1)})" for data, count in Counter(blocks).items()
        )
        parts.append(f"### {heading}")
        try:
            described = f"data sets, with the mean ranks over setups on each: {counted}"
            parts.append(tables.ranks(of_blocks(table, blocks), described))
            lacking = [name for name in every if name not in table]
            if lacking:
                parts.append(f"Left out, as some setups have no runs of them: {listed(lacking)}.")
        except InputError as reason:
            parts.append(f"No test of ranks: {reason}")
    return "\n\n".join(parts)


def _comparable(setup: Setup) -> str:
    """The heading of the test that a setup enters; one test for all setups with one heading."""
    name, protocol = name_of(setup), setup.protocol
    if name == "today":
        usual, unlisted = named("", "", name), {"learning_rate", "monitor"}
        heading = "today, with a rate and a stopping rule for each problem"
    else:
        usual = Setup() if name == "own protocol" else named(setup.model, setup.data, name)
        unlisted = {"learning_rate", "patience", "monitor", "max_epochs"}
        stopped = f"{protocol.patience} epochs without a better {protocol.monitor}"
        heading = f"{name}, stopped by {stopped}, or {protocol.max_epochs} in all"
    cells, usually = (to_row(each.protocol) | to_row(each.defects) for each in (setup, usual))
    others = (f"{k} {v}" for k, v in cells.items() if k not in unlisted and v != usually[k])
    return ", ".join((heading, *others))


def _text(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(f"{text}\n", encoding="utf-8")


def _png(figure: Figure) -> Callable[[Path], object]:
    return lambda path: figure.savefig(path, dpi=150, format="png")
