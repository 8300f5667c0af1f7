"""Tables and the figure of the committed rows.

python -m benchmarks.report
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby, product
from pathlib import Path
from statistics import median

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import gpu_step, rows
from benchmarks.contestants import LIMIT, OURS
from benchmarks.first_call import FIRST_CALL
from benchmarks.hostile import HOSTILE
from benchmarks.inputs import RANDOM
from benchmarks.loops import LOOPS
from benchmarks.processes import PROCESSES
from benchmarks.recording import RECORDING
from benchmarks.rows import Row
from benchmarks.t1_step import T1_STEP
from benchmarks.training import PROFILE, TRAINING
from topoloss.compare.tables import as_markdown

FIGURE = Path(__file__).parents[1] / "docs" / "images" / "benchmark.png"
# Below this size the fixed cost of a call outweighs the cost that grows with n.
SCALES_FROM = 1_010
SIZES = (1_010, 4_096, 10_000)


def main() -> None:
    timed = of_kinds(T1_STEP)
    draw(timed["bfloat16"], FIGURE)
    tables = {
        "Against the product and the paper's way": speed_table(timed),
        **{f"Milliseconds, {in_words(k)}": table_by_size(timed[k], "median_ms") for k in timed},
        "Extra memory in MiB": table_by_size(timed["bfloat16"], "extra_mib"),
        "Exponents over n": exponent_table(timed["bfloat16"]),
        "A training step of network 0": training_table(of_kinds(TRAINING)),
        "Parts of T1": profile_table(of_kinds(PROFILE)),
        "A forward pass of an attached model": recording_table(rows.read(RECORDING)),
        "Loops": loops_table(rows.read(LOOPS)),
        "Inputs that are hard to search": inputs_table(rows.read(HOSTILE)),
        "Several processes": processes_table(rows.read(PROCESSES)),
        "The first call": first_call_table(rows.read(FIRST_CALL)),
        "On a GPU": gpu_table(rows.read(gpu_step.PATH)),
        "On a GPU, inputs that are hard to search": hostile_table(rows.read(gpu_step.PATH)),
    }
    for title, table in tables.items():
        print(f"{title}\n\n{table}\n")


def of_kinds(name: str) -> dict[str, list[Row]]:
    """Rows of each kind of processor that has a folder; bfloat16 comes first."""
    kinds = {path.parent.name for path in rows.RESULTS.glob(f"*/{name}.csv")}
    return {kind: rows.read(rows.of_kind(kind, name)) for kind in sorted(kinds, reverse=True)}


def in_words(kind: str) -> str:
    """What processors of a kind, named as by `environment.kind`, multiply."""
    return kind if kind == "bfloat16" else f"float32 ({kind.upper()})"


def speed_table(timed: Mapping[str, Sequence[Row]]) -> str:
    """The README's table."""
    cells = []
    for kind, n in product(timed, SIZES):
        gram, ours, paper = (_row(timed[kind], name, n) for name in (LIMIT, OURS, "paper"))
        cells.append(
            [
                *(in_words(kind), f"{n:,}", _number(gram["median_ms"]), _number(ours["median_ms"])),
                *(ours["over_gram"], _number(paper["median_ms"]), paper["topoloss_faster"]),
            ]
        )
    header = ["processor multiplies", "neurons", "Gram product alone", "topoloss", "ratio"]
    return as_markdown([*header, "the paper's way", "times faster"], cells)


def table_by_size(timed: Sequence[Row], quantity: str) -> str:
    """One row for each contestant and one column for each size.

    Brackets hold estimates for contestants that were not run.
    """
    sizes = sorted({(int(row["neurons"]), row["samples"]) for row in timed})
    header = ["contestant", "computes", *(f"{n:,} x {samples}" for n, samples in sizes)]
    cells = []
    for name in _contestants(timed):
        own = [_row(timed, name, n) for n, _ in sizes]
        values = [_number(row[quantity]) or _estimate(row["note"]) for row in own]
        cells.append([name, own[0]["computes"], *values])
    return as_markdown(header, cells)


