"""What was declared before the runs: splits, grids, problems and their arms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.rows import RESULTS
from topoloss.compare import arms
from topoloss.compare.records import exactly

FOLDER = RESULTS / "today"

# Grids were drawn up after exploratory runs on splits up to 103. No confirming split was used.
RATE_SPLITS = range(100, 104)
WEIGHT_SPLITS = range(104, 110)
CONFIRMING = range(200, 220)
MEASURING = 99

CORE_HOURS = 60

# Each problem gets the pair of rate and monitor with the best mean validation score without a
# regulariser.
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
MONITORS = ("loss", "score")

FIRST_GRIDS: dict[str, tuple[float, ...]] = {
    "none": (0.0,),
    "t1": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
    "t2": (0.1, 0.3, 1.0, 3.0, 10.0),
    "naive": (0.03, 0.1, 0.3, 1.0, 3.0),
    "dropout": (0.1, 0.2, 0.3, 0.5, 0.7),
    "batch-norm": (0.0,),
    "decov": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1),
    "variance": (1e-3, 1e-2, 1e-1, 1.0, 10.0),
    "random-path": (1e-3, 1e-2, 1e-1, 1.0, 10.0),
    "covariance-tree": (1e-3, 1e-2, 1e-1, 1.0, 10.0),
    "barlow-twins": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1),
    "vicreg": (1e-3, 1e-2, 1e-1, 1.0, 10.0),
    "orthogonality": (1e-4, 1e-3, 1e-2, 1e-1, 1.0),
    "label-smoothing": (0.03, 0.1, 0.2, 0.3, 0.5),
    "input-noise": (0.05, 0.1, 0.15, 0.3, 0.5),
    "weight-decay": (1e-4, 1e-3, 1e-2, 1e-1, 1.0),
}
# Added before any strength was frozen, where an arm chose that end of its first grid on at least
# four problems, or on its only problem. The two controls of covariance-tree are widened like it.
BEYOND: dict[str, tuple[float, ...]] = {
    "t2": (0.01, 0.03),
    "naive": (10.0, 30.0),
    "dropout": (0.02, 0.05),
    "decov": (1e-7, 1e-6),
    "variance": (1e-5, 1e-4),
    "random-path": (1e-5, 1e-4),
    "covariance-tree": (1e-5, 1e-4),
    "barlow-twins": (1e-7, 1e-6),
    "vicreg": (1e-5, 1e-4),
    "orthogonality": (1e-6, 1e-5),
    "weight-decay": (3.0, 10.0),
}
GRIDS = {
    name: tuple(sorted((*first, *BEYOND.get(name, ())))) for name, first in FIRST_GRIDS.items()
}
ADDED = ("t1", "t2")
EVERYWHERE = tuple(GRIDS)[:10]


@dataclass(frozen=True)
class Problem:
    """A network and data, and which arms are compared on them.

    Attributes
    ----------
    model, data : str
    alone : tuple of str
        Arms of `GRIDS`.
    under : tuple of str
        Arms on top of which T1 and T2 are tried.
    block : str
        Problems of one block share their samples, and count as one data set in a ranking.
    """

    model: str
    data: str
    alone: tuple[str, ...] = EVERYWHERE
    under: tuple[str, ...] = ()
    block: str = field(default="", compare=False)

    @property
    def of(self) -> tuple[str, str]:
        return self.model, self.data

    @property
    def name(self) -> str:
        return f"{self.model} on {self.data}"


def _without(arm: str) -> tuple[str, ...]:
    return tuple(name for name in EVERYWHERE if name != arm)


_ADDED_TO = tuple(name for name in GRIDS if name not in ("none", *ADDED))
PROBLEMS = (
    Problem("net0", "digits", tuple(GRIDS), _ADDED_TO, "digits"),
    Problem("net1", "digits", _without("dropout"), block="digits"),
    Problem("net2", "digits", block="digits"),
    Problem("conv", "digits", _without("batch-norm"), block="digits"),
    *(Problem("net0", f"digits[train={size}]", block="digits") for size in (100, 300, 1000)),
    *(
        Problem("net0", data, block=data)
        for data in ("breast-cancer", "wine", "diabetes", "teacher", "spirals")
    ),
    *(Problem("net0", f"friedman{which}", block=f"friedman{which}") for which in (1, 2, 3)),
)


def file_of(stage: str) -> Path:
    return FOLDER / f"{stage}.csv"


def tops(problem: Problem) -> list[tuple[str, str]]:
    return [(added, under) for under in problem.under for added in ADDED]


def on_top(added: str, under: str, strength: float) -> str:
    """The name of an arm that adds T1 or T2 to another at its chosen strength."""
    fixed = f"{under}={exactly(strength)}" if strength else under
    return arms.parse(f"{added}=1+{fixed}")[0]


def middle(grid: Sequence[float]) -> float:
    return grid[len(grid) // 2]
