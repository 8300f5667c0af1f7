"""What a comparison came to: selection by validation, a table, files and a figure."""

from __future__ import annotations

import csv
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import isnan, nan
from pathlib import Path
from typing import Any

from topoloss.compare.sweep import Run
from topoloss.errors import InputError
from topoloss.extras import needs_extra

__all__ = ["HEADER", "Row", "check_plot_path", "markdown", "plot", "select", "summarise", "write"]

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


def select(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """For each regulariser and seed the run of best validation accuracy; ties: least weight."""
    chosen: dict[str, dict[int, Run]] = {}
    for run in sorted(runs, key=lambda r: r.arm.weight):
        best = chosen.setdefault(run.arm.regulariser, {})
        rival = best.get(run.seed)
        if rival is None or run.outcome.validation_accuracy > rival.outcome.validation_accuracy:
            best[run.seed] = run
    order = dict.fromkeys(run.arm.regulariser for run in runs)
    return {name: [chosen[name][seed] for seed in sorted(chosen[name])] for name in order}


def summarise(runs: Sequence[Run]) -> list[Row]:
    """One row for each regulariser, in the order in which they were given."""
    chosen = select(runs)
    plain = [100 * run.outcome.test_accuracy for run in chosen.get("none", [])]
    rows = []
    for name, best in chosen.items():
        accuracies = [100 * run.outcome.test_accuracy for run in best]
        gains = [a - b for a, b in zip(accuracies, plain, strict=True)] if plain else []
        rows.append(
            Row(
                regulariser=name,
                weights=tuple(sorted({run.arm.weight for run in best})),
                accuracy=statistics.fmean(accuracies),
                deviation=statistics.stdev(accuracies) if len(best) > 1 else nan,
                gain=statistics.fmean(gains) if gains and name != "none" else None,
                epochs=statistics.fmean(run.outcome.epochs for run in best),
                seconds=statistics.fmean(run.outcome.seconds for run in best),
                diverged=sum(run.outcome.diverged for run in best),
            )
        )
    return rows


def markdown(rows: Sequence[Row]) -> str:
    """The table as Markdown."""
    lines = [HEADER, ("-",) * len(HEADER), *(row.cells() for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def write(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Write ``table.md``, ``runs.csv`` and ``figure.png``, each whole or not at all."""
    made = {
        "table.md": lambda path: path.write_text(markdown(summarise(runs)), encoding="utf-8"),
        "runs.csv": lambda path: _write_csv(runs, path),
        "figure.png": lambda path: _draw(select(runs), path),
    }
    return [_whole(folder / name, make) for name, make in made.items()]


def plot(chosen: dict[str, list[Run]], path: Path) -> Path:
    """Draw the density of deaths before and after training, and the accuracies, whole or not.

    Parameters
    ----------
    chosen : dict of str to list of Run
        Runs by regulariser, as from :func:`select`. Densities pool their splits.
    path : Path
        Of the PNG.

    Returns
    -------
    Path
    """
    return _whole(path, lambda partial: _draw(chosen, partial))


def check_plot_path(path: Path) -> None:
    """Raise unless a PNG can be written to `path`, so that no training is done in vain."""
    if path.suffix.lower() != ".png":
        raise InputError(f"the plot {path} is a PNG; give it a name that ends in .png.")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(f"the plot {path}: there is no folder {path.parent} to write to.")


def _draw(chosen: dict[str, list[Run]], path: Path) -> None:
    with needs_extra("compare"):
        from matplotlib.figure import Figure

    one_run = len(chosen) == 1 and len(next(iter(chosen.values()))) == 1
    figure = Figure(figsize=(7 if one_run else 11, 4.2), layout="constrained")
    if one_run:
        _draw_densities(figure.subplots(), chosen)
    else:
        densities, accuracies = figure.subplots(1, 2, width_ratios=(3, 2))
        _draw_densities(densities, chosen)
        _draw_accuracies(accuracies, chosen)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150, format="png")


def _draw_densities(axes: Any, chosen: dict[str, list[Run]]) -> None:
    bins = [k / 50 for k in range(51)]
    before = [d for run in next(iter(chosen.values())) for d in run.outcome.deaths_before]
    axes.hist(before, bins, density=True, color="0.85", label="before training")
    for k, (name, runs) in enumerate(chosen.items()):
        after = [d for run in runs for d in run.outcome.deaths_after]
        style = {"histtype": "step", "linewidth": 1.6, "color": f"C{k}"}
        axes.hist(after, bins, density=True, label=f"after, {name}", **style)
    axes.set(
        xlabel="death: 1 - |r| along an edge of the spanning tree (1: constant neurons)",
        ylabel="density",
        title="Deaths in dimension 0, all neurons",
    )
    axes.legend(frameon=False, loc="upper center")


def _draw_accuracies(axes: Any, chosen: dict[str, list[Run]]) -> None:
    for k, runs in enumerate(chosen.values()):
        values = [100 * run.outcome.test_accuracy for run in runs]
        axes.plot([k] * len(values), values, "o", color=f"C{k}", alpha=0.6)
        axes.plot(k, statistics.fmean(values), "_", color=f"C{k}", markersize=26)
    axes.set(ylabel="test accuracy (%)", title="Each split, and the mean")
    axes.set_xticks(range(len(chosen)), list(chosen))
    axes.margins(x=0.2)


def _write_csv(runs: Sequence[Run], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        columns = ["test_accuracy", "validation_accuracy", "epochs", "seconds", "diverged"]
        writer = csv.writer(file)
        writer.writerow(["regulariser", "weight", "seed", *columns])
        for run in runs:
            outcome = asdict(run.outcome)
            values = [outcome[column] for column in columns]
            writer.writerow([run.arm.regulariser, run.arm.weight, run.seed, *values])


def _whole(path: Path, make: Callable[[Path], object]) -> Path:
    partial = path.with_name(path.name + ".partial")
    try:
        make(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path
