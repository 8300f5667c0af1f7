"""All systems that compute a number from activations or weights without labels, in one protocol.

    python -m benchmarks.label_free

Each is a penalty with each of the same weights, on the same splits of digits. The validation part
of each split chooses a weight. Each run is saved, so an interrupted comparison can go on.
"""

from __future__ import annotations

from torch import nn

import topoloss
from benchmarks import rows
from topoloss.compare import runs, tables
from topoloss.compare.batch import Job, work
from topoloss.compare.records import Arm, Protocol, Run, Setup

FILE = rows.RESULTS / "label_free.csv"
SPLITS = 3
WEIGHTS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
PROTOCOL = Protocol(
    optimiser="adamw",
    initialisation="he",
    learning_rate=3e-3,
    decay=1.0,
    batch_size=128,
    max_epochs=40,
    patience=40,
    monitor="score",
)
# Systems that `arms` must write in another way than its rule, and why.
SPELT = {
    "svr": "svr[sigma=none]/mst/t1",  # in narrow layers no edge is significant
    "ripser": "correlation/ripser/total-persistence[dimension=1]",
}
# Systems that are not compared here, and why.
ABSENT = {
    "densification": "needs labels: it takes the samples of each class",
    "rewiring": "is a step between epochs, not a number",
    "structured-noise": "is a layer, not a number",
    "feature flow": "is left out of the library, as its definition could not be verified",
}


def network() -> nn.Module:
    return nn.Sequential(
        *(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 24), nn.ReLU(), nn.Linear(24, 10))
    )


def arms() -> list[str]:
    """Every regulariser, and T1 with every other filtration, loss or engine."""
    regularisers = topoloss.available("regulariser")
    names = {name: name for name in regularisers if name not in (*ABSENT, "none")}
    for name in topoloss.available("filtration"):
        names.setdefault(name, f"{name}/mst/t1")
    for name in topoloss.available("loss"):
        names.setdefault(name, f"correlation/mst/{name}")
    for name in topoloss.available("persistence"):
        names.setdefault(name, f"correlation/{name}/t1")
    names |= SPELT
    # These two make up T1.
    return [text for name, text in names.items() if name not in ("correlation", "mst")]


def jobs() -> list[Job]:
    setup = Setup("benchmarks.label_free:network", "digits", PROTOCOL)
    tried = [Arm("none", 0.0), *(Arm(name, weight) for name in arms() for weight in WEIGHTS)]
    return [Job(setup, arm, seed) for arm in tried for seed in range(SPLITS)]


def table(finished: list[Run]) -> str:
    """A line for each system, the best first; all runs have the same number of epochs."""
    found = sorted(tables.summarise(finished), key=lambda row: -row.score)
    lines = [row.cells()[:-2] for row in found]
    return tables.as_markdown(tables.header(found)[:-2], lines)


def finished() -> list[Run]:
    return runs.read(FILE)


def _show(run: Run) -> None:
    outcome = run.outcome
    print(f"{run.arm}, split {run.seed}: {100 * outcome.validation_score:.1f} %", flush=True)


if __name__ == "__main__":
    work(jobs(), FILE, on_finish=_show)