def _estimate(note: str) -> str:
    """Shorten a note on what a contestant would take; leave other notes as they are."""
    return re.sub(r"not run: would take about (.*) and (.*)", r"(\1, \2)", note)


def exponents(timed: Sequence[Row], quantity: str = "median_ms") -> dict[str, float]:
    """Slopes of log-log least squares over n, of contestants that ran at two sizes or more.

    Only sizes from 1,010 on count, with the same number of samples as the first of them.
    """
    measured = [r for r in timed if int(r["neurons"]) >= SCALES_FROM and r[quantity]]
    slopes = {}
    for name in _contestants(measured):
        own = [r for r in measured if r["contestant"] == name]
        own = [r for r in own if r["samples"] == own[0]["samples"]]
        n, values = (np.array([float(r[key]) for r in own]) for key in ("neurons", quantity))
        if len(own) > 1:
            slopes[name] = float(np.polyfit(np.log(n), np.log(values), 1)[0])
    return slopes


def exponent_table(timed: Sequence[Row]) -> str:
    time, memory = exponents(timed), exponents(timed, "extra_mib")
    cells = [[name, f"{time[name]:.2f}", f"{memory[name]:.2f}"] for name in time]
    return as_markdown(["contestant", "time", "memory"], cells)


def training_table(trained: Mapping[str, Sequence[Row]]) -> str:
    return _of_each_kind(trained, ("regulariser", "median_ms", "over_plain"))


def profile_table(profile: Mapping[str, Sequence[Row]]) -> str:
    return _of_each_kind(profile, ("activations", "neurons", "part", "median_ms", "share"))


def _of_each_kind(found: Mapping[str, Sequence[Row]], columns: Sequence[str]) -> str:
    cells = [[in_words(kind), *cells] for kind in found for cells in _columns(found[kind], columns)]
    header = ["processor multiplies", *columns]
    words = {"median_ms": "ms", "over_plain": "over plain"}
    return as_markdown([words.get(name, name) for name in header], cells)


def recording_table(recorded: Sequence[Row]) -> str:
    if not recorded:
        return "Not measured yet."
    columns = ("model", "input", "layers", "passes", "median_ms", "over_plain")
    header = ["model", "input", "layers", "passes", "ms", "over plain"]
    return as_markdown(header, _columns(recorded, columns))


def overhead_table(timed: Sequence[Row]) -> str:
    """For each model what the penalty added to training, and how often it was applied."""
    found = []
    for model in dict.fromkeys(row["model"] for row in timed):
        of_model = [row for row in timed if row["model"] == model]
        added = sorted(100 * float(row["overhead"]) for row in of_model)
        every = sorted(int(row["every"]) for row in of_model)
        percent = [f"{value:.0f}" for value in (median(added), added[0], added[-1])]
        found.append([model, str(len(added)), f"{every[0]} to {every[-1]}", *percent])
    header = ("model", "repetitions", "every", "% added", "least", "most")
    return as_markdown(header, found)


def loops_table(timed: Sequence[Row]) -> str:
    columns = ("cloud", "points", "contestant", "median_ms", "over_ripser")
    header = ["cloud", "points", "contestant", "ms", "over ripser.py"]
    return as_markdown(header, _columns(timed, columns))


def weights_table(timed: Sequence[Row]) -> str:
    columns = ("summary", "seconds", "processor_seconds", "extra_mib", "threads", "cores")
    header = ["summary", "s", "s of all processors", "extra MiB", "threads", "cores"]
    return as_markdown(header, _columns(timed, columns))


def gpu_table(timed: Sequence[Row]) -> str:
    """Each size of random activations, and how far it is from multiplying each pair once."""
    if not timed:
        return "Not measured yet."
    columns = ("contestant", "median_ms", "fraction_of_floor", "extra_mib", "note")
    cells = [
        [f"{int(row['neurons']):,}", *(row[name] for name in columns)]
        for row in timed
        if row["input"] == RANDOM
    ]
    header = ["neurons", "contestant", "ms", "fraction of the floor", "extra MiB", "note"]
    return f"{timed[0]['device']}\n\n{as_markdown(header, cells)}"


