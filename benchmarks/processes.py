"""What a penalty of a global batch and a tree search shared by processes cost, over one process.

    python -m benchmarks.processes [--processes 2]

The processes run on one machine, with one thread each, in a gloo group. One process alone and all
of them take turns; while one works alone, the others wait. Rows hold the bytes that the first
process sent in a call, and its processor time, which depends less than elapsed time on other work
on the machine.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

import topoloss
from benchmarks import clock, environment, rows

PROCESSES = rows.RESULTS / "processes.csv"
# Samples of all processes together.
SAMPLES = 256
# Numbers of neurons.
PENALTIES = (1_010, 4_096)
TREES = (10_000,)
SHOWN = ("call", "neurons", "by", "median_ms", "over_alone", "processor_ms")
SHOWN += ("processor_over_alone", "bytes_sent")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--rank", type=int, help="set for the processes that this one starts")
    parser.add_argument("--file", help="set likewise: the file through which they find each other")
    arguments = parser.parse_args()
    if arguments.rank is not None:
        found = one_of(arguments.rank, arguments.processes, arguments.file, arguments.turns)
        if arguments.rank == 0:
            others = [r for r in rows.read(PROCESSES) if int(r["processes"]) != arguments.processes]
            rows.write(PROCESSES, others + found)
            for row in found:
                print(*(row[name] for name in SHOWN))
        return
    with tempfile.TemporaryDirectory() as folder:
        again = [sys.executable, "-m", "benchmarks.processes", *sys.argv[1:]]
        started = [
            subprocess.Popen([*again, "--rank", str(rank), "--file", f"{folder}/group"])
            for rank in range(arguments.processes)
        ]
        failed = [process.wait() for process in started]
        if any(failed):
            raise SystemExit("a process failed; its own output says why")


def one_of(rank: int, processes: int, file: str, turns: int) -> list[rows.Row]:
    """Measure as one of the processes; only the first returns rows."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=processes)
    found = []
    for neurons in PENALTIES:
        found += compared(
            "penalty", neurons, penalty(neurons, False), penalty(neurons, True), turns
        )
    for neurons in TREES:
        found += compared("tree", neurons, tree(neurons, False), tree(neurons, True), turns)
    dist.destroy_process_group()
    return [rows.as_text(row | environment.describe("cpu")) for row in found]


def penalty(neurons: int, together: bool) -> Callable[[], object]:
    """Forward and backward of T1 on a batch: all of it, or this process's part if `together`."""
    torch.manual_seed(0)
    model, x = nn.Linear(32, neurons), torch.randn(SAMPLES, 32)
    rank, size = dist.get_rank(), dist.get_world_size()
    value = topoloss.attach(model, "t1", group=dist.group.WORLD if together else None)
    own = x.tensor_split(size)[rank] if together else x

    def call() -> None:
        model(own)
        value().backward()

    return call


def tree(neurons: int, together: bool) -> Callable[[], object]:
    mst = topoloss.persistence("mst", group=dist.group.WORLD if together else None)
    x = torch.randn(neurons, SAMPLES, generator=torch.Generator().manual_seed(0))
    v = nn.functional.normalize(x)
    return lambda: mst.from_features(v, "abs_dot_descending")


def compared(
    name: str, neurons: int, alone: Callable[[], object], together: Callable[[], object], turns: int
) -> list[dict[str, object]]:
    """Rows of one process alone, and of all together."""
    first = dist.get_rank() == 0
    times: dict[str, list[float]] = {"one process": [], "all": []}
    worked: dict[str, list[float]] = {by: [] for by in times}

    def timed(by: str, call: Callable[[], object]) -> None:
        dist.barrier()
        before = time.process_time()
        times[by].append(clock.milliseconds(call))
        worked[by].append(1e3 * (time.process_time() - before))

    # Compile and prepare before timing.
    alone(), together()
    for _ in range(turns):
        timed("one process", alone if first else _nothing)
        before = _written()
        timed("all", together)
        sent = _written() - before
    if not first:
        return []
    medians = {by: clock.median(each) for by, each in times.items()}
    processor = {by: clock.median(each) for by, each in worked.items()}
    return [
        {"call": name, "neurons": neurons, "samples": SAMPLES, "by": by}
        | {"processes": dist.get_world_size(), **clock.quantiles(each)}
        | {"over_alone": round(medians[by] / medians["one process"], 2)}
        | {"processor_ms": round(processor[by], 3)}
        | {"processor_over_alone": round(processor[by] / processor["one process"], 2)}
        | {"timed": turns}
        | {"bytes_sent": sent if by == "all" else 0}
        for by, each in times.items()
    ]


def _nothing() -> None:
    pass


def _written() -> int:
    """Bytes that this process has written so far: a gloo group writes to its connections."""
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar"))


if __name__ == "__main__":
    main()
