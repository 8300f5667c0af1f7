"""One forward and backward of T1, beside the Gram product and the paper's way.

    python -m benchmarks.t1_step

Contestants take turns, so that a slow spell of the machine meets all of them. Nothing is
timed before the values and the gradients agree.
"""

from __future__ import annotations

import csv
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import environment
from benchmarks.contestants import gram_product, paper_t1, topoloss_t1

SAMPLES = 256
# neurons -> rounds; medians over the rounds
CASES = {1010: 41, 4096: 11, 10_000: 5}
RESULTS = Path(__file__).parent / "results" / "t1_step.csv"


def main() -> None:
    torch.set_num_threads(2)
    torch.manual_seed(0)
    rows = []
    for n, rounds in CASES.items():
        rows += _case(n, rounds)
        for row in rows[-3:]:
            print("  ".join(f"{key} {value}" for key, value in row.items() if key in _SHOWN))
    hardware = environment.describe()
    with RESULTS.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0], *hardware])
        writer.writeheader()
        writer.writerows(row | hardware for row in rows)


_SHOWN = ("contestant", "neurons", "median_ms", "over_gram", "topoloss_faster")


def _case(n: int, rounds: int) -> list[dict[str, object]]:
    x = torch.randn(SAMPLES, n, requires_grad=True)
    contestants = {f.__name__: f(x) for f in (gram_product, topoloss_t1, paper_t1)}
    _check_agreement(x, contestants["topoloss_t1"], contestants["paper_t1"])
    contestants["gram_product"]()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return [
        {
            "contestant": name,
            "neurons": n,
            "samples": SAMPLES,
            "rounds": rounds,
            "median_ms": round(1e3 * medians[name], 2),
            "lowest_ms": round(1e3 * min(times), 2),
            "highest_ms": round(1e3 * max(times), 2),
            "over_gram": round(medians[name] / medians["gram_product"], 2),
            "topoloss_faster": round(medians[name] / medians["topoloss_t1"], 2),
        }
        for name, times in seconds.items()
    ]


def _check_agreement(x: Tensor, ours: Callable[[], Tensor], theirs: Callable[[], Tensor]) -> None:
    value, gradient = ours(), x.grad
    torch.testing.assert_close(theirs(), value, rtol=1e-5, atol=0)
    torch.testing.assert_close(x.grad, gradient, rtol=1e-3, atol=1e-5)


if __name__ == "__main__":
    main()
