"""The file of finished runs.

``runs.csv`` holds a line for each finished run; reports are made from it, and a study is rebuilt
from it. A line is the row of a `Run`: the columns are the fields of `Setup` (with those of its
`Protocol` and `Defects`), ``regulariser``, ``weight``, ``seed``, the fields of `Outcome` (with its
`Neurons` after ``before_`` and ``after_``), and ``fixed_test``, in this order. Numbers are read
back exactly as they were written; blanks separate the integers of a list, and the cell of an
unknown measure is empty. Scores are fractions. Files of earlier versions lack some columns.
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterable
from io import StringIO
from pathlib import Path

from topoloss.compare.records import Arm, Run, Setup, columns, from_row, to_row
from topoloss.errors import InputError
from topoloss.files import write_whole

__all__ = ["joined", "read", "write"]


def write(runs: Iterable[Run], path: Path) -> None:
    """Write runs to a CSV file; an error leaves an earlier file unchanged."""

    def fill(partial: Path) -> None:
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns(Run))
            writer.writeheader()
            writer.writerows(map(to_row, runs))

    write_whole(path, fill)


def joined(*several: Iterable[Run]) -> list[Run]:
    """Join lists of runs; of runs with the same setup, arm and seed, the first is kept."""
    found: dict[tuple[Setup, Arm, int], Run] = {}
    for runs in several:
        for run in runs:
            found.setdefault((run.setup, run.arm, run.seed), run)
    return list(found.values())


def read(path: Path, *, mend: bool = False) -> list[Run]:
    """Read runs from a CSV file.

    Parameters
    ----------
    path : Path
    mend : bool
        Leave out a last line that was cut short, with a warning, instead of raising; an empty
        file then holds no runs. This is for files whose runs are also stored elsewhere.

    Raises
    ------
    InputError
        If there is no such file, or its columns or values are not those of runs.
    """
    try:
        text = path.read_bytes()
        if mend and not text.endswith(b"\n"):
            text = text[: text.rfind(b"\n") + 1]
            warnings.warn(
                f"{path} was cut short. It will be written again with the runs of this comparison, "
                "which its study has. If the folder has other comparisons, repeat their commands "
                "to restore their runs.",
                stacklevel=2,
            )
            if not text:
                return []
        header, *lines = list(csv.reader(StringIO(text.decode(), newline=""))) or [[]]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"runs cannot be read from {path}: {_reason(error)}.") from error
    expected = columns(Run)
    if not header:
        raise InputError(f"{path} is empty. Restore it, {_REMEDY}")
    needed = columns(Run, later=False)
    if header != [name for name in expected if name in header or name in needed]:
        differing = sorted(set(header) - set(expected) | set(needed) - set(header)) or "their order"
        raise InputError(
            f"{path} is not a file of runs: its columns differ in {differing}; expected a runs.csv "
            "written by this version."
        )
    found = []
    for number, line in enumerate(lines, start=2):
        try:
            if len(line) != len(header):
                raise ValueError(f"it has {len(line)} values, expected {len(header)}")
            found.append(from_row(Run, dict(zip(header, line, strict=True))))
        except ValueError as error:
            raise InputError(
                f"{path}, line {number} holds no run: {error}. Restore the file, {_REMEDY}"
            ) from error
    return found


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


_REMEDY = (
    "or delete it, and repeat the command `topoloss compare`, which writes it again from the runs "
    "in its study.db or --storage."
)
