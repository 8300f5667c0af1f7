"""Read a recorded run, and say what is wrong with one that is empty or damaged."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Any

from topoloss.errors import InputError
from topoloss.inspection.recording import FILE, FORMAT
from topoloss.inspection.snapshots import Snapshot

__all__ = ["Layer", "Run", "file_of", "read"]

_RECORD = "record one with `topoloss train --out FOLDER` or topoloss.inspection.Recorder"


@dataclass(frozen=True)
class Layer:
    """The neurons of a layer that are watched.

    Attributes
    ----------
    name : str
    units : list of int
        Their indices in the layer.
    of : int
        How many neurons of the layer were observed.
    """

    name: str
    units: list[int]
    of: int


@dataclass(frozen=True)
class Run:
    """A recorded run.

    Attributes
    ----------
    title : str
    level : float
        Neurons joined by deaths of at most this belong to one group.
    layers : list of Layer
    drawn : list of int
        The neurons whose correlations are kept.
    snapshots : list of Snapshot
        At least one.
    finished : bool
        Whether the recording was completed.
    kept : int or None
        The epoch whose weights training kept, if that is known.
    """

    title: str
    level: float
    layers: list[Layer]
    drawn: list[int]
    snapshots: list[Snapshot]
    finished: bool
    kept: int | None


def file_of(path: Path) -> Path:
    """The file of a run that is given by its folder, or by the file itself."""
    return path / FILE if path.is_dir() else path


def read(path: Path) -> Run:
    """Read a run from a folder, or from the file in it.

    Raises
    ------
    InputError
        If nothing was recorded there, or the file is empty, cut off or damaged.
    """
    file = file_of(path)
    header, *lines = _lines(file)
    title, level, layers, drawn = _header(file, header)
    neurons = sum(len(layer.units) for layer in layers)
    end = lines.pop()[1] if lines and "kept" in lines[-1][1] else None
    snapshots = [_snapshot(file, number, found, neurons, len(drawn)) for number, found in lines]
    if not snapshots:
        raise InputError(f"{file} holds no epoch: training ended before the first one; {_RECORD}.")
    for before, after in pairwise(snapshots):
        if after.epoch <= before.epoch:
            raise InputError(
                f"{file} is damaged: epoch {after.epoch} comes after epoch {before.epoch}; "
                f"{_RECORD}."
            )
    if end is not None and end.get("epochs") != len(snapshots):
        raise InputError(
            f"{file} lacks lines: it has {len(snapshots)} epochs, and its end says "
            f"{end.get('epochs')}. Restore the file, or {_RECORD}."
        )
    kept = None if end is None else end["kept"]
    return Run(title, level, layers, drawn, snapshots, end is not None, kept)


def _lines(file: Path) -> list[tuple[int, dict[str, Any]]]:
    """Each line of the file with its number."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(_nothing(file)) from error
    except (OSError, ValueError) as error:
        raise InputError(f"no run can be read from {file}: {error}.") from error
    if not text.strip():
        raise InputError(f"{file} is empty; {_RECORD}.")
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            read = json.loads(line)
            if not isinstance(read, dict):
                raise ValueError("it is not a JSON object")
        except ValueError as error:
            raise _damaged(file, number, error) from error
        found.append((number, read))
    return found


def _nothing(file: Path) -> str:
    if (file.parent / "runs.csv").exists():
        return (
            f"{file.parent} holds the runs of a comparison, which `topoloss report` shows, and no "
            f"{file.name}. To inspect one training, {_RECORD}."
        )
    return f"there is no {file}; {_RECORD}."


def _header(
    file: Path, line: tuple[int, dict[str, Any]]
) -> tuple[str, float, list[Layer], list[int]]:
    number, found = line
    if found.get("format") != FORMAT:
        raise InputError(
            f"{file} cannot be read by this version of topoloss: its format is "
            f"{found.get('format')!r}, expected {FORMAT!r}; {_RECORD}."
        )
    try:
        layers = [Layer(**layer) for layer in found["layers"]]
        neurons = sum(len(layer.units) for layer in layers)
        drawn = found["drawn"]
        _check(neurons > 1, "fewer than two neurons are watched")
        _check_numbers([found["level"], *(n for layer in layers for n in (*layer.units, layer.of))])
        _check_neurons(drawn, neurons)
        return str(found["title"]), float(found["level"]), layers, drawn
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(file, number, error) from error


def _snapshot(file: Path, number: int, found: dict[str, Any], neurons: int, drawn: int) -> Snapshot:
    try:
        made = Snapshot(**found)
        _check(isinstance(made.epoch, int), "its epoch is not an integer")
        _check(isinstance(made.notes, dict), "its notes are not an object")
        for name in ("deaths", "edges"):
            count = len(getattr(made, name))
            _check(
                count == neurons - 1,
                f"it has {count} {name}, and {neurons} neurons have {neurons - 1}",
            )
        pairs = len(base64.b64decode(made.correlations, validate=True))
        _check(
            pairs == drawn * (drawn - 1) // 2,
            f"it has {pairs} correlations, and {drawn} neurons have {drawn * (drawn - 1) // 2}",
        )
        _check_numbers([*made.deaths, *(r for _, rest in made.groups for _, r in rest)])
        _check_numbers([note for note in made.notes.values() if note is not None])
        _check(sorted(made.deaths) == made.deaths, "its deaths do not ascend")
        _check_neurons([end for i, j in made.edges for end in (i, j)], neurons)
        _check_neurons([k for first, rest in made.groups for k in (first, *dict(rest))], neurons)
        _check_neurons(made.constant, neurons)
        return made
    except (TypeError, ValueError) as error:
        raise _damaged(file, number, error) from error


def _check_numbers(given: Sequence[float]) -> None:
    wrong = [n for n in given if not isinstance(n, (int, float)) or not isfinite(n)]
    _check(not wrong, f"{wrong[:1]} is not a finite number")


def _check_neurons(given: Sequence[int], neurons: int) -> None:
    wrong = [k for k in given if not isinstance(k, int) or not 0 <= k < neurons]
    _check(not wrong, f"neuron {wrong[:1]} is not one of the {neurons} that are watched")


def _check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


def _damaged(file: Path, number: int, error: Exception) -> InputError:
    return InputError(
        f"{file}, line {number} is cut off or damaged: {error}. Delete it and the lines after it "
        f"to see the epochs before, or {_RECORD}."
    )
