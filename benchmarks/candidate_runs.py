"""Compare candidates for a better topological regulariser, where redundant neurons may do harm.

    python -m benchmarks.candidate_runs [--jobs 4]

Runs follow the protocol "today", on splits that confirm nothing. For each arm the weight with the
best mean validation score counts. Each run is saved, so an interrupted comparison can go on.
"""

from __future__ import annotations

import argparse

from torch import nn

from benchmarks import rows
from topoloss.compare import protocols, runs, statistics, tables
from topoloss.compare.batch import Job, work
from topoloss.compare.records import Arm, Run, Setup

FILE = rows.RESULTS / "candidates.csv"
SPLITS = range(110, 116)

_LOW = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
_MIDDLE = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
_HIGH = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
_OURS = "benchmarks.candidates:"
NONE = "none"
# What gains are compared with.
BASELINES = (NONE, "variance", "decov")
# For each arm its name in the tables, and the strengths that are tried.
ARMS: dict[str, tuple[str, tuple[float, ...]]] = {
    NONE: (NONE, (0.0,)),
    "dropout": ("dropout", (0.1, 0.3, 0.5)),
    "batch-norm": ("BatchNorm", (0.0,)),
    "decov": ("DeCov", (1e-4, 1e-3, 1e-2, 1e-1, 1.0)),
    "variance": ("variance", _HIGH),
    "random-path": ("random path", _HIGH),
    f"{_OURS}RandomPaths": ("four random paths", _HIGH),
    "t1": ("T1", _LOW),
    f"{_OURS}t1_of_each_layer": ("T1 of each layer's tree", _LOW),
    "t1+variance=0.01": ("T1, with variance at 0.01", _LOW),
    "t1+variance=0.001": ("T1, with variance at 0.001", _LOW),
    f"{_OURS}t1_of_a_path+variance=0.01": ("T1 of a random path, with variance at 0.01", _LOW),
    "naive+variance=0.01": ("naive, with variance at 0.01", (0.03, 0.1, 0.3, 1.0, 3.0)),
    f"{_OURS}shrunk": ("T1 of shrunk correlations", _MIDDLE),
    f"{_OURS}hinged": ("T1 of deaths below 0.5", _MIDDLE),
    f"{_OURS}squares": ("squared correlations on the tree", _MIDDLE),
    f"{_OURS}shrunk_squares": ("squared shrunk correlations on the tree", _HIGH),
    "covariance-tree": ("squared covariances on the tree", _HIGH),
    f"{_OURS}covariance_tree_of_each_layer": ("the same on each layer's tree", _HIGH),
    f"{_OURS}DisjointTrees": ("the same on four disjoint trees", _HIGH),
}
SETUPS: dict[str, Setup] = {
    "three layers of 16 neurons, 600 images": protocols.setup(
        "benchmarks.candidate_runs:narrow", "digits", "today", monitor="score"
    ),
    "network 0, 100 images": protocols.setup("net0", "digits[train=100]", "today", monitor="score"),
}


def narrow() -> nn.Module:
    return nn.Sequential(
        *(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU()),
        nn.Linear(16, 10),
    )


def jobs() -> list[Job]:
    return [
        Job(setup, Arm(name, strength), seed)
        for setup in SETUPS.values()
        for name, (_, strengths) in ARMS.items()
        for strength in strengths
        for seed in SPLITS
    ]


def table(finished: list[Run], setup: Setup) -> str:
    """A line for each arm: its strength, its test score, and its gains."""
    chosen = statistics.best_on_average(run for run in finished if run.setup == setup)
    scores = statistics.scores(chosen)
    outcome = chosen[0].outcome
    ratio = outcome.test_size / outcome.train_size
    lines = []
    for name, (called, _) in ARMS.items():
        weight = next(run.arm.weight for run in chosen if run.arm.regulariser == name)
        cells = [called, f"{weight:g}" if weight else "-", f"{scores[name].mean():.2f}"]
        for baseline in BASELINES:
            d = statistics.paired_difference(scores, name, baseline, ratio)
            interval = f"{d.mean:+.2f} ± {d.t_high - d.mean:.2f}"
            cells.append("-" if name in (NONE, baseline) else interval)
        lines.append(cells)
    over = (f"over {ARMS[name][0]}" for name in BASELINES)
    return tables.as_markdown(("arm", "strength", "test accuracy (%)", *over), lines)


def finished() -> list[Run]:
    return runs.read(FILE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1, help="processes, of one thread each")
    found = work(jobs(), FILE, parser.parse_args().jobs, _show)
    for title, setup in SETUPS.items():
        print(f"{title}\n\n{table(found, setup)}\n")


def _show(run: Run) -> None:
    score = f"{100 * run.outcome.validation_score:.1f}, {run.outcome.seconds:.0f} s"
    print(f"{run.setup.model}, {run.arm}, split {run.seed}: {score}", flush=True)


if __name__ == "__main__":
    main()
