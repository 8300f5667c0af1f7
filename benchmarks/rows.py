"""Rows of results as CSV files."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from topoloss.files import write_whole

RESULTS = Path(__file__).parent / "results"

Row: TypeAlias = dict[str, str]


def of_kind(kind: str, name: str) -> Path:
    """The file of results of one kind of processor, named as by `environment.kind`."""
    return RESULTS / kind / f"{name}.csv"


def read(path: Path) -> list[Row]:
    """Rows of a file; none if it does not exist."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write rows, all with the same columns; an error leaves the file as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, lambda partial: partial.write_text(text.getvalue(), encoding="utf-8"))


def as_text(row: dict[str, object]) -> Row:
    return {name: str(value) for name, value in row.items()}
