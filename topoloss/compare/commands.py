"""The commands ``topoloss train``, ``compare`` and ``report``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table

from topoloss import components
from topoloss.compare import protocols, runs, searches, setups, tables
from topoloss.compare import report as reports
from topoloss.compare.files import make_folder
from topoloss.compare.records import Arm, Epoch, Run, Setup
from topoloss.compare.storage import database
from topoloss.compare.sweep import sweep
from topoloss.compare.watching import recorded
from topoloss.errors import OptionError, check_choice
from topoloss.expressions import parse
from topoloss.inspection import Recorder

__all__ = ["compare", "report", "train"]

Model = Annotated[
    str,
    typer.Option(
        help="A network of the paper (net0, net1, net2, vgg256, ...), conv, or your own as "
        "package.module:function."
    ),
]
DataName = Annotated[
    str,
    typer.Option(
        "--data",
        help="digits, breast-cancer, wine, diabetes, teacher, spirals, friedman1 to friedman3, "
        "mnist, cifar10, or your own as package.module:function. 'digits[train=100]' sets the "
        "size of the training part.",
    ),
]
ProtocolName = Annotated[
    str,
    typer.Option(
        "--protocol",
        help="default: as attach does. training-forward: with the layers of the paper. fixed: "
        "also value a pass in evaluation mode, as the paper's authors do. switch-off: also "
        "imitate one defect of their code, a regulariser that is off in degenerate batches. "
        "faithful: imitate their code with all its defects. today: Adam, He's initialisation "
        "and a warm-up of the weight.",
    ),
]
Layers = Annotated[
    str | None,
    typer.Option(
        help="Which layers are regularised. auto: the default of attach. trainable: every module "
        "with trainable parameters, as in the paper. [default: as the protocol says]"
    ),
]
Device = Annotated[str, typer.Option(help="Where to train: cpu, cuda, cuda:1, ...")]
Monitor = Annotated[
    str | None,
    typer.Option(
        help="What stops training early: the validation loss or score. [default: as the protocol "
        "says]"
    ),
]
Patience = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="How many epochs may bring no better validation result. [default: as the protocol "
        "says]",
    ),
]
MaxEpochs = Annotated[
    int | None,
    typer.Option(
        min=1, help="Stop after this many epochs at the latest. [default: as the protocol says]"
    ),
]


_REGULARISER = "NAME|FILTRATION/PERSISTENCE/LOSS|MODULE:OBJECT"
# For the paper's network 0 on digits.
_USEFUL_WEIGHTS = {"none": 0.0, "t1": 1e-3, "t2": 1.0, "naive": 0.3}


def train(
    regulariser: Annotated[
        str,
        typer.Option(
            metavar=_REGULARISER,
            help="See `topoloss plugins`. Quote brackets: 't1[reduction=mean]'.",
        ),
    ] = "t1",
    weight: Annotated[
        float | None,
        typer.Option(min=0, help="How much the regulariser counts. [default: useful for net0]"),
    ] = None,
    model: Model = "net0",
    data_name: DataName = "digits",
    seed: Annotated[
        int,
        typer.Option(min=0, help="Fixes the split, the initialisation and the order of batches."),
    ] = 0,
    protocol_name: ProtocolName = "default",
    layers: Layers = None,
    monitor: Monitor = None,
    patience: Patience = None,
    max_epochs: MaxEpochs = None,
    device: Device = "cpu",
    plot: Annotated[
        Path | None, typer.Option(help="Draw the density of deaths as this PNG.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Record every epoch in this folder, for `topoloss inspect`."),
    ] = None,
) -> None:
    """Train one network with one regulariser, and show its accuracy and deaths."""
    if plot is not None:
        reports.check_plot_path(plot)
    console = _console()
    regulariser = str(parse(regulariser))
    components.regulariser(regulariser)
    if weight is None:
        if regulariser not in _USEFUL_WEIGHTS:
            raise OptionError(f"{regulariser} has no default weight; give it with --weight.")
        weight = _USEFUL_WEIGHTS[regulariser]
    setup = _setup(model, data_name, protocol_name, layers, monitor, patience, max_epochs)
    setups.check(setup, device)
    arm = Arm(regulariser, weight)
    title = f"{model} on {data_name}, {arm}, seed {seed}"
    with _progress(console) as progress:
        task = progress.add_task(str(arm), total=setup.protocol.max_epochs, detail="")

        def advance(epoch: Epoch) -> None:
            progress.update(task, advance=1, detail=_epoch_detail(epoch))

        try:
            with nullcontext() if out is None else Recorder(out, title) as recorder:
                watch = None if recorder is None else recorded(recorder, setup.protocol)
                trained = setups.run(setup, arm, seed, advance, device, watch)
        except KeyboardInterrupt:
            kept = "nothing was written" if out is None else f"{out} has the epochs until now"
            console.print(f"interrupted; {kept}")
            raise typer.Exit(130) from None
    outcome = trained.outcome
    before, after = outcome.before, outcome.after
    table = Table(title=title)
    for column in ("", "before training", "after training"):
        table.add_column(column)
    for label in ("lowest", "median", "highest"):
        table.add_row(
            f"{label} death", f"{getattr(before, label):.3f}", f"{getattr(after, label):.3f}"
        )
    table.add_row("mean abs. correlation", f"{before.correlation:.3f}", f"{after.correlation:.3f}")
    console.print(table)
    console.print(
        f"test {outcome.metric} {100 * outcome.test_score:.2f} %, validation "
        f"{100 * outcome.validation_score:.2f} %, {outcome.epochs} epochs, "
        f"{outcome.seconds:.1f} s" + (", diverged" if outcome.diverged else "")
    )
    if plot is not None:
        console.print(f"wrote {reports.plot([trained], plot)}")
    if recorder is not None:
        console.print(f"wrote {recorder.path}; to see it: topoloss inspect {out}")


def compare(
    arms: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME[=WEIGHT[,WEIGHT...]][+NAME[=WEIGHT]...]...",
            help="Regularisers and the weights to try; NAME=paper stands for the paper's weights. "
            "NAME may have options, as in 't1[reduction=mean]=0.01', and be a pipeline, as "
            "in cosine/mst/t2=1, or your own as package.module:object. Quote brackets. Also "
            "batch-norm, dropout=P, input-noise=STD, label-smoothing=SHARE, rewiring=SHARE, "
            "structured-noise=VARIANCE and weight-decay=RATE, alone or added: "
            "t1=0.001,0.01+batch-norm.",
        ),
    ],
    splits: Annotated[int, typer.Option(min=1, help="Number of random splits.")] = 3,
    model: Model = "net0",
    data_name: DataName = "digits",
    protocol_name: ProtocolName = "default",
    layers: Layers = None,
    monitor: Monitor = None,
    patience: Patience = None,
    max_epochs: MaxEpochs = None,
    out: Annotated[Path, typer.Option(help="Folder for the runs and the report.")] = Path(
        "runs/compare"
    ),
    search: Annotated[
        str,
        typer.Option(
            help="grid: try each weight. tpe: search between a lowest and a highest weight."
        ),
    ] = "grid",
    trials: Annotated[
        int, typer.Option(min=1, help="With tpe: how many weights each split tries.")
    ] = 20,
    device: Device = "cpu",
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes, of one thread each. [default: one for each core, or 1 on a GPU]",
        ),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(help="Address of a database to share. [default: a file in the folder]"),
    ] = None,
    known: Annotated[
        Path | None, typer.Option("--runs", help="A runs.csv whose runs are not done again.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget the finished runs in the folder.")
    ] = False,
) -> None:
    """Compare regularisers on several splits; each split chooses weights by validation.

    Finished runs are kept in the folder. To go on with an interrupted comparison, give the same
    command again, without --fresh.

    Epochs are not recorded for `topoloss inspect`. To look into one of the runs, do it again by
    `topoloss train`, with its regulariser, --weight and --seed (the split, from 0), and --out.
    """
    console = _console()
    check_choice("search", search, ("grid", "tpe"))
    asked = searches.parse(arms, trials if search == "tpe" else None)
    setup = _setup(model, data_name, protocol_name, layers, monitor, patience, max_epochs)
    setups.check(setup, device)
    for each in asked:
        setups.check_arm(setup, Arm(each.regulariser, each.high))
    if out.exists() and not out.is_dir():
        raise OptionError(f"--out {out} is a file; name a folder.")
    if fresh and storage is not None:
        raise OptionError("--fresh forgets the runs in a folder; a --storage is shared.")
    known_runs = [] if known is None else runs.read(known)
    make_folder(out)  # before hours of training
    if fresh:
        for name in ("study.db", "runs.csv"):
            (out / name).unlink(missing_ok=True)
    _runs_in(out)  # if its format is another one, fail now and not after hours of training
    total = splits * sum(each.runs for each in asked)
    try:
        with _progress(console) as progress:
            task = progress.add_task("compare", total=total, detail="")
            live = _Live(progress, task)
            finished = sweep(
                asked,
                range(splits),
                setup,
                storage or database(out),
                jobs=jobs or min(total, _cores() if device == "cpu" else 1),
                device=device,
                known=known_runs,
                on_start=live.start,
                on_epoch=live.epoch,
                on_finish=live.finish,
            )
    except KeyboardInterrupt:
        kept = storage or out
        console.print(f"interrupted; {kept} has the finished runs: repeat the command", end=" ")
        console.print("without --fresh to go on" if fresh else "to go on")
        raise typer.Exit(130) from None
    title = f"{model} on {data_name}, {splits} split{'s' if splits > 1 else ''}"
    console.print(_rich_table(tables.summarise(finished), title))
    _write_report(console, finished, out, also=runs.joined(_runs_in(out), known_runs))


def report(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="RUNS.CSV|FOLDER...", help="Runs of one or more comparisons."),
    ],
    out: Annotated[Path | None, typer.Option(help="Folder. [default: that of the runs]")] = None,
) -> None:
    """Write the report of finished runs again: tables, tests and figures.

    With runs of several networks or data sets, regularisers are also ranked across those.
    """
    if out is None and len(files) > 1:
        raise OptionError("a report of several comparisons needs a folder of its own: --out.")
    found = [runs.read(path / "runs.csv" if path.is_dir() else path) for path in files]
    folder = out or (files[0] if files[0].is_dir() else files[0].parent)
    make_folder(folder)
    _write_report(_console(), runs.joined(*found), folder)


class _Live:
    """Show the progress of a comparison: the current run, and the best validation score so far."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task
        self._best: Run | None = None
        self._epoch = ""

    def start(self, arm: Arm, seed: int) -> None:
        self._progress.update(self._task, description=f"{arm}, split {seed}")

    def epoch(self, epoch: Epoch) -> None:
        self._epoch = _epoch_detail(epoch)
        self._show()

    def finish(self, run: Run) -> None:
        score = run.outcome.validation_score
        if self._best is None or score > self._best.outcome.validation_score:
            self._best = run
        self._epoch = ""
        self._progress.advance(self._task)
        self._show()
        self._progress.console.print(
            f"{run.arm}, split {run.seed}: validation {run.outcome.metric} {100 * score:.2f} %, "
            f"{run.outcome.epochs} epochs" + (", diverged" if run.outcome.diverged else ""),
            highlight=False,
        )

    def _show(self) -> None:
        parts = [self._epoch]
        if self._best is not None:
            best = self._best
            parts.append(
                f"best {best.arm}, split {best.seed}: {100 * best.outcome.validation_score:.1f} %"
            )
        self._progress.update(self._task, detail="; ".join(filter(None, parts)))


