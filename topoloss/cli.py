"""The command line: ``topoloss plugins``, ``check``, ``train``, ``compare`` and ``report``."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

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
from rich.table import Table

import topoloss
from topoloss import components
from topoloss.compare import networks, objects, problems, report, runs, searches, sweep
from topoloss.compare.runs import Arm, Problem, Run
from topoloss.compare.training import Epoch, protocol
from topoloss.errors import OptionError, PluginWarning, TopolossError, check_choice
from topoloss.plugins import clashes, installed_plugins
from topoloss.testing import CheckFailed
from topoloss.testing.cases import cases, kinds_of
from topoloss.testing.checks import Case, NotApplicable

__all__ = ["app"]

app = typer.Typer(
    help="Differentiable topology for PyTorch: train with topological regularisers, by name.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Model = Annotated[
    str,
    typer.Option(
        help="net0, net1, net2 of the paper, vgg256 and its like, or package.module:function"
    ),
]
DataName = Annotated[
    str,
    typer.Option(
        "--data",
        help="digits, breast-cancer, diabetes, mnist, cifar10, or package.module:function",
    ),
]
ProtocolName = Annotated[
    str,
    typer.Option(
        "--protocol",
        help="training-forward: value the training pass. fixed: a pass in evaluation mode, as "
        "the paper's authors. faithful: as their code, with its defects. switch-off: with the "
        "regulariser off in degenerate batches alone of these.",
    ),
]
Device = Annotated[str, typer.Option(help="Where to train: cpu, cuda, cuda:1, ...")]
Monitor = Annotated[str, typer.Option(help="loss or score: what stops training early.")]
Patience = Annotated[
    int, typer.Option(min=0, help="Epochs without a better validation part that are tolerated.")
]
MaxEpochs = Annotated[int, typer.Option(min=1, help="Stop at the latest after this many epochs.")]


# Of the paper's network 0 on digits.
_USEFUL_WEIGHTS = {"none": 0.0, "t1": 1e-3, "t2": 1.0, "naive": 0.3}


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"topoloss {topoloss.__version__}")
        raise typer.Exit


@app.command()
def plugins() -> None:
    """List the installed plugins: what each offers, from where, and what failed and why.

    The exit status is 1 if one failed, or if several offer one name.
    """
    console = Console(markup=False)  # "package[extra]" is text
    with warnings.catch_warnings():
        # The table below says the same, and more.
        warnings.simplefilter("ignore", PluginWarning)
        infos = installed_plugins()
    clashing = clashes()
    table = Table("plugin", "distribution", "status", "offers")
    for info in infos:
        offers = "\n".join(f"{kind}: {', '.join(names)}" for kind, names in info.offers.items())
        table.add_row(info.name, info.source, info.status, offers or info.reason)
    console.print(table)
    if not infos:
        console.print("No plugin is installed. In a bare checkout run: pip install -e .")
    for clash in clashing:
        console.print(clash)
    if clashing or any(info.status == "failed" for info in infos):
        raise typer.Exit(1)


@app.command()
def check(
    component: Annotated[
        str, typer.Argument(metavar="NAME|MODULE:OBJECT", help="A component, or a plugin.")
    ],
    kind: Annotated[
        str | None,
        typer.Option(help="Check it only as a filtration, persistence, loss, ..., or plugin."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all generated examples.")] = 0,
) -> None:
    """Check a component, or a plugin and all that it offers, against the rules of its kind.

    The exit status is 1 if a rule is broken, and 2 if there is no such component.
    """
    try:
        given = objects.find(component, "component", "object") if ":" in component else component
        checks = {each: cases(each, given, seed=seed) for each in _kinds(given, kind)}
    except TopolossError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    outcomes: Counter[str] = Counter()
    failures = []
    for each, of_kind in checks.items():
        typer.echo(f"{component} as a {each}")
        for case in of_kind:
            outcome, detail = _outcome(case)
            outcomes[outcome] += 1
            if outcome == "FAILED":
                failures.append(detail)
            reason = f": {detail}" if outcome == "skipped" else ""
            typer.echo(f"  {case.subject.label:<28} {case.rule:<20} {outcome}{reason}")
    for failure in failures:
        typer.echo(f"\n{failure}")
    typer.echo("\n" + ", ".join(f"{outcomes[o]} {o}" for o in ("passed", "skipped", "FAILED")))
    if failures:
        raise typer.Exit(1)


@app.command(name="train")
def train_command(
    regulariser: Annotated[str, typer.Option(help="See `topoloss plugins`.")] = "t1",
    weight: Annotated[
        float | None,
        typer.Option(min=0, help="Of the regulariser in the loss. [default: useful for net0]"),
    ] = None,
    model: Model = "net0",
    data_name: DataName = "digits",
    seed: Annotated[int, typer.Option(min=0, help="Split, initialisation and batches.")] = 0,
    protocol_name: ProtocolName = "training-forward",
    monitor: Monitor = "loss",
    patience: Patience = 20,
    max_epochs: MaxEpochs = 1200,
    device: Device = "cpu",
    plot: Annotated[Path | None, typer.Option(help="PNG of the density of deaths.")] = None,
) -> None:
    """Train one network with one regulariser, and show its accuracy and deaths."""
    if plot is not None:
        report.check_plot_path(plot)
    console = Console()
    components.regulariser(regulariser)
    if weight is None:
        if regulariser not in _USEFUL_WEIGHTS:
            raise OptionError(f"{regulariser} has no default weight; give it with --weight.")
        weight = _USEFUL_WEIGHTS[regulariser]
    problem = _problem(model, data_name, protocol_name, monitor, patience, max_epochs)
    problems.check(problem, device)
    arm = Arm(regulariser, weight)
    with _progress(console) as progress:
        task = progress.add_task(str(arm), total=max_epochs, detail="")

        def advance(epoch: Epoch) -> None:
            progress.update(task, advance=1, detail=_epoch_detail(epoch))

        try:
            trained = problems.run(problem, arm, seed, advance, device)
        except KeyboardInterrupt:
            console.print("interrupted; nothing was written")
            raise typer.Exit(130) from None
    outcome = trained.outcome
    before, after = outcome.before, outcome.after
    table = Table(title=f"{model} on {data_name}, {arm}, seed {seed}")
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
        console.print(f"wrote {report.plot([trained], plot)}")


@app.command()
def compare(
    arms: Annotated[
        list[str], typer.Argument(metavar="NAME[=WEIGHT[,WEIGHT...]]...", help="Regularisers.")
    ],
    splits: Annotated[int, typer.Option(min=1, help="Number of random splits.")] = 3,
    model: Model = "net0",
    data_name: DataName = "digits",
    protocol_name: ProtocolName = "training-forward",
    monitor: Monitor = "loss",
    patience: Patience = 20,
    max_epochs: MaxEpochs = 1200,
    out: Annotated[Path, typer.Option(help="Folder of the runs and the report.")] = Path(
        "runs/compare"
    ),
    search: Annotated[
        str, typer.Option(help="grid: each weight. tpe: between a lowest and a highest weight.")
    ] = "grid",
    trials: Annotated[int, typer.Option(min=1, help="For tpe: weights on each split.")] = 20,
    device: Device = "cpu",
    jobs: Annotated[int, typer.Option(min=1, help="Processes, of one thread each.")] = 1,
    storage: Annotated[
        str | None,
        typer.Option(help="Address of a database that machines share. [default: in the folder]"),
    ] = None,
    known: Annotated[
        Path | None, typer.Option("--runs", help="A runs.csv: what it holds is not done again.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget the finished runs in the folder.")
    ] = False,
) -> None:
    """Compare regularisers on several splits; the weight is chosen by validation.

    Finished runs are kept in the folder: an interrupted comparison goes on where it stopped
    when the same command is given again, without --fresh. NAME=paper stands for the paper's
    grid of weights.
    """
    console = Console()
    check_choice("search", search, ("grid", "tpe"))
    asked = searches.parse(arms, trials if search == "tpe" else None)
    problem = _problem(model, data_name, protocol_name, monitor, patience, max_epochs)
    problems.check(problem, device)
    if out.exists() and not out.is_dir():
        raise OptionError(f"--out {out} is a file; name a folder.")
    if fresh and storage is not None:
        raise OptionError("--fresh forgets the runs of a folder; a --storage is shared.")
    known_runs = [] if known is None else runs.read(known)
    out.mkdir(parents=True, exist_ok=True)
    if fresh:
        for name in ("study.db", "runs.csv"):
            (out / name).unlink(missing_ok=True)
    total = splits * sum(each.runs for each in asked)
    try:
        with _progress(console) as progress:
            task = progress.add_task("compare", total=total, detail="")
            live = _Live(progress, task)
            finished = sweep.sweep(
                asked,
                range(splits),
                problem,
                storage or sweep.database(out),
                jobs=jobs,
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
    console.print(_rich_table(report.summarise(finished), title))
    before = runs.read(out / "runs.csv") if (out / "runs.csv").exists() else []
    _write_report(console, finished, out, also=runs.joined(before, known_runs))


@app.command(name="report")
def report_command(
    files: Annotated[
        list[Path], typer.Argument(metavar="RUNS.CSV|FOLDER...", help="Of one or more comparisons.")
    ],
    out: Annotated[Path | None, typer.Option(help="Folder. [default: that of the runs]")] = None,
) -> None:
    """Write the report of finished runs anew: tables, tests and figures.

    With the runs of several networks or data sets, these are blocks as well.
    """
    if out is None and len(files) > 1:
        raise OptionError("a report of several comparisons needs a folder of its own: --out.")
    found = [runs.read(path / "runs.csv" if path.is_dir() else path) for path in files]
    folder = out or (files[0] if files[0].is_dir() else files[0].parent)
    folder.mkdir(parents=True, exist_ok=True)
    _write_report(Console(), runs.joined(*found), folder)


class _Live:
    """The progress of a comparison: what runs, and the best so far by validation."""

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


def _write_report(
    console: Console, finished: list[Run], folder: Path, also: Sequence[Run] = ()
) -> None:
    for path in report.write(finished, folder, also):
        console.print(f"wrote {path}")


def _problem(
    model: str, data_name: str, name: str, monitor: str, patience: int, max_epochs: int
) -> Problem:
    usual = networks.protocol(model)
    base = replace(usual, monitor=monitor, patience=patience, max_epochs=max_epochs)
    return Problem(model, data_name, protocol(name, base))


def _kinds(given: object, kind: str | None) -> list[str]:
    return kinds_of(given) if kind is None else [kind]


def _outcome(case: Case) -> tuple[str, str]:
    """Run a check; return the outcome, and the reason of a skip or the text of a failure."""
    try:
        case()
    except NotApplicable as reason:
        return "skipped", str(reason)
    except CheckFailed as failure:
        return "FAILED", str(failure)
    return "passed", ""


def _rich_table(rows: list[report.Row], title: str) -> Table:
    table = Table(*report.header(rows), title=title)
    for row in rows:
        table.add_row(*row.cells())
    return table


def _epoch_detail(epoch: Epoch) -> str:
    return f"epoch {epoch.number}, validation {100 * epoch.validation_score:.1f} %"


def _progress(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}"),
    )
    return Progress(*columns, console=console, transient=True)
