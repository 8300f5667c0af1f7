"""The comparison in the protocol "today": choices on some splits, confirmed on others.

python -m benchmarks.today plan                    print the number of runs and core-hours
python -m benchmarks.today measure                 do one run of each kind, for the hours in plan
python -m benchmarks.today run STAGE [--jobs 4]    do the missing runs of a stage
python -m benchmarks.today freeze STAGE            choose by the stage's runs, for later stages
python -m benchmarks.today edges                   list chosen values at an end of their grid
python -m benchmarks.today report                  write tables and figures of the confirming runs

The stages, in order, are rates, alone, top and confirm; docs/today.md says what each is for.
"""

from __future__ import annotations

import argparse

from benchmarks.today import declared, report
from benchmarks.today.choices import Frozen
from benchmarks.today.choosing import edges, freeze
from benchmarks.today.stages import STAGES, finished
from benchmarks.today.work import measure, plan, run
from topoloss.compare import report as full_report


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
            found = finished("confirm", Frozen.read())
            folder = declared.FOLDER / "confirm"
            full_report.write(found, folder)
            (folder / "runs.csv").unlink()  # confirm.csv holds the same runs
            report.write(found, folder)


if __name__ == "__main__":
    main()
