"""The comparison in the protocol of today: chosen on some splits, confirmed on others.

python -m benchmarks.today plan                    how many runs, and how many core-hours
python -m benchmarks.today measure                 do one run of each kind, whose seconds plan takes
python -m benchmarks.today run STAGE [--jobs 4]    do the runs of a stage that are missing
python -m benchmarks.today freeze STAGE            choose by the stage's runs, for the stages after
python -m benchmarks.today edges                   which chosen values are at an end of their grid
python -m benchmarks.today report                  tables and figures of the confirming runs

The stages, in order, are rates, alone, top and confirm; docs/today.md says what each is for.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from benchmarks.rows import RESULTS
from topoloss.compare import arms, batch, protocols, report, runs
from topoloss.compare.batch import Job
from topoloss.compare.records import Arm, Run, Setup, exactly
from topoloss.compare.tables import as_markdown
from topoloss.errors import InputError

FOLDER = RESULTS / "today"

# Grids were drawn up after exploratory runs on splits up to 103. No confirming split was used.
RATE_SPLITS = range(100, 104)
WEIGHT_SPLITS = range(104, 110)
CONFIRMING = range(200, 220)
MEASURING = 99

CORE_HOURS = 60

# For network 0 without a regulariser; each problem has the pair of best mean validation score.
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
MONITORS = ("loss", "score")

GRIDS: dict[str, tuple[float, ...]] = {
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
        Problems of one block share their samples, and are one block in a ranking.
    """

    model: str
    data: str
    alone: tuple[str, ...] = EVERYWHERE
    under: tuple[str, ...] = ()
    block: str = field(default="", compare=False)

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


@dataclass
class Frozen:
    """What was chosen, by the name of a problem: a learning rate, a monitor, weights of arms."""

    rates: dict[str, float] = field(default_factory=dict)
    monitors: dict[str, str] = field(default_factory=dict)
    weights: dict[str, dict[str, float]] = field(default_factory=dict)

    @classmethod
    def read(cls) -> Frozen:
        file = _frozen_file()
        return cls(**json.loads(file.read_text(encoding="utf-8"))) if file.exists() else cls()

    def write(self) -> None:
        FOLDER.mkdir(parents=True, exist_ok=True)
        text = json.dumps(vars(self), indent=1)
        _frozen_file().write_text(f"{text}\n", encoding="utf-8")

    def setup(self, problem: Problem) -> Setup:
        return protocols.setup(
            problem.model,
            problem.data,
            "today",
            learning_rate=self.rates[problem.name],
            monitor=self.monitors[problem.name],
        )


def _frozen_file() -> Path:
    return FOLDER / "frozen.json"


def file_of(stage: str) -> Path:
    return FOLDER / f"{stage}.csv"


