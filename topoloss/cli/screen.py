"""Show lines, tables and progress that fit the terminal."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import isfinite
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column, Table
from rich.text import Text

__all__ = ["Screen", "Steps", "time_left"]

_GAP = 2  # blanks between two columns


class Screen:
    """Standard output.

    Parameters
    ----------
    quiet : bool
        Show only results: no progress, no file names.
    as_json : bool
        Print only JSON on standard output.
    """

    def __init__(self, quiet: bool = False, as_json: bool = False) -> None:
        self.quiet = quiet or as_json
        self._as_json = as_json
        # NO_COLOR turns colours off (no-color.org); Rich itself would keep bold letters.
        colours = None if os.environ.get("NO_COLOR") else "auto"
        self._console = Console(markup=False, highlight=False, emoji=False, color_system=colours)  # type: ignore[arg-type]

    def say(self, text: str, style: str = "") -> None:
        """Print a line unless quiet, above any progress bar.

        The terminal wraps the line, so it can be copied whole.
        """
        if not self.quiet:
            self.result(text, style)

    def result(self, text: str, style: str = "") -> None:
        """Print a line even if quiet, unless standard output is for JSON."""
        if not self._as_json:
            self._console.print(self._plain(text), style=style, soft_wrap=True)

    def json(self, found: Any) -> None:
        """Print a result if JSON was asked for. NaN and infinity become null."""
        if self._as_json:
            print(json.dumps(_finite(found), indent=2))

    def table(
        self,
        header: Sequence[str],
        rows: Sequence[Sequence[str]],
        title: str = "",
        notes: Sequence[str] = (),
    ) -> None:
        """Print a table, and notes below it; no text is ever cut short.

        Cells wrap between words. If the table is still too wide, each row becomes a list.
        """
        if self._as_json:
            return
        if title:
            self._console.print(Text(self._plain(title), style="bold"))
        cells = [[self._plain(cell) for cell in row] for row in rows]
        if _least_width([list(header), *cells]) <= self._console.width:
            self._console.print(_grid(header, cells))
        else:
            self._lists(header, cells)
        for note in notes:
            self._console.print(Text(self._plain(note)))

    def _lists(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        for row in rows:
            self._console.print()
            self._console.print(Text(row[0], style="bold", overflow="fold"))
            for name, cell in zip(header[1:], row[1:], strict=True):
                line = f"  {name}: {cell}" if name else f"  {cell}"
                self._console.print(Text(line, overflow="fold"))
        self._console.print()

    @contextmanager
    def progress(self, total: int, what: str) -> Iterator[Steps]:
        """Show how far a command has come, the time left, and what it is doing."""
        columns = (
            BarColumn(bar_width=max(5, min(24, self._console.width // 5))),
            MofNCompleteColumn(),
            _TimeLeft(),
            TextColumn(
                "{task.description}",
                markup=False,
                table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
            ),
        )
        hidden = self.quiet or not self._console.is_terminal
        with Progress(
            *columns,
            console=self._console,
            transient=True,
            expand=True,
            disable=hidden,
            refresh_per_second=4,
        ) as shown:
            yield Steps(shown, total, what)

    def _plain(self, text: str) -> str:
        """Write ± as +/- if the terminal cannot encode the text."""
        try:
            text.encode(self._console.encoding)
        except (UnicodeEncodeError, LookupError):
            return text.replace("±", "+/-")
        return text


class Steps:
    """The progress of a command, reported step by step."""

    def __init__(self, shown: Progress, total: int, what: str) -> None:
        self._shown = shown
        self._task = shown.add_task(what, total=total, found=0, last=None)

    def found(self, number: int) -> None:
        """Count steps that were done earlier; they don't enter the estimate of the time left."""
        self._shown.update(self._task, completed=number, found=number)

    def advance(self) -> None:
        now = self._shown.tasks[0].elapsed
        self._shown.update(self._task, advance=1, last=now)

    def now(self, what: str) -> None:
        """Show what is being done."""
        self._shown.update(self._task, description=what)


class _TimeLeft(ProgressColumn):
    """The time left. Rich's own estimate looks back 30 seconds, too few for long steps."""

    def render(self, task: Task) -> Text:
        last, now = task.fields["last"], task.elapsed or 0.0
        done = int(task.completed) - task.fields["found"]
        left = int(task.total or 0) - int(task.completed)
        return Text(time_left(done, left, now if last is None else last, now), no_wrap=True)


def time_left(done: int, left: int, last: float, now: float) -> str:
    """Estimate the time left: remaining steps take as long as those so far, on average.

    Parameters
    ----------
    done, left : int
        Numbers of steps.
    last, now : float
        When the last step ended, and the time now: seconds since the first step began.

    Examples
    --------
    >>> from topoloss.cli.screen import time_left
    >>> time_left(done=2, left=3, last=120.0, now=150.0)  # 3 minutes, half of one is over
    '0:02:30 left'
    >>> time_left(done=0, left=5, last=0.0, now=90.0)
    '0:01:30 so far'
    """
    if not done:
        return f"{_clock(now)} so far"
    return f"{_clock(max(0.0, last / done * left - (now - last)))} left"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, _GAP, 0, 0), show_edge=False)
    for name, *column in zip(header, *rows, strict=True):
        least = max(map(len, " ".join([name, *column]).split()), default=0)
        table.add_column(name, min_width=least, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _least_width(rows: Sequence[Sequence[str]]) -> int:
    """The least width of a table in which no word is broken."""
    words = [
        max((len(word) for cell in column for word in cell.split()), default=0)
        for column in zip(*rows, strict=True)
    ]
    return sum(words) + _GAP * len(words)


def _finite(found: Any) -> Any:
    if isinstance(found, dict):
        return {key: _finite(value) for key, value in found.items()}
    if isinstance(found, (list, tuple)):
        return [_finite(value) for value in found]
    return None if isinstance(found, float) and not isfinite(found) else found
