"""The commands ``topoloss compare`` and ``report``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from topoloss.cli.failures import INTERRUPTED
from topoloss.cli.options import (
    DataName,
    Device,
    Layers,
    MaxEpochs,
    Model,
    Monitor,
    Patience,
    ProtocolName,
    Quiet,
    check_setup,
    made_setup,
)
from topoloss.cli.screen import Screen, Steps
from topoloss.cli.train import brief
from topoloss.cli.words import check_components, check_word, completing, components
from topoloss.compare import runs
from topoloss.compare.names import SEARCHES, TREATMENTS
from topoloss.compare.records import Arm, Epoch, Run
from topoloss.compare.storage import check_address, database
from topoloss.errors import OptionError
from topoloss.files import make_folder

if TYPE_CHECKING:
    from topoloss.compare.tables import Row

__all__ = ["compare", "report"]


def compare(
    arms: Annotated[
        list[str],
        typer.Argument(
            metavar="ARM...",
            autocompletion=completing(lambda: [*components(), *TREATMENTS]),
            help="Regularisers and the weights to try, as NAME[=WEIGHT[,WEIGHT...]], for example: "
            "none t1=0.001,0.01 t2=1. NAME=paper stands for the paper's weights. "
            "NAME may have options, as in 't1[reduction=mean]=0.01', and may be a pipeline, as "
            "in cosine/mst/t2=1, or your own, as package.module:object. Quote brackets. An ARM "
            "may also be batch-norm, dropout=P, input-noise=STD, label-smoothing=SHARE, "
            "rewiring=DENSITY, structured-noise=VARIANCE or weight-decay=RATE, or a sum: "
            "t1=0.001,0.01+batch-norm.",
        ),
    ],
    splits: Annotated[int, typer.Option(min=1, metavar="N", help="Number of random splits.")] = 3,
    model: Model = "net0",
    data_name: DataName = "digits",
    protocol_name: ProtocolName = "default",
    layers: Layers = None,
    monitor: Monitor = None,
    patience: Patience = None,
    max_epochs: MaxEpochs = None,
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Folder for the runs and the report.")
    ] = Path("runs/compare"),
    search: Annotated[
        str,
        typer.Option(
            metavar="HOW",
            autocompletion=completing(SEARCHES),
            help="grid: try each weight. tpe: search between a lowest and a highest weight.",
        ),
    ] = "grid",
    trials: Annotated[
        int, typer.Option(min=1, metavar="N", help="With tpe: how many weights each split tries.")
    ] = 20,
    device: Device = "cpu",
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Processes, of one thread each.  [default: one for each core, or 1 on a GPU]",
        ),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Address of a database to share.  [default: a file in the folder]",
        ),
    ] = None,
    known: Annotated[
        Path | None,
        typer.Option(
            "--runs", metavar="FILE", help="A runs.csv with finished runs, which are not repeated."
        ),
    ] = None,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh",
            help="Delete the finished runs in the folder first. No other comparison may be using "
            "the folder.",
        ),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Compare regularisers on several splits, with weights chosen by validation on each.

    Finished runs are kept in the folder. To go on with an interrupted comparison, give the same
    command again, without --fresh.

    A comparison records no epochs for `topoloss inspect`. To look into one of its runs, repeat
    it with `topoloss train`: give its regulariser, --weight and --seed (the split, from 0), and
    --out.
    """
    check_word("--search", search, SEARCHES)
    check_setup(model, data_name, protocol_name, layers, monitor)
    for arm in arms:
        check_components(arm, TREATMENTS)
    if storage is not None:
        check_address(storage)
        if fresh:
            raise OptionError(
                "--fresh deletes the runs in a folder, but --storage names a shared database; "
                "leave one of them out."
            )
    if out.exists() and not out.is_dir():
        raise OptionError(f"--out {out} is a file; name a folder.")
    known_runs = [] if known is None else runs.read(known)
    from topoloss.compare import searches, setups, tables
    from topoloss.compare.sweep import sweep

    screen = Screen(quiet)
    asked = searches.parse(arms, trials if search == "tpe" else None)
    setup = made_setup(model, data_name, protocol_name, layers, monitor, patience, max_epochs)
    setups.check(setup, device)
    for each in asked:
        setups.check_arm(setup, Arm(each.regulariser, each.high))
    make_folder(out)  # fail now, not after hours of training
    if fresh:
        for name in ("study.db", "runs.csv"):
            (out / name).unlink(missing_ok=True)
    _runs_in(out, storage)  # fail now, too, if runs.csv cannot be read
    total = splits * sum(each.runs for each in asked)
    try:
        with screen.progress(total, "first runs") as steps:
            live = _Live(screen, steps)
            finished = sweep(
                asked,
                range(splits),
                setup,
                storage or database(out),
                jobs=jobs or min(total, _cores() if device == "cpu" else 1),
                device=device,
                known=known_runs,
                on_found=steps.found,
                on_start=live.start,
                on_epoch=live.epoch,
                on_finish=live.finish,
            )
    except KeyboardInterrupt:
        again = "without --fresh to go on" if fresh else "to go on"
        typer.echo(
            f"interrupted; {storage or out} has the finished runs: repeat the command {again}",
            err=True,
        )
        raise typer.Exit(INTERRUPTED) from None
    also = runs.joined(_runs_in(out, storage), known_runs)
    title = f"{model} on {data_name}, {splits} split{'s' if splits > 1 else ''}"
    _write_report(screen, finished, out, also)
    _show(screen, tables.summarise(finished), title)
    screen.say(f"report: {out / 'report.md'}\npicture: {out / 'figure.png'}")