def stand_in() -> Frozen:
    """The middle of every grid in place of what will be chosen: for a plan, and for measuring."""
    frozen = Frozen()
    for problem in PROBLEMS:
        frozen.rates[problem.name] = RATES[len(RATES) // 2]
        frozen.monitors[problem.name] = MONITORS[-1]  # it trains for longer
        weights = {name: _middle(GRIDS[name]) for name in problem.alone}
        frozen.weights[problem.name] = weights
        for added, under in _tops(problem):
            weights[_on_top(added, under, weights[under])] = _middle(GRIDS[added])
    return frozen


def jobs_of(stage: str, frozen: Frozen) -> list[Job]:
    """The runs of a stage, given what was frozen by the stages before.

    Raises
    ------
    InputError
        If something is not frozen yet.
    """
    try:
        return list(_STAGES[stage](frozen))
    except KeyError as error:
        raise InputError(
            f"the stage {stage} needs a choice for {error} that is not frozen; run and freeze the "
            "stages before it."
        ) from error


def _rates(frozen: Frozen) -> Iterator[Job]:
    for problem in PROBLEMS:
        for monitor in MONITORS:
            for rate in RATES:
                setup = protocols.setup(
                    problem.model, problem.data, "today", learning_rate=rate, monitor=monitor
                )
                for seed in RATE_SPLITS:
                    yield Job(setup, Arm("none", 0.0), seed)


def _alone(frozen: Frozen) -> Iterator[Job]:
    for problem in PROBLEMS:
        setup = frozen.setup(problem)
        for name in problem.alone:
            for weight in GRIDS[name]:
                for seed in WEIGHT_SPLITS:
                    yield Job(setup, Arm(name, weight), seed)


def _top(frozen: Frozen) -> Iterator[Job]:
    for problem in PROBLEMS:
        for added, under in _tops(problem):
            name = _on_top(added, under, frozen.weights[problem.name][under])
            for weight in GRIDS[added]:
                for seed in WEIGHT_SPLITS:
                    yield Job(frozen.setup(problem), Arm(name, weight), seed)


def _confirm(frozen: Frozen) -> Iterator[Job]:
    for problem in PROBLEMS:
        weights = frozen.weights[problem.name]
        tops = [_on_top(added, under, weights[under]) for added, under in _tops(problem)]
        for name in (*problem.alone, *tops):
            for seed in CONFIRMING:
                yield Job(frozen.setup(problem), Arm(name, weights[name]), seed)


_STAGES = {"rates": _rates, "alone": _alone, "top": _top, "confirm": _confirm}
STAGES = tuple(_STAGES)


def _tops(problem: Problem) -> list[tuple[str, str]]:
    return [(added, under) for under in problem.under for added in ADDED]


def _on_top(added: str, under: str, strength: float) -> str:
    """The name of an arm that adds T1 or T2 to another at its chosen strength."""
    fixed = f"{under}={exactly(strength)}" if strength else under
    return arms.parse(f"{added}=1+{fixed}")[0]


def _middle(grid: Sequence[float]) -> float:
    return grid[len(grid) // 2]


def run(stage: str, processes: int) -> None:
    """Do the runs of a stage that are missing, if the whole plan is within its budget."""
    hours, unmeasured = estimate()
    if unmeasured:
        raise InputError(f"{len(unmeasured)} kinds of run are not measured; run `measure` first.")
    if hours > CORE_HOURS:
        raise InputError(f"{hours:.1f} core-hours are planned, and the budget is {CORE_HOURS}.")
    jobs = jobs_of(stage, Frozen.read())
    file = file_of(stage)
    held = runs.read(file) if file.exists() else []
    others = {Job(r.setup, r.arm, r.seed) for r in held} - set(jobs)
    if others:
        raise InputError(
            f"{file} holds {len(others)} runs that are none of this stage: something else is "
            "frozen now. Splits that confirm are run once, with what was frozen before."
        )
    _work(jobs, file, processes)


def measure(processes: int = 1) -> None:
    """Do one run of each kind, with the middle of its grid, on a split that serves nothing else."""
    jobs = [
        Job(job.setup, job.arm, MEASURING)
        for job in jobs_of("confirm", stand_in())
        if job.seed == CONFIRMING[0]
    ]
    _work(jobs, file_of("measured"), processes)


def _work(jobs: Sequence[Job], file: Path, processes: int) -> None:
    done = len(jobs) - len(batch.missing(jobs, runs.read(file) if file.exists() else []))

    def tell(each: Run) -> None:
        nonlocal done
        done += 1
        score = f"{100 * each.outcome.validation_score:.2f}, {each.outcome.seconds:.0f} s"
        where = f"{each.setup.model} on {each.setup.data}, split {each.seed}"
        print(f"{done}/{len(jobs)} {each.arm}, {where}: {score}", flush=True)

    batch.work(jobs, file, processes, tell)


def estimate() -> tuple[float, set[str]]:
    """Core-hours of all stages by what was measured, and the kinds that were not."""
    seconds = _measured()
    kinds = [_kind(job) for stage in STAGES for job in jobs_of(stage, stand_in())]
    unmeasured = {f"{arm} on {problem}" for problem, arm in kinds if (problem, arm) not in seconds}
    return sum(seconds.get(kind, 0.0) for kind in kinds) / 3600, unmeasured


def plan() -> str:
    """How many runs each stage has, and how many core-hours they take."""
    seconds = _measured()
    rows = []
    for stage in STAGES:
        kinds = [_kind(job) for job in jobs_of(stage, stand_in())]
        known = [seconds[kind] for kind in kinds if kind in seconds]
        hours = f"{sum(known) / 3600:.1f}" if len(known) == len(kinds) else "not measured"
        rows.append((stage, f"{len(kinds):,}", hours))
    hours, unmeasured = estimate()
    total = "not measured" if unmeasured else f"{hours:.1f}"
    rows.append(("all", f"{sum(int(row[1].replace(',', '')) for row in rows):,}", total))
    table = as_markdown(("stage", "runs", "core-hours"), rows)
    return (
        f"{table}\n\nThe budget is {CORE_HOURS} core-hours. The hours follow from the processor's "
        "time for one run of each problem and arm, with the middle of the arm's grid, stopped by "
        "the validation score."
    )


def _measured() -> dict[tuple[str, str], float]:
    file = file_of("measured")
    found = runs.read(file) if file.exists() else []
    return {_kind(each): each.outcome.cpu_seconds or each.outcome.seconds for each in found}


def _kind(job: Job | Run) -> tuple[str, str]:
    """Problem and arm, without any strength."""
    arm = re.sub(r"=[^+]*", "", job.arm.regulariser)
    return f"{job.setup.model} on {job.setup.data}", arm


def freeze(stage: str) -> Frozen:
    """Choose by the mean validation score over the splits of a stage, and write the choice.

    Of weights that tie the smallest is taken; of rates the first.
    """
    if file_of("confirm").exists():
        raise InputError("confirming runs have begun; what they run with is frozen for good.")
    frozen = Frozen.read()
    means = _mean_scores(stage, frozen)
    for problem in PROBLEMS:
        of_problem = {
            (setup, arm): mean
            for (setup, arm), mean in means.items()
            if (setup.model, setup.data) == (problem.model, problem.data)
        }
        if stage == "rates":
            setup, _ = max(of_problem, key=of_problem.__getitem__)
            frozen.rates[problem.name] = setup.protocol.learning_rate
            frozen.monitors[problem.name] = setup.protocol.monitor
            continue
        chosen = frozen.weights.setdefault(problem.name, {})
        for name in dict.fromkeys(arm.regulariser for _, arm in of_problem):
            at_weight = {a.weight: m for (_, a), m in of_problem.items() if a.regulariser == name}
            chosen[name] = max(at_weight, key=lambda weight: (at_weight[weight], -weight))
    frozen.write()
    return frozen


def _mean_scores(stage: str, frozen: Frozen) -> dict[tuple[Setup, Arm], float]:
    jobs = jobs_of(stage, frozen)
    found = runs.read(file_of(stage)) if file_of(stage).exists() else []
    left = batch.missing(jobs, found)
    if left:
        raise InputError(f"{len(left)} of {len(jobs)} runs of the stage {stage} are missing.")
    scores: dict[tuple[Setup, Arm], list[float]] = {}
    for each in found:
        scores.setdefault((each.setup, each.arm), []).append(each.outcome.validation_score)
    return {key: fmean(values) for key, values in scores.items()}


def edges(frozen: Frozen) -> str:
    """Which chosen rates and weights are the lowest or highest of their grid: it was too small."""
    rows = []
    for problem in PROBLEMS:
        chosen: list[tuple[str, float, Iterable[float]]] = []
        if problem.name in frozen.rates:
            chosen.append(("learning rate", frozen.rates[problem.name], RATES))
        for name, weight in frozen.weights.get(problem.name, {}).items():
            chosen.append((name, weight, GRIDS[re.split(r"[+=]", name)[0]]))
        for what, value, grid in chosen:
            end = at_edge(value, tuple(grid))
            if end:
                rows.append((problem.name, what, exactly(value), end))
    if not rows:
        return "Nothing that was chosen is at an end of its grid."
    return as_markdown(("problem", "arm", "chosen", "of its grid the"), rows)


def at_edge(value: float, grid: Sequence[float]) -> str:
    """Say whether a value is the lowest or the highest of several; empty if it is neither."""
    if len(grid) < 2:
        return ""
    return {min(grid): "lowest", max(grid): "highest"}.get(value, "")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("plan", "edges", "report"):
        commands.add_parser(name)
    measuring, running = commands.add_parser("measure"), commands.add_parser("run")
    for command in (measuring, running):
        command.add_argument("--jobs", type=int, default=1, help="processes, of one thread each")
    for command in (running, commands.add_parser("freeze")):
        command.add_argument("stage", choices=STAGES)
    arguments = parser.parse_args()
    match arguments.command:
        case "plan":
            print(plan())
        case "measure":
            measure(arguments.jobs)
        case "run":
            run(arguments.stage, arguments.jobs)
        case "freeze":
            freeze(arguments.stage)
            print(edges(Frozen.read()))
        case "edges":
            print(edges(Frozen.read()))
        case "report":
            # Imported here, as it imports this module.
            from benchmarks import today_report

            found = runs.read(file_of("confirm"))
            report.write(found, FOLDER / "confirm")
            today_report.write(found, FOLDER / "confirm")


if __name__ == "__main__":
    main()
