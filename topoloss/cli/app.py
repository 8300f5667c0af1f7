"""The command ``topoloss`` with all its subcommands."""

from __future__ import annotations

from typing import Annotated

import typer

import topoloss
from topoloss.cli.check import check
from topoloss.cli.compare import compare, report
from topoloss.cli.inspect import inspect
from topoloss.cli.plugins import plugins
from topoloss.cli.train import train

__all__ = ["app"]

app = typer.Typer(
    help="Differentiable topology for PyTorch: train with topological regularisers, by name.",
    epilog="Exit status: 0 success; 1 the command ran and found a fault, such as a broken rule; "
    "2 the command failed; 130 interrupted.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,  # rich would take "[reduction=mean]" for markup and hide it
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"topoloss {topoloss.__version__}")
        raise typer.Exit


for command in (plugins, check, train, compare, report, inspect):
    app.command()(command)
