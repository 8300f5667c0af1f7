"""The options that several commands share."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from topoloss.cli.words import check_name, check_word, completing
from topoloss.compare.names import DATA, LAYERS, MODELS, MONITORS, PROTOCOLS
from topoloss.compare.records import Setup

__all__ = [
    "MOST_SEED",
    "AsJson",
    "DataName",
    "Device",
    "Layers",
    "MaxEpochs",
    "Model",
    "Monitor",
    "Patience",
    "ProtocolName",
    "Quiet",
    "check_setup",
    "made_setup",
]

MOST_SEED = 2**32 - 1  # the largest that numpy accepts; torch accepts larger ones

Model = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        autocompletion=completing(MODELS),
        help="A network of the paper (net0, net1, net2, vgg256, ...), conv, or your own as "
        "package.module:function.",
    ),
]
DataName = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="NAME",
        autocompletion=completing(DATA),
        help="digits, breast-cancer, wine, diabetes, teacher, spirals, friedman1 to friedman3, "
        "mnist, cifar10, or your own as package.module:function. 'digits[train=100]' sets the "
        "size of the training part.",
    ),
]
ProtocolName = Annotated[
    str,
    typer.Option(
        "--protocol",
        metavar="NAME",
        autocompletion=completing(PROTOCOLS),
        help="default: the defaults of attach. training-forward: regularise the layers that the "
        "paper does. fixed: also compute the penalty on a pass in evaluation mode, as the paper's "
        "authors do. switch-off: also imitate one defect of their code, a regulariser that is off "
        "in degenerate batches. faithful: imitate their code with all its defects. today: Adam, "
        "He's initialisation and a warm-up of the weight.",
    ),
]
Layers = Annotated[
    str | None,
    typer.Option(
        metavar="WHICH",
        autocompletion=completing(LAYERS),
        help="Which layers are regularised. auto: the default of attach. trainable: every module "
        "with trainable parameters, as in the paper.  [default: as the protocol says]",
    ),
]
Monitor = Annotated[
    str | None,
    typer.Option(
        metavar="WHICH",
        autocompletion=completing(MONITORS),
        help="What stops training early: the validation loss or score.  [default: as the "
        "protocol says]",
    ),
]
Device = Annotated[str, typer.Option(metavar="NAME", help="Where to train: cpu, cuda, cuda:1, ...")]
Patience = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="EPOCHS",
        help="How many epochs in a row may bring no better validation result.  [default: as the "
        "protocol says]",
    ),
]
MaxEpochs = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="EPOCHS",
        help="Stop after this many epochs at the latest.  [default: as the protocol says]",
    ),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Show only results: no progress, no file names.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")]


def check_setup(
    model: str, data_name: str, protocol_name: str, layers: str | None, monitor: str | None
) -> None:
    """Raise unless the names that describe a setup are known."""
    check_name("network", model, MODELS, "--model")
    check_name("data set", data_name, DATA, "--data")
    check_word("--protocol", protocol_name, PROTOCOLS)
    if layers is not None:
        check_word("--layers", layers, LAYERS)
    if monitor is not None:
        check_word("--monitor", monitor, MONITORS)


def made_setup(
    model: str,
    data_name: str,
    protocol_name: str,
    layers: str | None,
    monitor: str | None,
    patience: int | None,
    max_epochs: int | None,
) -> Setup:
    """Make the setup that the options describe."""
    from topoloss.compare import protocols

    given: dict[str, Any] = {
        "layers": layers,
        "monitor": monitor,
        "patience": patience,
        "max_epochs": max_epochs,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    return protocols.setup(model, data_name, protocol_name, **changes)
