"""The paper's experiment on the data that are available here: its studies, runs and reports.

python -m benchmarks.paper run [STUDY ...] [--jobs 2]   do the runs that are not committed yet
python -m benchmarks.paper run [STUDY ...] --fresh      do all runs again
python -m benchmarks.paper report                       tables and figures of the committed runs
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, nan
from pathlib import Path
from statistics import fmean

from benchmarks.rows import RESULTS
from topoloss.compare import report, runs
from topoloss.compare.paper import protocols
from topoloss.compare.records import Protocol, Run, Setup
from topoloss.compare.searches import Grid
from topoloss.compare.storage import database
from topoloss.compare.sweep import sweep
from topoloss.compare.tables import as_markdown

FOLDER = RESULTS / "paper"

# Five weights around the useful range of each regulariser. Validation on split 0 of network 0
# showed the range. Its samples are in the test parts of other splits; no test score was looked at.
GRID = (
    Grid("none", (0.0,)),
    Grid("t1", (1e-4, 3e-4, 1e-3, 2e-3, 3e-3)),
    Grid("t2", (0.1, 0.3, 1.0, 2.0, 3.0)),
    Grid("naive", (0.1, 0.3, 1.0, 3.0, 10.0)),
    Grid("l1", (1e-6, 1e-5, 1e-4, 3e-4, 1e-3)),
    Grid("l2", (1e-5, 1e-4, 3e-4, 1e-3, 1e-2)),
)


@dataclass(frozen=True)
class Study:
    """Runs of one setup: each regulariser with each weight on each split.

    Five weights stand for the paper's ten, most of which are far from useful.
    """

    model: str
    data: str
    protocol: str
    splits: int
    searches: tuple[Grid, ...] = GRID
    patience: int = Protocol.patience

    @property
    def setup(self) -> Setup:
        return protocols.setup(self.model, self.data, self.protocol, patience=self.patience)

    @property
    def name(self) -> str:
        patient = f"-patience{self.patience}" * (self.patience != Protocol.patience)
        return "-".join((self.data, self.model.rpartition(":")[2], self.protocol)) + patient

    @property
    def folder(self) -> Path:
        """Where the committed runs and their report are."""
        return FOLDER / self.name

    @property
    def file(self) -> Path:
        return self.folder / "runs.csv"

    def finished(self) -> list[Run]:
        return runs.read(self.file) if self.file.exists() else []

    def complete(self) -> list[Run]:
        """The finished runs, without those of splits that lack a weight of the regulariser."""
        finished = self.finished()
        met = Counter((run.arm.regulariser, run.seed) for run in finished)
        wanted = {search.regulariser: search.runs for search in self.searches}
        return [
            run
            for run in finished
            if met[run.arm.regulariser, run.seed] == wanted[run.arm.regulariser]
        ]

    @property
    def size(self) -> int:
        return self.splits * sum(search.runs for search in self.searches)


def _widths() -> list[Study]:
    """T1 and T2 alone, on network 0 with other widths.

    T1 gets weights that do not depend on the number of neurons, and weights inversely
    proportional to it.
    """
    studies = []
    for name, neurons in {"quarter": 259, "half": 510, "double": 2010}.items():
        scaled = (round(k / neurons, 7) for k in (0.1, 0.3, 1, 2, 3))
        t1 = tuple(sorted({1e-4, 3e-4, 1e-3, 3e-3, 1e-2, *scaled}))
        searches = (
            Grid("none", (0.0,)),
            Grid("t1", t1),
            Grid("t2", (0.1, 0.3, 0.5, 1.0, 2.0, 4.0)),
        )
        model = f"benchmarks.networks:{name}"
        studies.append(Study(model, "digits", "training-forward", 5, searches))
    return studies


NET0 = Study("net0", "digits", "training-forward", 20)
WIDTHS = [NET0, *_widths()]
STUDIES = {
    study.name: study
    for study in [
        NET0,
        Study("net0", "digits", "switch-off", 20),
        Study("net0", "digits", "faithful", 20),
        Study("net0", "breast-cancer", "training-forward", 20),
        Study("net0", "diabetes", "training-forward", 20),
        Study("net1", "digits", "training-forward", 8),
        Study("net2", "digits", "training-forward", 8),
        # An epoch has three steps, so most runs of network 2 stop before they begin to learn.
        Study("net2", "digits", "training-forward", 8, patience=200),
        Study("net1", "digits", "faithful", 8),
        Study("net2", "digits", "faithful", 8),
        Study("net1", "digits", "switch-off", 8),
        Study("net2", "digits", "switch-off", 8),
        Study("net1", "digits", "fixed", 8),
        # Without dropout a pass in evaluation mode differs from the training pass by rounding.
        Study("net0", "digits", "fixed", 2),
        *WIDTHS[1:],
    ]
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("studies", nargs="*", metavar="STUDY", help=f"all, or {list(STUDIES)}")
    running.add_argument(
        "--jobs", type=int, default=2, help="number of processes, of one thread each"
    )
    running.add_argument("--fresh", action="store_true", help="do finished runs again as well")
    commands.add_parser("report")
    arguments = parser.parse_args()
    if arguments.command == "report":
        write_reports(list(STUDIES.values()))
        return
    unknown = set(arguments.studies) - set(STUDIES)
    if unknown:
        parser.error(f"there is no study {sorted(unknown)}; there are {list(STUDIES)}")
    for name in arguments.studies or STUDIES:
        run(STUDIES[name], arguments.jobs, arguments.fresh)


def run(study: Study, jobs: int, fresh: bool = False) -> None:
    """Do the runs that are missing; the study's file gets each run when it is finished."""
    storage = Path("runs") / "paper" / study.name
    for each in (storage, study.folder):
        each.mkdir(parents=True, exist_ok=True)
    if fresh:
        for path in (study.file, storage / "study.db"):
            path.unlink(missing_ok=True)
    known = study.finished()
    finished = list(known)

    def keep(each: Run) -> None:
        if each not in known:
            finished.append(each)
            runs.write(finished, study.file)
            score = 100 * each.outcome.validation_score
            told = f"{study.name} {len(finished)}/{study.size}: {each.arm}, split {each.seed}"
            print(f"{told}: {score:.2f}", flush=True)

    in_order = sweep(
        study.searches,
        range(study.splits),
        study.setup,
        database(storage),
        jobs=jobs,
        known=known,
        on_finish=keep,
    )
    runs.write(runs.joined(in_order, known), study.file)


