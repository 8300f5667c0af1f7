"""What earlier stages have chosen, frozen in a file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.today import declared
from benchmarks.today.declared import FIRST_GRIDS, MONITORS, RATES, Problem, middle, on_top, tops
from topoloss.compare import protocols
from topoloss.compare.records import Setup


@dataclass
class Frozen:
    """What was chosen for each problem, by its name: learning rate, monitor, weights of arms."""

    rates: dict[str, float] = field(default_factory=dict)
    monitors: dict[str, str] = field(default_factory=dict)
    weights: dict[str, dict[str, float]] = field(default_factory=dict)

    @classmethod
    def read(cls) -> Frozen:
        file = _file()
        return cls(**json.loads(file.read_text(encoding="utf-8"))) if file.exists() else cls()

    def write(self) -> None:
        declared.FOLDER.mkdir(parents=True, exist_ok=True)
        text = json.dumps(vars(self), indent=1)
        _file().write_text(f"{text}\n", encoding="utf-8")

    def setup(self, problem: Problem) -> Setup:
        return protocols.setup(
            problem.model,
            problem.data,
            "today",
            learning_rate=self.rates[problem.name],
            monitor=self.monitors[problem.name],
        )


def _file() -> Path:
    return declared.FOLDER / "frozen.json"


def stand_in() -> Frozen:
    """The middle of every first grid instead of a choice, to plan and to measure."""
    frozen = Frozen()
    for problem in declared.PROBLEMS:
        frozen.rates[problem.name] = RATES[len(RATES) // 2]
        frozen.monitors[problem.name] = MONITORS[-1]
        weights = {name: middle(FIRST_GRIDS[name]) for name in problem.alone}
        frozen.weights[problem.name] = weights
        for added, under in tops(problem):
            weights[on_top(added, under, weights[under])] = middle(FIRST_GRIDS[added])
    return frozen
