"""The command ``topoloss inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from topoloss.cli.options import Quiet
from topoloss.cli.screen import Screen
from topoloss.errors import OptionError

__all__ = ["inspect"]


def inspect(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="The folder that `topoloss train --out` recorded in."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="File for the page.  [default: inspect.html in the folder]"
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Show on one HTML page what training did to the neurons, epoch by epoch.

    The page works offline: open it in any browser, or send it to somebody.
    """
    from topoloss.inspection import pages, reading

    screen = Screen(quiet)
    found = reading.read(run)
    path = out or (run if run.is_dir() else run.parent) / "inspect.html"
    if path.is_dir() or path.resolve() == reading.file_of(run).resolve():
        raise OptionError(
            f"--out {path} is a folder or the record itself; name another file, such as "
            "inspect.html."
        )
    screen.say(f"wrote {pages.write(found, path)}")
    if not found.finished:
        screen.result(f"{run} is incomplete: training is still running, or was interrupted.")
