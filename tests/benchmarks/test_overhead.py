"""The overhead that is measured is that of the steps that the penalty chose."""

import pytest
import torch
from torch import nn

from benchmarks import overhead, report, rows


def tiny():
    return overhead.Case(
        lambda: nn.Sequential(nn.Linear(4, 30), nn.ReLU(), nn.Linear(30, 10)),
        lambda: torch.randn(16, 4),
    )


def test_turns_are_whole_periods():
    row = overhead.measured(tiny(), turns=3, steps=2)
    every, length = row["every"], row["steps_of_a_turn"]
    assert every >= 1
    assert length % every == 0
    assert 2 <= length < 2 + every
    assert row["turns"] == 3
    assert row["plain_ms"] > 0
    assert row["with_penalty_ms"] > 0


@pytest.mark.parametrize("name", overhead.CASES)
def test_the_models_take_their_inputs(name):
    case = overhead.CASES[name]
    with torch.no_grad():
        assert case.model()(case.inputs()[:2]).shape == (2, 10)


def test_a_measurement_goes_on_where_it_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(overhead, "OVERHEAD", tmp_path / "overhead.csv")
    monkeypatch.setattr(overhead, "CASES", {"tiny": tiny()})
    monkeypatch.setattr("sys.argv", ["overhead", "--model", "tiny"])
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)  # not of other tests
    measured = []
    real = overhead.measured

    def once(case):
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(case)
        return real(case, turns=1, steps=1)

    monkeypatch.setattr(overhead, "measured", once)
    with pytest.raises(KeyboardInterrupt):
        overhead.main()
    assert [row["repetition"] for row in rows.read(overhead.OVERHEAD)] == ["0", "1"]
    measured.clear()
    monkeypatch.setattr(overhead, "REPETITIONS", 4)
    overhead.main()
    found = rows.read(overhead.OVERHEAD)
    assert [row["repetition"] for row in found] == ["0", "1", "2", "3"]


def test_the_table_has_a_line_for_each_model():
    rows = [
        {"model": model, "every": every, "overhead": overhead}
        for model, every, overhead in (("a", "7", "0.1"), ("a", "9", "0.14"), ("a", "8", "0.08"))
    ] + [{"model": "b", "every": "3", "overhead": "-0.02"}]
    table = report.overhead_table(rows)
    assert "| a | 3 | 7 to 9 | 10 | 8 | 14 |" in table
    assert "| b | 1 | 3 to 3 | -2 | -2 | -2 |" in table
