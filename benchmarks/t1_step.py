"""One forward and backward of T1, beside the Gram product and the peers.

    python -m benchmarks.t1_step [--neurons 1010 4096]

Contestants take turns, and nothing is timed before its deaths and gradients agree with the
reference. Rows of the sizes that ran replace earlier ones of these sizes on the same kind of
processor; the others stay.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

import torch

from benchmarks import clock, environment, memory, rows
from benchmarks.cases import CASES, Case
from benchmarks.contestants import CONTESTANTS, LIMIT, OURS, Contestant, Step
from benchmarks.reference import check, reference

T1_STEP = "t1_step"
SHOWN = ("neurons", "contestant", "median_ms", "over_gram", "extra_mib", "note")
MEASURED = ("median_ms", "lowest_ms", "highest_ms")
MEASURED += ("over_gram", "fraction_of_limit", "topoloss_faster", "timed", "extra_mib")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--neurons", type=int, nargs="*", help="sizes to run; all by default")
    arguments = parser.parse_args()
    path = rows.of_kind(environment.kind(), T1_STEP)
    cases = {case.neurons: case for case in CASES["cpu"]}
    unknown = set(arguments.neurons or ()) - set(cases)
    if unknown:
        parser.error(f"no case has {sorted(unknown)} neurons; there are {list(cases)}")
    torch.set_num_threads(environment.THREADS)
    for case in [cases[n] for n in arguments.neurons or cases]:
        others = [row for row in rows.read(path) if int(row["neurons"]) != case.neurons]
        measured = run(case, CONTESTANTS["cpu"], others)
        rows.write(path, sorted(others + measured, key=lambda row: int(row["neurons"])))
        for row in measured:
            print(*(row[name] for name in SHOWN))


def run(
    case: Case, contestants: Sequence[Contestant], earlier: Sequence[rows.Row]
) -> list[rows.Row]:
    """Rows of one case: measured, or with a note that estimates time and memory."""
    taking_part = [c for c in contestants if case.neurons <= c.largest]
    steps = prepare(case, taking_part)
    times = clock.take_turns(steps, case.turns, case.steps)
    medians = {name: clock.median(values) for name, values in times.items()}
    found = []
    for contestant in contestants:
        row = {"contestant": contestant.name, "computes": contestant.computes}
        row |= {"neurons": case.neurons, "samples": case.samples}
        if contestant in taking_part:
            row |= clock.quantiles(times[contestant.name]) | ratios(contestant.name, medians)
            extra = memory.in_own_process(contestant, case)
            row |= {"timed": case.turns * case.steps, "extra_mib": round(extra / 2**20, 1)}
            row |= {"note": ""}
        else:
            row |= dict.fromkeys(MEASURED, "") | {"note": left_out(contestant, case, earlier)}
        found.append(rows.as_text(row | environment.describe("cpu")))
    return found


def ratios(name: str, medians: Mapping[str, float]) -> dict[str, float]:
    return {
        "over_gram": round(medians[name] / medians[LIMIT], 2),
        "fraction_of_limit": round(medians[LIMIT] / medians[name], 3),
        "topoloss_faster": round(medians[name] / medians[OURS], 2),
    }


def prepare(case: Case, contestants: Sequence[Contestant]) -> dict[str, Step]:
    """Steps that agree with the reference, each on activations of its own."""
    x = case.activations("cpu")
    expected = reference(x)
    steps = {}
    for contestant in contestants:
        own = x.clone().requires_grad_()
        step = contestant.prepare(own)
        found = step()
        if contestant.computes != "product":
            check(contestant.name, found, own.grad, expected)
        steps[contestant.name] = step
    return steps


def left_out(contestant: Contestant, case: Case, earlier: Sequence[rows.Row]) -> str:
    """Say what the contestant would take, extrapolated quadratically from its largest size."""
    own = [r for r in earlier if r["contestant"] == contestant.name and r["median_ms"]]
    if not own:
        return f"not run: it takes part up to {contestant.largest:,} neurons"
    largest = max(own, key=lambda row: int(row["neurons"]))
    growth = (case.neurons / int(largest["neurons"])) ** 2
    seconds = growth * float(largest["median_ms"]) / 1e3
    gib = growth * float(largest["extra_mib"]) / 1024
    return f"not run: would take about {seconds:.0f} s and {gib:.1f} GiB"


if __name__ == "__main__":
    main()