def hostile_table(timed: Sequence[Row]) -> str:
    ratios = gpu_step.over_ordinary(timed)
    if not ratios:
        return "Not measured yet."
    cells = [[name, f"{int(neurons):,}", f"{ratio}"] for (name, neurons), ratio in ratios.items()]
    return as_markdown(["input", "neurons", "over random"], cells)


def inputs_table(timed: Sequence[Row]) -> str:
    """Each input that is hard to search, over random activations: a column for each size."""
    if not timed:
        return "Not measured yet."
    sizes = sorted({int(row["neurons"]) for row in timed})
    ratios = {(row["input"], int(row["neurons"])): row["over_ordinary"] for row in timed}
    names = dict.fromkeys(row["input"] for row in timed)
    cells = [[name, *(ratios.get((name, n), "") for n in sizes)] for name in names]
    table = as_markdown(["input", *(f"{n:,} neurons" for n in sizes)], cells)
    return f"{timed[0]['device']}, {timed[0]['multiplies']}\n\n{table}"


def first_call_table(timed: Sequence[Row]) -> str:
    """Seconds of the first call on a machine, and of the first in a later process."""
    if not timed:
        return "Not measured yet."
    seconds = {(row["neurons"], row["process"]): row["seconds"] for row in timed}
    sizes = dict.fromkeys(row["neurons"] for row in timed)
    cells = [[f"{int(n):,}", seconds[n, "first"], seconds[n, "later"]] for n in sizes]
    header = ["neurons", "s, first on a machine", "s, first of a later process"]
    return as_markdown(header, cells)


def processes_table(timed: Sequence[Row]) -> str:
    """The time of all processes together over that of one alone, and what the first one sends."""
    if not timed:
        return "Not measured yet."
    columns = ("call", "neurons", "processes", "over_alone", "processor_over_alone", "bytes_sent")
    together = [row for row in timed if row["by"] == "all"]
    header = ["call", "neurons", "processes", "time over alone", "processor time over alone"]
    return as_markdown([*header, "bytes sent"], _columns(together, columns))


def draw(timed: Sequence[Row], path: Path) -> None:
    """Time and memory against n."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    time, memory = figure.subplots(1, 2)
    _draw(time, timed, "median_ms", "ms")
    _draw(memory, timed, "extra_mib", "extra memory, MiB")
    time.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, metadata={"Software": None})


def _draw(axes: Axes, timed: Sequence[Row], quantity: str, label: str) -> None:
    for k, name in enumerate(_contestants(timed)):
        own = [r for r in timed if r["contestant"] == name and r[quantity]]
        style = {"color": "black" if name == OURS else f"C{k}"}
        style |= {"linestyle": "--" if name == LIMIT else "-"}
        # Sizes with differing numbers of samples are not one line.
        for samples, group in groupby(own, key=lambda row: row["samples"]):
            part = list(group)
            hollow = {} if samples == timed[0]["samples"] else {"markerfacecolor": "white"}
            axes.loglog(
                [int(r["neurons"]) for r in part],
                [float(r[quantity]) for r in part],
                marker="o",
                markersize=4,
                label=name if not hollow else None,
                **style,
                **hollow,
            )
    axes.set_xlabel("neurons (hollow: 64 samples instead of 256)")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)


def _contestants(timed: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["contestant"] for row in timed))


def _row(timed: Sequence[Row], name: str, n: int) -> Row:
    return next(r for r in timed if r["contestant"] == name and r["neurons"] == str(n))


def _number(text: str) -> str:
    """At least three significant digits, or nothing if nothing was measured."""
    if not text:
        return ""
    value = float(text)
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _columns(found: Sequence[Row], names: Sequence[str]) -> list[list[str]]:
    return [[row[name] for name in names] for row in found]


if __name__ == "__main__":
    main()
