"""The paper's experiment on the data that can be had: its studies, their runs and reports.

python -m benchmarks.paper run [STUDY ...] [--jobs 2]   goes on where the committed runs end
python -m benchmarks.paper report                       tables and figures of the committed runs
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from benchmarks.rows import RESULTS
from topoloss.compare import report, runs
from topoloss.compare.networks import protocol as usual
from topoloss.compare.runs import Problem, Run
from topoloss.compare.sweep import Grid, database, sweep
from topoloss.compare.tables import as_markdown
from topoloss.compare.training import protocol

FOLDER = RESULTS / "paper"

# Five weights around the useful range of each, which validation on split 0 of network 0 showed.
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
    """Runs of one problem: each regulariser with each weight on each split."""

    model: str
    data: str
    protocol: str
    splits: int
    searches: tuple[Grid, ...] = GRID

    @property
    def problem(self) -> Problem:
        return Problem(self.model, self.data, protocol(self.protocol, usual(self.model)))

    @property
    def name(self) -> str:
        return "-".join((self.data, self.model.rpartition(":")[2], self.protocol))

    @property
    def folder(self) -> Path:
        """Of the committed runs and their report."""
        return FOLDER / self.name

    @property
    def file(self) -> Path:
        return self.folder / "runs.csv"

    def finished(self) -> list[Run]:
        return runs.read(self.file) if self.file.exists() else []

    @property
    def size(self) -> int:
        return self.splits * sum(search.runs for search in self.searches)


def _widths() -> list[Study]:
    """T1 alone, on networks of several widths, with weights like 1 over the neurons and not."""
    fixed = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    studies = []
    for name, neurons in {"quarter": 259, "half": 510, "double": 2010, "quadruple": 4010}.items():
        scaled = tuple(round(k / neurons, 7) for k in (0.1, 0.3, 1, 2, 3))
        searches = (Grid("none", (0.0,)), Grid("t1", tuple(sorted({*fixed, *scaled}))))
        model = f"benchmarks.networks:{name}"
        studies.append(Study(model, "digits", "training-forward", 5, searches))
    return studies


STUDIES = {
    study.name: study
    for study in [
        Study("net0", "digits", "training-forward", 20),
        Study("net0", "digits", "switch-off", 20),
        Study("net0", "digits", "faithful", 20),
        Study("net0", "breast-cancer", "training-forward", 20),
        Study("net0", "diabetes", "training-forward", 20),
        Study("net1", "digits", "training-forward", 8),
        Study("net2", "digits", "training-forward", 8),
        Study("net1", "digits", "faithful", 8),
        Study("net2", "digits", "faithful", 8),
        Study("net1", "digits", "switch-off", 8),
        Study("net2", "digits", "switch-off", 8),
        Study("net1", "digits", "fixed", 8),
        Study("net2", "digits", "fixed", 8),
        Study("net0", "digits", "fixed", 20),
        *_widths(),
    ]
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("studies", nargs="*", metavar="STUDY", help=f"all, or {list(STUDIES)}")
    running.add_argument("--jobs", type=int, default=2, help="processes, of one thread each")
    commands.add_parser("report")
    arguments = parser.parse_args()
    if arguments.command == "report":
        write_reports(list(STUDIES.values()))
        return
    unknown = set(arguments.studies) - set(STUDIES)
    if unknown:
        parser.error(f"there is no study {sorted(unknown)}; there are {list(STUDIES)}")
    for name in arguments.studies or STUDIES:
        run(STUDIES[name], arguments.jobs)


def run(study: Study, jobs: int) -> None:
    """Do the runs that are missing; each is in the study's file once it is finished."""
    storage = Path("runs") / "paper" / study.name
    for each in (storage, study.folder):
        each.mkdir(parents=True, exist_ok=True)
    known = study.finished()
    finished: list[Run] = []

    def keep(each: Run) -> None:
        finished.append(each)
        if len(finished) > len(known):
            runs.write(finished, study.file)
            score = 100 * each.outcome.validation_score
            told = f"{study.name} {len(finished)}/{study.size}: {each.arm}, split {each.seed}"
            print(f"{told}: {score:.2f}", flush=True)

    in_order = sweep(
        study.searches,
        range(study.splits),
        study.problem,
        database(storage),
        jobs=jobs,
        known=known,
        on_finish=keep,
    )
    runs.write(in_order, study.file)


def write_reports(studies: Sequence[Study]) -> None:
    """Write what there is: a report for each study, and what joins several."""
    begun = {study: finished for study in studies if (finished := study.finished())}
    for study, finished in begun.items():
        report.write(finished, study.folder)
    whole = [each for study in studies if study.searches is GRID for each in begun.get(study, [])]
    parts = {
        "studies": study_table({study: len(begun.get(study, [])) for study in studies}),
        "across": report.across(whole),
        "widths": width_table([study for study in begun if study.searches is not GRID]),
    }
    for name, text in parts.items():
        (FOLDER / f"{name}.md").write_text(f"{text}\n", encoding="utf-8")


def study_table(finished: dict[Study, int]) -> str:
    """What was run, of what was planned."""
    rows = [
        (s.model.rpartition(":")[2], s.data, s.protocol, f"{s.splits}", f"{n} of {s.size}")
        for s, n in finished.items()
    ]
    return as_markdown(("network", "data", "protocol", "splits", "runs finished"), rows)


def width_table(studies: Sequence[Study]) -> str:
    """The useful weights of T1 by the number of neurons: validation and test, means over splits.

    The rule is the weight of the grid that is nearest to 1 over the number of neurons.
    """
    rows = []
    for study in studies:
        found = study.finished()
        neurons = 1 + sum(found[0].outcome.before.deaths)
        at_weight: dict[float, list[Run]] = {}
        for each in found:
            at_weight.setdefault(each.arm.weight, []).append(each)
        validation = {
            weight: fmean(100 * each.outcome.validation_score for each in of_weight)
            for weight, of_weight in at_weight.items()
        }
        best = max((w for w in validation if w), key=validation.__getitem__)
        rule = min((w for w in validation if w), key=lambda w: abs(w * neurons - 1))
        told = [f"{validation[weight]:.2f}" for weight in (0.0, best, rule)]
        rows.append((f"{neurons}", f"{best:.3g}", f"{best * neurons:.2f}", *told))
    header = (
        *("neurons", "best weight", "times neurons", "validation accuracy (%) without T1"),
        *("at the best weight", "at 1 / neurons"),
    )
    return as_markdown(header, sorted(rows, key=lambda row: int(row[0])))


if __name__ == "__main__":
    main()
