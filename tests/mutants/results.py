"""What became of the planted bugs, as the committed files say."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

__all__ = ["AT_LEAST", "COLUMNS", "NO_PROGRAM", "REASONS", "RESULTS", "Found", "found", "rows"]

RESULTS = Path(__file__).parent / "results.csv"
REASONS = Path(__file__).parent / "reasons.csv"
COLUMNS = ("package", "key", "noticed_by", "file", "line", "operator", "code", "change")
# Stands for the test where what was planted cannot be read as Python.
NO_PROGRAM = "no program"
AT_LEAST = 0.9


class Found(NamedTuple):
    """What became of the bugs planted in a package.

    Attributes
    ----------
    noticed : int
    equivalent : int
        Changes that are no bugs, and count neither way.
    survivors : list of dict
        Rows of the results, each with a reason.
    """

    noticed: int
    equivalent: int
    survivors: list[dict[str, str]]

    @property
    def bugs(self) -> int:
        return self.noticed + len(self.survivors)

    @property
    def are_enough(self) -> bool:
        return self.noticed >= AT_LEAST * self.bugs

    def __str__(self) -> str:
        return f"{self.noticed} of {self.bugs} noticed, {self.equivalent} equivalent"


def found() -> dict[str, Found]:
    """Count by package. Of one that was tried again the last result counts."""
    reasons = {row["key"]: row for row in rows(REASONS)}
    by_package: dict[str, list[dict[str, str]]] = {}
    for row in {row["key"]: row for row in rows(RESULTS)}.values():
        if row["noticed_by"] != NO_PROGRAM:
            by_package.setdefault(row["package"], []).append(row)
    counted = {}
    for package, tried in sorted(by_package.items()):
        survivors = [
            row | reasons.get(row["key"], {"verdict": "survivor", "reason": "no reason yet"})
            for row in tried
            if not row["noticed_by"]
        ]
        bugs = [row for row in survivors if row["verdict"] != "equivalent"]
        counted[package] = Found(len(tried) - len(survivors), len(survivors) - len(bugs), bugs)
    return counted


def rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
