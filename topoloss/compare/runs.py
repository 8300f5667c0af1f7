"""Runs, and their file: what was trained on what, and what it came to.

``runs.csv`` is the format of record: a line for each finished run, from which a report is made
and a study is rebuilt. Its columns are, in this order, the fields of `Problem` (those of its
`Protocol` among them), ``regulariser``, ``weight``, ``seed``, and the fields of `Outcome` (of
each `Neurons` with ``before_`` or ``after_`` in front), and ``fixed_test``. Numbers are written
so that they are read back exactly; lists of integers are separated by blanks. Scores are
fractions.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

from topoloss.compare.files import write_whole
from topoloss.compare.training import Neurons, Outcome, Protocol
from topoloss.errors import InputError

__all__ = ["Arm", "Problem", "Run", "joined", "read", "write"]


@dataclass(frozen=True, order=True)
class Arm:
    """A regulariser by name, and its weight in the loss."""

    regulariser: str
    weight: float

    def __str__(self) -> str:
        return f"{self.regulariser}={self.weight:g}" if self.weight else self.regulariser


@dataclass(frozen=True)
class Problem:
    """What the regularisers are compared on."""

    model: str = "net0"
    data: str = "digits"
    protocol: Protocol = field(default_factory=Protocol)


@dataclass(frozen=True)
class Run:
    """One trained network.

    Attributes
    ----------
    problem : Problem
    arm : Arm
    seed : int
        Of the split.
    outcome : Outcome
    fixed_test : bool
        All splits have the same test part.
    """

    problem: Problem
    arm: Arm
    seed: int
    outcome: Outcome
    fixed_test: bool = False


def write(runs: Iterable[Run], path: Path) -> None:
    """Write runs to a CSV file, which is whole or as it was."""

    def fill(partial: Path) -> None:
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(column for column, _ in _columns(Run))
            for run in runs:
                writer.writerow(_cell(value) for value in _values(run))

    write_whole(path, fill)


def joined(*several: Iterable[Run]) -> list[Run]:
    """Runs of several lists, each once; of two of the same point the first."""
    found: dict[tuple[Problem, Arm, int], Run] = {}
    for runs in several:
        for run in runs:
            found.setdefault((run.problem, run.arm, run.seed), run)
    return list(found.values())


def read(path: Path) -> list[Run]:
    """Read runs from a CSV file.

    Raises
    ------
    InputError
        If there is no such file, or it holds other columns or values.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *lines = csv.reader(file)
    except (OSError, ValueError) as error:
        raise InputError(f"runs cannot be read from {path}: {error}.") from error
    expected = [column for column, _ in _columns(Run)]
    if header != expected:
        differing = sorted(set(header) ^ set(expected)) or "their order"
        raise InputError(
            f"{path} is no file of runs: its columns differ in {differing}; expected a runs.csv "
            "written by this version."
        )
    return [_run(line, f"{path}, line {number}") for number, line in enumerate(lines, start=2)]


_NESTED = (Problem, Protocol, Arm, Outcome, Neurons)


def _columns(of: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Names and types of the columns, with nested dataclasses laid out in place."""
    hints = get_type_hints(of)
    for each in fields(of):
        if hints[each.name] in _NESTED:
            inner = f"{each.name}_" if hints[each.name] is Neurons else prefix
            yield from _columns(hints[each.name], inner)
        else:
            yield prefix + each.name, hints[each.name]


def _values(of: Any) -> Iterator[Any]:
    for each in fields(of):
        value = getattr(of, each.name)
        if isinstance(value, _NESTED):
            yield from _values(value)
        else:
            yield value


def _cell(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, tuple) else value


def _run(line: list[str], where: str) -> Run:
    types = [kind for _, kind in _columns(Run)]
    try:
        values = iter([_parse(text, kind) for text, kind in zip(line, types, strict=True)])
    except (ValueError, KeyError) as error:
        raise InputError(f"{where} holds no run: {error}.") from error
    run: Run = _build(Run, values)
    return run


def _build(of: type, values: Iterator[Any]) -> Any:
    hints = get_type_hints(of)
    return of(
        *(
            _build(hints[each.name], values) if hints[each.name] in _NESTED else next(values)
            for each in fields(of)
        )
    )


def _parse(text: str, kind: Any) -> Any:
    if kind is bool:
        return {"True": True, "False": False}[text]
    if kind in (int, float):
        return kind(text)
    if kind == tuple[int, ...]:
        return tuple(map(int, text.split()))
    return text
