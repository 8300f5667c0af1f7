"""Plant bugs and run the tests of their package; goes on where an earlier run ended.

    python -m tests.mutants run [core attaching mst triton plugins] [--size 300] [--jobs 1]
    python -m tests.mutants run --survivors
    python -m tests.mutants report

A survivor that is no bug, or is not worth a test, gets its reason in `reasons.csv`.
"""

from __future__ import annotations

import argparse
import ast
import csv
import os
import sys
import tempfile
from difflib import unified_diff
from itertools import chain, zip_longest
from multiprocessing import get_context
from pathlib import Path

from tests.mutants.executed import Executed
from tests.mutants.mutants import PACKAGES, Mutant, sample
from tests.mutants.results import COLUMNS, NO_PROGRAM, RESULTS, found, rows
from tests.mutants.trials import copy_of, first_failure, recorded

ROOT = Path(__file__).parents[2]
# Which tests run which lines, kept for the next run.
RECORDED = ROOT / "runs" / "executed.pickle"
FEW = 60
# Seconds that what tests share may take, whichever of them sets it up.
AT_FIRST = 300
# Seconds of tests, as they took when their lines were recorded: a survivor would run all of them.
ENOUGH = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("run", "report"))
    parser.add_argument("packages", nargs="*", default=list(PACKAGES))
    parser.add_argument("--size", type=int, default=300, help="mutants of each package")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--survivors", action="store_true", help="try those that survived again")
    given = parser.parse_args()
    if given.command == "run":
        run(given.packages, given.size, given.jobs, given.survivors)
    sys.exit(0 if report() else 1)


def run(packages: list[str], size: int, jobs: int, survivors: bool) -> None:
    """Try the mutants of each package's sample that have no result yet."""
    last = {row["key"]: row["noticed_by"] for row in rows(RESULTS)}
    done = {key for key, noticed_by in last.items() if noticed_by or not survivors}
    samples = [[(name, m) for m in sample(ROOT, PACKAGES[name], size)] for name in packages]
    # In turn, so that what a run that ends early has tried is a sample of each package.
    turns = chain.from_iterable(zip_longest(*samples))
    pending = [each for each in turns if each and each[1].key not in done]
    if not RESULTS.exists():
        RESULTS.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        copies = [copy_of(ROOT, Path(folder).resolve() / str(job)) for job in range(jobs)]
        tests = {test for name in packages for test in PACKAGES[name].tests}
        executed = recorded(copies, sorted(tests), RECORDED)
        processes = [
            get_context("fork").Process(target=share, args=(copy, pending[k::jobs], executed))
            for k, copy in enumerate(copies)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()


def share(copy: Path, pending: list[tuple[str, Mutant]], executed: Executed) -> None:
    """Try mutants one by one in a copy of the repository."""
    for name, mutant in pending:
        try_one(copy, name, mutant, executed)


def try_one(copy: Path, name: str, mutant: Mutant, executed: Executed) -> None:
    """Plant a bug, run the tests that run its line, and take it out again."""
    tests = executed.tests_of(copy, mutant.file, mutant.line, PACKAGES[name].tests, ENOUGH)
    path = copy / mutant.file
    source, before = path.read_text(encoding="utf-8"), path.stat()
    planted = mutant.planted_in(source)
    path.write_text(planted, encoding="utf-8")
    # Python tells by a file's time whether to compile it again: each mutant has a time of its own.
    os.utime(path, (0, int(mutant.key[:7], 16)))
    try:
        noticed_by = "" if _is_program(planted) else NO_PROGRAM
        # Most are noticed by one of the first tests, and collecting all the others takes seconds.
        for some in filter(None, (tests[:FEW], tests[FEW:])):
            limit = AT_FIRST + 10 * sum(executed.seconds[test] for test in some)
            noticed_by = noticed_by or first_failure(copy, some, limit, "compiled" in source)
    finally:
        path.write_text(source, encoding="utf-8")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    append(name, mutant, noticed_by, source, planted)


def _is_program(code: str) -> bool:
    try:
        ast.parse(code)
    except SyntaxError:
        return False
    return True


def append(package: str, mutant: Mutant, noticed_by: str, source: str, planted: str) -> None:
    diff = unified_diff(source.splitlines(), planted.splitlines(), n=0)
    added = [line[1:].strip() for line in diff if line[:1] == "+" != line[1:2]]
    row = (
        package, mutant.key, noticed_by, mutant.file, mutant.line,
        mutant.spec.operator_name.removeprefix("core/"), mutant.code, " ".join(added),
    )  # fmt: skip
    with RESULTS.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerow(row)


def report() -> bool:
    """Print how many were noticed, and who survived; return whether enough were noticed."""
    counted = found()
    for package, of_package in counted.items():
        print(f"{package}: {of_package}")
        for row in of_package.survivors:
            what = f"{row['file']}:{row['line']} {row['operator']}: {row['change']}"
            print(f"  {row['key']} {what} ({row['reason']})")
    return all(of_package.are_enough for of_package in counted.values())


if __name__ == "__main__":
    main()