def _runs_in(folder: Path) -> list[Run]:
    path = folder / "runs.csv"
    return runs.read(path) if path.exists() else []


def _write_report(
    console: Console, finished: list[Run], folder: Path, also: Sequence[Run] = ()
) -> None:
    for path in reports.write(finished, folder, also):
        console.print(f"wrote {path}")


def _setup(
    model: str,
    data_name: str,
    protocol_name: str,
    layers: str | None,
    monitor: str | None,
    patience: int | None,
    max_epochs: int | None,
) -> Setup:
    given: dict[str, Any] = {
        "layers": layers,
        "monitor": monitor,
        "patience": patience,
        "max_epochs": max_epochs,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    return protocols.setup(model, data_name, protocol_name, **changes)


def _rich_table(rows: list[tables.Row], title: str) -> Table:
    first, *rest = tables.header(rows)
    # Names that are cut short could not be told apart.
    table = Table(Column(first, overflow="fold"), *rest, title=title)
    for row in rows:
        table.add_row(*row.cells())
    return table


def _epoch_detail(epoch: Epoch) -> str:
    return f"epoch {epoch.number}, validation {100 * epoch.validation_score:.1f} %"


def _cores() -> int:
    """How many processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _console() -> Console:
    return Console(markup=False)  # "t1[reduction=mean]" is text


def _progress(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
    )
    return Progress(*columns, console=console, transient=True)