def report(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="RUNS.CSV|FOLDER...", help="Runs of one or more comparisons."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Folder for the report.  [default: the folder of the runs]"
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write the report of finished runs again: tables, tests and figures.

    With runs of several networks or data sets, regularisers are also ranked across these.
    """
    if out is None and len(files) > 1:
        raise OptionError("a report of several comparisons needs a folder of its own: --out.")
    found = [runs.read(path / "runs.csv" if path.is_dir() else path) for path in files]
    folder = out or (files[0] if files[0].is_dir() else files[0].parent)
    make_folder(folder)
    screen = Screen(quiet)
    _write_report(screen, runs.joined(*found), folder)
    screen.say(f"report: {folder / 'report.md'}")


class _Live:
    """Show what a comparison is doing, and the result of each run."""

    def __init__(self, screen: Screen, steps: Steps) -> None:
        self._screen = screen
        self._steps = steps
        self._run = ""
        self._best: Run | None = None

    def start(self, arm: Arm, seed: int) -> None:
        self._run = f"{arm}, split {seed}"
        self._steps.now(self._run)

    def epoch(self, epoch: Epoch) -> None:
        self._steps.now(f"{self._run}, {brief(epoch)}")

    def finish(self, run: Run) -> None:
        self._steps.advance()
        score = 100 * run.outcome.validation_score
        if self._best is None or score > 100 * self._best.outcome.validation_score:
            self._best = run
            self._steps.now(f"best {run.arm}, split {run.seed}, {score:.1f} %")
        self._screen.say(
            f"{run.arm}, split {run.seed}: validation {run.outcome.metric} {score:.2f} %, "
            f"{run.outcome.epochs} epochs" + (", diverged" if run.outcome.diverged else "")
        )


def _runs_in(folder: Path, storage: str | None) -> list[Run]:
    """Read the folder's runs.csv. A run whose line was cut short is still in the study."""
    path = folder / "runs.csv"
    if not path.exists():
        return []
    return runs.read(path, mend=storage is not None or (folder / "study.db").exists())


def _write_report(
    screen: Screen, finished: list[Run], folder: Path, also: Sequence[Run] = ()
) -> None:
    from topoloss.compare import report as reports

    written = reports.write(finished, folder, also)
    screen.say(f"wrote {', '.join(path.name for path in written)} into {folder}")


def _show(screen: Screen, rows: Sequence[Row], title: str) -> None:
    from topoloss.compare import tables

    notes = [f"{row.regulariser}: {row.note()}" for row in rows if row.note()]
    screen.table(tables.header(rows), [row.cells() for row in rows], title, notes)


def _cores() -> int:
    """How many processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
