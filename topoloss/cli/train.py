"""The command ``topoloss train``."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from topoloss.cli.failures import INTERRUPTED
from topoloss.cli.options import (
    MOST_SEED,
    AsJson,
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
from topoloss.cli.screen import Screen
from topoloss.cli.words import check_components, completing, components
from topoloss.compare.names import LARGEST_WEIGHT
from topoloss.compare.records import Arm, Epoch
from topoloss.errors import OptionError
from topoloss.expressions import parse

if TYPE_CHECKING:
    from topoloss.compare.records import Neurons, Outcome

__all__ = ["brief", "train"]

_REGULARISER = "NAME|FILTRATION/PERSISTENCE/LOSS|MODULE:OBJECT"
# Chosen for the paper's network 0 on digits.
_USEFUL_WEIGHTS = {"none": 0.0, "t1": 1e-3, "t2": 1.0, "naive": 0.3}


def train(
    regulariser: Annotated[
        str,
        typer.Option(
            metavar=_REGULARISER,
            autocompletion=completing(components),
            help="`topoloss plugins` lists them. Quote brackets: 't1[reduction=mean]'.",
        ),
    ] = "t1",
    weight: Annotated[
        float | None,
        typer.Option(
            metavar="NUMBER",
            help="Weight of the regulariser in the loss.  [default: for t1 0.001, t2 1, naive 0.3]",
        ),
    ] = None,
    model: Model = "net0",
    data_name: DataName = "digits",
    seed: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            max=MOST_SEED,
            help="Fixes the split, the initialisation and the order of batches.",
        ),
    ] = 0,
    protocol_name: ProtocolName = "default",
    layers: Layers = None,
    monitor: Monitor = None,
    patience: Patience = None,
    max_epochs: MaxEpochs = None,
    device: Device = "cpu",
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the density of deaths as this PNG.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Record every epoch in this folder, for `topoloss inspect`."
        ),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train one network with one regulariser, and show its accuracy and deaths."""
    check_setup(model, data_name, protocol_name, layers, monitor)
    regulariser = str(parse(regulariser))
    check_components(regulariser)
    _check_weight(weight)
    from topoloss import components as made
    from topoloss.compare import report, setups
    from topoloss.compare.watching import recorded
    from topoloss.inspection import Recorder

    if plot is not None:
        report.check_plot_path(plot)
    made.regulariser(regulariser)
    arm = Arm(regulariser, _default_weight(regulariser) if weight is None else weight)
    screen = Screen(quiet, as_json)
    setup = made_setup(model, data_name, protocol_name, layers, monitor, patience, max_epochs)
    setups.check(setup, device)
    title = f"{model} on {data_name}, {arm}, seed {seed}"
    with screen.progress(setup.protocol.max_epochs, str(arm)) as steps:

        def advance(epoch: Epoch) -> None:
            steps.advance()
            steps.now(f"at most; {brief(epoch)}")

        try:
            with nullcontext() if out is None else Recorder(out, title) as recorder:
                watch = None if recorder is None else recorded(recorder, setup.protocol)
                trained = setups.run(setup, arm, seed, advance, device, watch)
        except KeyboardInterrupt:
            kept = "nothing was written" if out is None else f"{out} has the epochs so far"
            typer.echo(f"interrupted; {kept}", err=True)
            raise typer.Exit(INTERRUPTED) from None
    outcome = trained.outcome
    screen.table(("", "before training", "after training"), _rows(outcome), title)
    screen.result(
        f"test {outcome.metric} {100 * outcome.test_score:.2f} %, validation "
        f"{100 * outcome.validation_score:.2f} %, {outcome.epochs} epochs, "
        f"{outcome.seconds:.1f} s" + (", diverged" if outcome.diverged else "")
    )
    screen.json(
        {
            "model": model,
            "data": data_name,
            "regulariser": arm.regulariser,
            "weight": arm.weight,
            "seed": seed,
        }
        | asdict(outcome)
    )
    if plot is not None:
        screen.say(f"wrote {report.plot([trained], plot)}")
    if recorder is not None:
        screen.say(f"wrote {recorder.path}; to see it: topoloss inspect {out}")


def _check_weight(weight: float | None) -> None:
    if weight is not None and not 0 <= weight <= LARGEST_WEIGHT:
        raise OptionError(
            f"--weight {weight:g}: expected a number between 0 and {LARGEST_WEIGHT:g}."
        )


def _default_weight(regulariser: str) -> float:
    if regulariser not in _USEFUL_WEIGHTS:
        raise OptionError(f"{regulariser} has no default weight; give it with --weight.")
    return _USEFUL_WEIGHTS[regulariser]


def _rows(outcome: Outcome) -> list[tuple[str, str, str]]:
    both = (outcome.before, outcome.after)

    def row(label: str, values: list[str]) -> tuple[str, str, str]:
        before, after = values
        return label, before, after

    return [
        row("lowest death", [f"{each.lowest:.3f}" for each in both]),
        row("median death", [f"{each.median:.3f}" for each in both]),
        row("mean abs. correlation", [f"{each.correlation:.3f}" for each in both]),
        row("constant neurons", [_constant(each) for each in both]),
    ]


def _constant(neurons: Neurons) -> str:
    return f"{neurons.constant} of {1 + sum(neurons.deaths)}"


def brief(epoch: Epoch) -> str:
    """Describe an epoch in a few words."""
    return f"epoch {epoch.number}, validation {100 * epoch.validation_score:.1f} %"
