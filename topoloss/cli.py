"""The command line: ``topoloss plugins``, ``check``, ``train`` and ``compare``."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import topoloss
from topoloss import registry
from topoloss.compare import data, networks, objects, report
from topoloss.compare.sweep import Arm, Problem, Run, parse_arms, sweep
from topoloss.compare.training import Epoch, Protocol, train
from topoloss.errors import OptionError, PluginWarning, TopolossError
from topoloss.testing import CheckFailed
from topoloss.testing.checks import Case, NotApplicable
from topoloss.testing.suite import cases, kinds_of

__all__ = ["app"]

app = typer.Typer(
    help="Differentiable topology for PyTorch: train with topological regularisers, by name.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Model = Annotated[
    str, typer.Option(help="net0, net1, net2 of the paper, or package.module:function")
]
DataName = Annotated[
    str, typer.Option("--data", help="digits, mnist, cifar10, or package.module:function")
]
EvalPass = Annotated[
    bool, typer.Option("--eval-pass", help="Value a separate pass in evaluation mode.")
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
        infos = registry.installed_plugins()
    clashes = registry.clashes()
    table = Table("plugin", "distribution", "status", "offers")
    for info in infos:
        offers = "\n".join(f"{kind}: {', '.join(names)}" for kind, names in info.offers.items())
        table.add_row(info.name, info.source, info.status, offers or info.problem)
    console.print(table)
    if not infos:
        console.print("No plugin is installed. In a bare checkout run: pip install -e .")
    for clash in clashes:
        console.print(clash)
    if clashes or any(info.status == "failed" for info in infos):
        raise typer.Exit(1)


@app.command()
def check(
    component: Annotated[
        str, typer.Argument(metavar="NAME|MODULE:OBJECT", help="A component, or a plugin.")
    ],
    kind: Annotated[
        str | None, typer.Option(help="Only as a filtration, persistence, loss, ..., or plugin.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of all inputs.")] = 0,
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
    max_epochs: MaxEpochs = 1200,
    eval_pass: EvalPass = False,
    plot: Annotated[Path | None, typer.Option(help="PNG of the density of deaths.")] = None,
) -> None:
    """Train one network with one regulariser, and show its accuracy and deaths."""
    if plot is not None:
        report.check_plot_path(plot)
    console = Console()
    made = registry.regulariser(regulariser)
    if weight is None:
        if regulariser not in _USEFUL_WEIGHTS:
            raise OptionError(f"{regulariser} has no default weight; give it with --weight.")
        weight = _USEFUL_WEIGHTS[regulariser]
    dataset = data.load(data_name)
    protocol = Protocol(max_epochs=max_epochs, eval_pass=eval_pass)
    torch.manual_seed(seed)
    network = networks.build(model, dataset)
    split = data.split(dataset, seed)
    with _progress(console) as progress:
        task = progress.add_task(str(Arm(regulariser, weight)), total=max_epochs, detail="")

        def advance(epoch: Epoch) -> None:
            progress.update(task, advance=1, detail=_epoch_detail(epoch))

        try:
            outcome = train(network, split, made, weight, protocol, seed=seed, on_epoch=advance)
        except KeyboardInterrupt:
            console.print("interrupted; nothing was written")
            raise typer.Exit(130) from None
    table = Table(title=f"{model} on {data_name}, {Arm(regulariser, weight)}, seed {seed}")
    for column in ("", "before training", "after training"):
        table.add_column(column)
    for label, quantile in (("lowest", 0.0), ("median", 0.5), ("highest", 1.0)):
        before, after = (
            float(torch.tensor(deaths).quantile(quantile))
            for deaths in (outcome.deaths_before, outcome.deaths_after)
        )
        table.add_row(f"{label} death", f"{before:.3f}", f"{after:.3f}")
    console.print(table)
    console.print(
        f"test accuracy {100 * outcome.test_accuracy:.2f} %, validation "
        f"{100 * outcome.validation_accuracy:.2f} %, {outcome.epochs} epochs, "
        f"{outcome.seconds:.1f} s" + (", diverged" if outcome.diverged else "")
    )
    if plot is not None:
        run = Run(Arm(regulariser, weight), seed, outcome)
        console.print(f"wrote {report.plot({regulariser: [run]}, plot)}")


@app.command()
def compare(
    arms: Annotated[
        list[str], typer.Argument(metavar="NAME[=WEIGHT[,WEIGHT...]]...", help="Regularisers.")
    ],
    splits: Annotated[int, typer.Option(min=1, help="Number of random splits.")] = 3,
    model: Model = "net0",
    data_name: DataName = "digits",
    max_epochs: MaxEpochs = 1200,
    eval_pass: EvalPass = False,
    out: Annotated[Path, typer.Option(help="Folder of the runs and the report.")] = Path(
        "runs/compare"
    ),
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget the finished runs in the folder.")
    ] = False,
) -> None:
    """Compare regularisers on several splits; the weight is chosen by validation.

    Finished runs are kept in the folder: an interrupted comparison goes on where it stopped
    when the same command is given again.
    """
    console = Console()
    parsed = parse_arms(arms)
    problem = Problem(model, data_name, Protocol(max_epochs=max_epochs, eval_pass=eval_pass))
    networks.build(model, data.load(data_name))
    if out.exists() and not out.is_dir():
        raise OptionError(f"--out {out} is a file; name a folder.")
    if fresh:
        (out / "study.db").unlink(missing_ok=True)
    total = len(parsed) * splits
    title = f"{model} on {data_name}, {splits} split{'s' if splits > 1 else ''}"
    try:
        with _progress(console) as progress:
            task = progress.add_task("compare", total=total, detail="")

            def start(arm: Arm, seed: int) -> None:
                progress.update(task, description=f"{arm}, split {seed}")

            def finish(run: Run) -> None:
                progress.advance(task)
                progress.console.print(
                    f"{run.arm}, split {run.seed}: test accuracy "
                    f"{100 * run.outcome.test_accuracy:.2f} %, {run.outcome.epochs} epochs",
                    highlight=False,
                )

            runs = sweep(
                parsed,
                range(splits),
                problem,
                out,
                on_start=start,
                on_epoch=lambda epoch: progress.update(task, detail=_epoch_detail(epoch)),
                on_finish=finish,
            )
    except KeyboardInterrupt:
        console.print(f"interrupted; the finished runs are in {out}: repeat the command to go on")
        raise typer.Exit(130) from None
    console.print(_rich_table(report.summarise(runs), title))
    for path in report.write(runs, out):
        console.print(f"wrote {path}")


def _kinds(given: object, kind: str | None) -> list[str]:
    return kinds_of(given) if kind is None else [kind]


def _outcome(case: Case) -> tuple[str, str]:
    """Run a check; return what came of it, and the reason of a skip or the whole failure."""
    try:
        case()
    except NotApplicable as reason:
        return "skipped", str(reason)
    except CheckFailed as failure:
        return "FAILED", str(failure)
    return "passed", ""


def _rich_table(rows: list[report.Row], title: str) -> Table:
    table = Table(*report.HEADER, title=title)
    for row in rows:
        table.add_row(*row.cells())
    return table


def _epoch_detail(epoch: Epoch) -> str:
    return f"epoch {epoch.number}, validation {100 * epoch.validation_accuracy:.1f} %"


def _progress(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}"),
    )
    return Progress(*columns, console=console, transient=True)
