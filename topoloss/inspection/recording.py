"""Record a run: a file with a line for each epoch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import torch

from topoloss.attaching import Observation
from topoloss.errors import InputError, OptionError, TopolossError, check_number, shown
from topoloss.files import make_folder
from topoloss.inspection.snapshots import snapshot
from topoloss.regularisers import side_by_side

__all__ = ["FILE", "FORMAT", "Recorder"]

FILE = "run.jsonl"
FORMAT = "topoloss run 1"


class Recorder:
    """Record what training does to the neurons, for ``topoloss inspect FOLDER``.

    Each epoch is written at once, so if training is interrupted the earlier epochs are kept.
    Recording draws no random numbers and changes nothing in the model.

    Parameters
    ----------
    folder : str or Path
        Where the file ``run.jsonl`` is written; it replaces an existing one.
    title : str
        The heading of the page.
    most : int
        How many neurons are watched; if there are more, evenly spaced ones.
    drawn : int
        How many of these the picture of correlations shows; only their correlations are kept.
    level : float
        Neurons joined by deaths of at most this belong to one group, as for
        :func:`topoloss.redundancy`.

    Examples
    --------
    >>> import tempfile, torch, topoloss
    >>> from topoloss.inspection import Recorder
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> with tempfile.TemporaryDirectory() as folder, topoloss.observe(model) as seen:
    ...     with Recorder(folder, "untrained") as run:
    ...         _ = model(torch.randn(16, 4))
    ...         run.add(0, seen, {"loss": 1.1})
    ...     len((run.path).read_text().splitlines())  # what is watched, one epoch, the end
    3
    """

    def __init__(
        self,
        folder: str | Path,
        title: str = "",
        *,
        most: int = 1024,
        drawn: int = 150,
        level: float = 0.05,
    ) -> None:
        check_number("most", most, whole=True, least=2)
        check_number("drawn", drawn, whole=True, least=2, most=most)
        check_number("level", level, least=0, most=1)
        make_folder(Path(folder))
        self.path = Path(folder) / FILE
        self._title, self._most, self._drawn, self._level = title, most, drawn, level
        self._file: TextIO | None = None
        self._neurons: dict[str, list[int]] = {}
        self._watched: list[int] = []
        self._kept: int | None = None
        self._epochs: list[int] = []
        self._ended = False

    def add(
        self,
        epoch: int,
        seen: Observation,
        notes: Mapping[str, float] | None = None,
        *,
        kept: bool = False,
    ) -> None:
        """Record the latest forward pass of an observed model.

        Parameters
        ----------
        epoch : int
            The epoch, or step: greater than the last one.
        seen : Observation or Attachment
            Of the same neurons each time. Use the same samples each time, in evaluation mode.
        notes : dict of str to float, optional
            Other numbers to show, such as the validation loss.
        kept : bool
            Whether training keeps the weights of this epoch, unless a later call sets this, too.

        Raises
        ------
        OptionError, InputError
            For an epoch that is not greater than the last one, other neurons than before, or
            fewer than two.
        TopolossError
            If the file cannot be written, or the recording has ended.
        """
        if self._ended:
            raise TopolossError("the recording has ended; call add within the `with` block.")
        check_number("epoch", epoch, whole=True)
        if self._epochs and epoch <= self._epochs[-1]:
            raise OptionError(
                f"epoch={epoch} was given after {self._epochs[-1]}; expected a greater number."
            )
        if not isinstance(seen, Observation):
            raise InputError(
                f"seen is {shown(seen)}; expected what topoloss.observe or attach returned."
            )
        with torch.no_grad():  # also where the pass was made without gradients
            self._choose({name: units.tolist() for name, units in seen.neurons.items()})
            x = side_by_side(seen.activations()).cpu()
        drawn = spaced(len(self._watched), self._drawn)
        made = snapshot(epoch, x[:, self._watched], drawn, self._level, notes or {})
        if self._file is None:
            self._write(self._header(drawn))
        self._write(asdict(made))
        self._epochs.append(epoch)
        if kept:
            self._kept = epoch

    def __enter__(self) -> Recorder:
        self.path.unlink(missing_ok=True)  # otherwise an earlier run could pass for this one
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended = True
        if self._file is None:
            return
        try:
            if kind is None:
                self._write({"epochs": len(self._epochs), "kept": self._kept})
        finally:
            self._file.close()

    def _choose(self, neurons: dict[str, list[int]]) -> None:
        """Choose the neurons to watch at the first epoch; refuse other neurons later."""
        neurons = {name: units for name, units in neurons.items() if units}
        total = sum(map(len, neurons.values()))
        if total < 2:
            raise InputError(f"neurons observed: {total}; expected at least two, to compare them.")
        if not self._neurons:
            self._neurons, self._watched = neurons, spaced(total, self._most)
        elif neurons != self._neurons:
            differing = [
                name
                for name in {**self._neurons, **neurons}
                if neurons.get(name) != self._neurons.get(name)
            ]
            raise InputError(
                f"other neurons of the layers {differing} are observed than at epoch "
                f"{self._epochs[0]}; expected the same each time: observe all of them "
                "(fraction=1), and give the recorder one model."
            )

    def _header(self, drawn: list[int]) -> dict[str, Any]:
        where = [(name, unit) for name, units in self._neurons.items() for unit in units]
        watched: dict[str, list[int]] = {name: [] for name in self._neurons}
        for k in self._watched:
            name, unit = where[k]
            watched[name].append(unit)
        layers = [
            {"name": name, "units": units, "of": len(self._neurons[name])}
            for name, units in watched.items()
        ]
        return {
            "format": FORMAT,
            "title": self._title,
            "level": self._level,
            "layers": layers,
            "drawn": drawn,
        }

    def _write(self, line: dict[str, Any]) -> None:
        text = json.dumps(line, allow_nan=False, separators=(",", ":"))
        try:
            if self._file is None:
                self._file = self.path.open("w", encoding="utf-8")
            print(text, file=self._file, flush=True)
        except OSError as error:
            raise TopolossError(
                f"{self.path} cannot be written: {error.strerror or error}. Make room on the "
                "disk, or choose a folder that can be written to."
            ) from error


def spaced(n: int, most: int) -> list[int]:
    """At most `most` of the numbers below `n`, evenly spaced, with the first and the last.

    Examples
    --------
    >>> from topoloss.inspection.recording import spaced
    >>> spaced(3, 5), spaced(10, 4)
    ([0, 1, 2], [0, 3, 6, 9])
    """
    if n <= most:
        return list(range(n))
    return [k * (n - 1) // (most - 1) for k in range(most)]
