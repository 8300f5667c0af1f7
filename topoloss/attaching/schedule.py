"""When a penalty is applied, and with which factor: `warmup`, `every` and `overhead`."""

from __future__ import annotations

import logging
from math import ceil
from statistics import median
from time import perf_counter
from typing import Any

import torch

from topoloss.errors import OptionError, check_number, shown

__all__ = ["Schedule"]

_log = logging.getLogger("topoloss")

# How many steps are timed, in turns of this many with the penalty and this many without.
_MEASURED, _TURN = 20, 4
_STATE = ("step", "warmup", "every", "overhead")


class Schedule:
    """Counts training steps, and says what the penalty does in each.

    Parameters
    ----------
    warmup : int
        Steps over which the factor rises from 0 to 1.
    every : int
        The penalty is applied at the steps 0, `every`, 2 `every`, ...
    overhead : float or None
        Choose `every` so that the penalty adds about this share to a step's time.

    Attributes
    ----------
    step : int
        Steps so far, which is the index of the next one.
    every : int or None
        None while `overhead` is measured.
    """

    def __init__(self, warmup: int, every: int, overhead: float | None) -> None:
        check_number("warmup", warmup, whole=True, least=0)
        check_number("every", every, whole=True, least=1)
        if overhead is not None:
            check_number("overhead", overhead, above=0, instead="None to measure nothing")
            if every != 1:
                raise OptionError(
                    f"every={every} and overhead={shown(overhead)} were given; overhead chooses "
                    "every, so leave one of them out."
                )
        self.warmup = warmup
        self.overhead = overhead
        self.every: int | None = None if overhead is not None else every
        self.step = 0
        self._measurement = _Measurement()

    @property
    def plain(self) -> bool:
        """Whether every step is applied with factor 1, as without a schedule."""
        return self.warmup == 0 and self.every == 1

    @property
    def applies(self) -> bool:
        """Whether the penalty is applied at the next step."""
        if self.every is None:
            return self._measurement.applies
        return self.step % self.every == 0

    @property
    def factor(self) -> float:
        """What the value is multiplied by at the next step."""
        return 1.0 if self.step >= self.warmup else self.step / self.warmup

    def count(self) -> None:
        """Count a step whose penalty was just asked for."""
        self.step += 1
        if self.every is None:
            self._measurement.note()
            if self._measurement.complete:
                self._choose()

    def _choose(self) -> None:
        assert self.overhead is not None
        self.every = _agreed(self._measurement.every(self.overhead))
        _log.info("overhead=%g: every=%d was chosen", self.overhead, self.every)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold: the count, and the options."""
        return {name: getattr(self, name) for name in _STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what ``state_dict()`` returned; measured times are forgotten."""
        for name in _STATE:
            setattr(self, name, state[name])
        self._measurement = _Measurement()


class _Measurement:
    """Times of steps with the penalty and without."""

    def __init__(self) -> None:
        self._times: list[float] = []

    @property
    def applies(self) -> bool:
        """Whether the next step has the penalty.

        As turns have 4 steps, gradient accumulation over 2 or 4 steps affects both kinds alike.
        """
        return len(self._times) // _TURN % 2 == 0

    @property
    def complete(self) -> bool:
        return len(self._times) == _MEASURED

    def note(self) -> None:
        if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()  # the time of the work, not of its launch
        self._times.append(perf_counter())

    def every(self, overhead: float) -> int:
        """The least k at which the penalty costs at most the share `overhead` of a step."""
        spans: tuple[list[float], list[float]] = [], []
        for k in range(_MEASURED - 1):
            # In between lie the backward pass of one step and the recording of the next: both
            # steps must be of one kind.
            if k // _TURN == (k + 1) // _TURN:
                spans[k // _TURN % 2].append(self._times[k + 1] - self._times[k])
        # Medians, as the first step compiles, and others may save or evaluate.
        with_penalty, without = map(median, spans)
        return max(1, ceil((with_penalty - without) / (overhead * without)))


def _agreed(every: int) -> int:
    """Return what rank 0 chose, in all processes."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return every
    chosen = [every]
    distributed.broadcast_object_list(chosen, src=0)
    return chosen[0]
