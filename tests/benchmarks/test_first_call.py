"""The first call is timed in a process that finds nothing compiled, and in one that does."""

import subprocess
from pathlib import Path

import pytest

from benchmarks import first_call, report, rows


@pytest.mark.slow
def test_a_later_process_compiles_nothing(monkeypatch):
    run, compiled = subprocess.run, []

    def noting(*arguments, env, **options):
        done = run(*arguments, env=env, **options)
        files = Path(env["NUMBA_CACHE_DIR"]).rglob("*.nb?")
        compiled.append({(path.name, path.stat().st_mtime_ns) for path in files})
        return done

    monkeypatch.setattr(subprocess, "run", noting)
    found = first_call.first_and_later(neurons=10)
    after_first, after_later = compiled
    assert after_first
    assert after_later == after_first
    first, later = (row["seconds"] for row in found)
    assert [row["process"] for row in found] == ["first", "later"]
    table = report.first_call_table([rows.as_text(row) for row in found])
    assert f"| 10 | {first} | {later} |" in table
