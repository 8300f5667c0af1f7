"""The time of T1 on inputs that are hard to search, over that on random activations, on the CPU.

    python -m benchmarks.hostile

Forward and backward are timed. Each input takes turns with ordinary activations of the same size
under the same filtration.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

import topoloss
from benchmarks import clock, environment, rows
from benchmarks.inputs import INPUTS, SAMPLES, Input

NEURONS = (1_010, 4_096, 10_000)
TURNS = 3
HOSTILE = rows.RESULTS / "hostile.csv"


def main() -> None:
    torch.set_num_threads(environment.THREADS)
    hardware = environment.describe("cpu")
    found = []
    for neurons in NEURONS:
        for name, each in INPUTS.items():
            if name != each.ordinary:
                row = over_ordinary(name, neurons, SAMPLES, TURNS) | hardware
                print(*list(row.values())[:5])
                found.append(rows.as_text(row))
    rows.write(HOSTILE, found)


def over_ordinary(name: str, neurons: int, samples: int, turns: int) -> dict[str, object]:
    """Milliseconds of an input and of ordinary activations, and their ratio."""
    hostile = INPUTS[name]
    calls = {
        "hostile": _step(hostile, samples, neurons),
        "ordinary": _step(INPUTS[hostile.ordinary], samples, neurons),
    }
    # Compile before timing.
    clock.take_turns(calls, turns=1, steps=1)
    medians = {
        which: clock.median(times)
        for which, times in clock.take_turns(calls, turns, steps=1).items()
    }
    return {
        "input": name,
        "neurons": neurons,
        "median_ms": round(medians["hostile"], 3),
        "ordinary_ms": round(medians["ordinary"], 3),
        "over_ordinary": round(medians["hostile"] / medians["ordinary"], 2),
        "samples": samples,
        "timed": turns,
    }


def _step(given: Input, samples: int, neurons: int) -> Callable[[], object]:
    x = given.activations(samples, neurons).requires_grad_()
    return partial(_t1, topoloss.pipeline(given.filtration(), "mst", "t1"), x)


def _t1(regulariser: topoloss.Regulariser, x: torch.Tensor) -> None:
    x.grad = None
    regulariser(x).backward()


if __name__ == "__main__":
    main()
