"""The first call is timed in a process that finds nothing compiled, and in one that does."""

import pytest

from benchmarks import first_call, report, rows


@pytest.mark.slow
def test_a_later_process_finds_what_the_first_compiled():
    found = first_call.first_and_later(neurons=10)
    first, later = (row["seconds"] for row in found)
    assert [row["process"] for row in found] == ["first", "later"]
    assert later < first
    table = report.first_call_table([rows.as_text(row) for row in found])
    assert f"| 10 | {first} | {later} |" in table
