"""One forward and backward of T1 on a GPU, beside the products that bound it.

    python -m benchmarks.gpu_step --neurons 10000 [--inputs random copies] [--again]

Each row is written as soon as it is measured, and what has a row is not measured again, so an
interrupted command goes on where it ended. Nothing is timed before the GPU's tree is checked.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial

import torch

from benchmarks import clock, environment, rows
from benchmarks.contestants import Contestant, captured_t1, cpu_round_trip, topoloss_t1
from benchmarks.gpu_checks import check_tree, triton_tree
from benchmarks.inputs import INPUTS, RANDOM, SAMPLES, SIZES, Input
from benchmarks.products import float32_product, half_product

PATH = rows.RESULTS / "t1_step_gpu.csv"
FLOAT32, HALF, OURS, CAPTURED = "gram_product", "half_product", "topoloss", "topoloss_captured"
# Up to this many neurons the Triton backend multiplies in float32, beyond in half precision.
DENSE = 1 << 14
CONTESTANTS = (
    Contestant(FLOAT32, float32_product, "product", 276_490),
    Contestant(HALF, half_product, "product", 1_000_000),
    Contestant(OURS, partial(topoloss_t1, backend="triton"), "forward and backward", 1_000_000),
    Contestant(CAPTURED, captured_t1, "forward and backward", 1_000_000),
    Contestant(
        "topoloss_dense", partial(topoloss_t1, backend="torch"), "forward and backward", 10_000
    ),
    Contestant("topoloss_on_cpu", cpu_round_trip, "forward and backward", 10_000),
)
# Seconds for which a contestant is timed; it is timed at least three times.
SPELL = 3.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--neurons", type=int, required=True, help=f"such as {SIZES}")
    parser.add_argument("--inputs", nargs="*", choices=[*INPUTS, "all"], default=[RANDOM])
    parser.add_argument("--again", action="store_true", help="also measure again what has a row")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no CUDA device that torch can use; nothing was measured.")
    names = list(INPUTS) if "all" in arguments.inputs else arguments.inputs
    for name in names:
        ours = [c for c in CONTESTANTS if name == RANDOM or c.name == OURS]
        for row in measured(arguments.neurons, name, ours, again=arguments.again):
            print(*(row[key] for key in ("input", "neurons", "contestant", "median_ms", "note")))


def measured(
    neurons: int,
    name: str,
    contestants: Sequence[Contestant],
    *,
    again: bool = False,
    path: Path = PATH,
    device: str = "cuda",
) -> list[rows.Row]:
    """Rows of all contestants; each is written to the file before the next one is measured."""
    found = []
    x = None
    for contestant in contestants:
        table = rows.read(path)
        of_input = {row["contestant"]: row for row in table if _is_of(row, neurons, name)}
        row = of_input.get(contestant.name)
        if row is None or again:
            if x is None:
                x = _checked(neurons, name, device)
            others = [other for other in table if other is not row]
            row = _row(contestant, name, x, of_input, device)
            rows.write(path, sorted([*others, row], key=_place))
        found.append(row)
    return found


def _checked(neurons: int, name: str, device: str) -> Tensor:
    x = INPUTS[name].activations(SAMPLES, neurons).to(device)
    check_tree(x, INPUTS[name], triton_tree(x, INPUTS[name]))
    return x


def _row(
    contestant: Contestant, name: str, x: Tensor, done: Mapping[str, rows.Row], device: str
) -> rows.Row:
    neurons = x.shape[1]
    row = {"contestant": contestant.name, "computes": contestant.computes}
    row |= {"input": name, "neurons": neurons, "samples": len(x)}
    empty = ("median_ms", "lowest_ms", "highest_ms", "timed", "extra_mib", "fraction_of_floor")
    if neurons > contestant.largest:
        note = f"not run: it takes part up to {contestant.largest:,} neurons"
        row |= dict.fromkeys(empty, "") | {"note": note}
    else:
        row |= timed(contestant, x, INPUTS[name], device)
        limit = done.get(FLOAT32 if neurons <= DENSE else HALF)
        row |= {"fraction_of_floor": fraction_of_floor(row, limit), "note": ""}
    return rows.as_text(row | environment.describe(device))


def timed(contestant: Contestant, x: Tensor, given: Input, device: str) -> dict[str, object]:
    """Milliseconds, and the peak memory beyond the activations."""
    x = x.clone().requires_grad_()
    options = {} if contestant.computes == "product" else {"filtration": given.filtration()}
    step = None

    def first() -> None:
        nonlocal step
        step = contestant.prepare(x, **options)
        step()

    extra = clock.extra_bytes(first, device)
    step()
    once = clock.milliseconds(step, device)
    count = max(3, min(100, int(1e3 * SPELL / once)))
    times = [clock.milliseconds(step, device) for _ in range(count)]
    return clock.quantiles(times) | {"timed": count, "extra_mib": round(extra / 2**20, 1)}


def fraction_of_floor(row: Mapping[str, object], limit: rows.Row | None) -> object:
    """The floor over the time of a row.

    The floor is the time to multiply each pair once, at the rate of the product at this size. The
    product multiplies each pair twice.
    """
    if row["computes"] == "product" or limit is None or not limit["median_ms"]:
        return ""
    return round(float(limit["median_ms"]) / 2 / float(str(row["median_ms"])), 3)


def over_ordinary(table: Sequence[rows.Row]) -> dict[tuple[str, str], float]:
    """How many times as long an input takes as ordinary activations of the same size."""
    times = {
        (row["input"], row["neurons"]): float(row["median_ms"])
        for row in table
        if row["contestant"] == OURS and row["median_ms"]
    }
    ratios = {}
    for (name, neurons), time in times.items():
        ordinary = times.get((INPUTS[name].ordinary, neurons))
        if ordinary is not None and name != INPUTS[name].ordinary:
            ratios[name, neurons] = round(time / ordinary, 2)
    return ratios


def _is_of(row: rows.Row, neurons: int, name: str) -> bool:
    return row["neurons"] == str(neurons) and row["input"] == name


def _place(row: rows.Row) -> tuple[int, int, int]:
    names = [contestant.name for contestant in CONTESTANTS]
    return int(row["neurons"]), list(INPUTS).index(row["input"]), names.index(row["contestant"])


if __name__ == "__main__":
    main()