def write_reports(studies: Sequence[Study]) -> None:
    """Write a report for each study that has runs, and the tables across studies."""
    begun = {study: complete for study in studies if (complete := study.complete())}
    for study, complete in begun.items():
        report.write(complete, study.folder, also=study.finished())
    whole = [each for study in studies if study.searches is GRID for each in begun.get(study, [])]
    parts = {
        "studies": study_table({study: len(study.finished()) for study in studies}),
        "across": report.across(whole),
        "widths": width_table([study for study in begun if study in WIDTHS]),
    }
    for name, text in parts.items():
        (FOLDER / f"{name}.md").write_text(f"{text}\n", encoding="utf-8")


def study_table(finished: dict[Study, int]) -> str:
    """How many of the planned runs are finished."""
    rows = [
        (
            *(s.model.rpartition(":")[2], s.data, s.protocol, f"{s.patience}"),
            *(f"{s.splits}", f"{n} of {s.size}"),
        )
        for s, n in finished.items()
    ]
    header = ("network", "data", "protocol", "patience", "splits", "runs finished")
    return as_markdown(header, rows)


def width_table(studies: Sequence[Study]) -> str:
    """The useful weights of T1 and T2 by the number of neurons.

    The best weight has the highest mean validation score over splits, failed runs included. A
    run failed if its score is nearer to guessing than to the score without a regulariser on the
    same split.
    """
    rows = []
    for study in studies:
        found = study.complete()
        plain = {run.seed: 100 * run.outcome.validation_score for run in _of(found, "none")}
        for name in ("t1", "t2"):
            at_weight: dict[float, list[Run]] = {}
            for run in _of(found, name):
                at_weight.setdefault(run.arm.weight, []).append(run)
            if not at_weight or not plain:
                continue
            neurons = 1 + sum(found[0].outcome.before.deaths)
            means = {w: fmean(_scores(of_weight)) for w, of_weight in at_weight.items()}
            best = max(means, key=lambda weight: (means[weight], -weight))
            failed = {w for w, r in at_weight.items() if _failures(r, plain)}
            sound = max((w for w in at_weight if w < min(failed, default=inf)), default=nan)
            gain = means[best] - fmean(plain.values())
            cells = (f"{best:.2g}", f"{gain:+.2f}", f"{sound:.2g}", f"{sound / neurons:.1e}")
            splits = min(map(len, at_weight.values()))
            rows.append((neurons, name, f"{splits}", *cells))
    header = (
        *("neurons", "regulariser", "splits", "best weight", "gain in validation accuracy (%)"),
        *("highest weight below the first failure", "over neurons"),
    )
    ordered = sorted(rows, key=lambda row: (row[1], row[0]))
    return as_markdown(header, [(f"{row[0]:,}", *row[1:]) for row in ordered])


def _of(found: Sequence[Run], name: str) -> list[Run]:
    return [run for run in found if run.arm.regulariser == name]


def _scores(found: Sequence[Run]) -> list[float]:
    return [100 * run.outcome.validation_score for run in found]


def _failures(found: Sequence[Run], plain: dict[int, float]) -> int:
    guessing = 10.0  # percent, of ten classes
    limits = [(guessing + plain[run.seed]) / 2 for run in found]
    return sum(s < limit for s, limit in zip(_scores(found), limits, strict=True))


if __name__ == "__main__":
    main()
