"""Plant bugs and run the tests of their package; goes on where an earlier run ended.

    python -m tests.mutants run [core attaching mst plugins] [--size 300] [--jobs 1]
    python -m tests.mutants report

A survivor that is no bug, or is not worth a test, gets its reason in `reasons.csv`.
"""

from __future__ import annotations

import argparse
import csv
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from cosmic_ray.mutating import mutate_and_test

from tests.mutants.mutants import PACKAGES, Mutant, sample

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results.csv"
REASONS = Path(__file__).parent / "reasons.csv"
COPIED = ("topoloss", "plugins", "pytest_topoloss", "tests", "benchmarks", "docs", "pyproject.toml")
COLUMNS = ("package", "key", "outcome", "file", "line", "operator", "code", "change")
# Longer than any package's tests take: an endless loop counts as noticed.
SECONDS = 1200
AT_LEAST = 0.9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("run", "report"))
    parser.add_argument("packages", nargs="*", default=list(PACKAGES))
    parser.add_argument("--size", type=int, default=300, help="mutants of each package")
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    if given.command == "run":
        for package in given.packages:
            run(package, given.size, given.jobs)
    sys.exit(0 if report(given.size) else 1)


def run(package: str, size: int, jobs: int) -> None:
    """Try the mutants of a sample that have no result yet."""
    done = {row["key"] for row in rows(RESULTS)}
    pending = [m.key for m in sample(ROOT, PACKAGES[package], size) if m.key not in done]
    with ProcessPoolExecutor(jobs) as workers:
        shares = [pending[k::jobs] for k in range(jobs)]
        for _ in workers.map(share, [package] * jobs, shares, [size] * jobs):
            pass


def share(package: str, keys: list[str], size: int) -> None:
    """Try mutants one by one in a copy of the repository."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder).resolve()
        for name in COPIED:
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / name)
        os.chdir(copy)
        os.environ["PYTHONPATH"] = f"{copy}:{copy / 'plugins'}"
        os.environ["NUMBA_CACHE_DIR"] = str(copy / "numba")
        tests = " ".join(PACKAGES[package].tests)
        command = f"{sys.executable} -m pytest -x -q -p no:cacheprovider {tests}"
        if keys:
            # If the tests fail as they are, they notice nothing.
            subprocess.run(shlex.split(command), check=True)
        for mutant in sample(copy, PACKAGES[package], size):
            if mutant.key in keys:
                result = mutate_and_test([mutant.spec], command, SECONDS)
                append(package, mutant, str(result.test_outcome.value), result.diff or "")


def append(package: str, mutant: Mutant, outcome: str, diff: str) -> None:
    added = [line[1:].strip() for line in diff.splitlines() if line[:1] == "+" != line[1:2]]
    row = (
        package, mutant.key, outcome, mutant.file, mutant.line,
        mutant.spec.operator_name.removeprefix("core/"), mutant.code, " ".join(added),
    )  # fmt: skip
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(COLUMNS)
        writer.writerow(row)


def rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def report(size: int) -> bool:
    """Print how many were noticed, and who survived; return whether enough were noticed."""
    reasons = {row["key"]: row for row in rows(REASONS)}
    results = {row["key"]: row for row in rows(RESULTS)}
    enough = True
    for name, package in PACKAGES.items():
        found = [results[m.key] for m in sample(ROOT, package, size) if m.key in results]
        alike = [r for r in found if reasons.get(r["key"], {}).get("verdict") == "equivalent"]
        killed = sum(r["outcome"] != "survived" for r in found)
        counted = len(found) - len(alike)
        print(f"{name}: {killed} of {counted} noticed, {len(alike)} equivalent")
        enough &= killed >= AT_LEAST * counted
        for r in found:
            if r["outcome"] == "survived" and r not in alike:
                why = reasons.get(r["key"], {}).get("reason", "no reason yet")
                print(f"  {r['file']}:{r['line']} {r['operator']}: {r['change']}  ({why})")
    return enough


if __name__ == "__main__":
    main()
