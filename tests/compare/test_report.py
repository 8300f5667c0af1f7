import csv

import pytest

from topoloss.compare import report
from topoloss.compare.sweep import Arm, Run

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def runs(outcome):
    return [
        Run(Arm("none", 0.0), 0, outcome(0.90, 0.91)),
        Run(Arm("none", 0.0), 1, outcome(0.92, 0.93)),
        Run(Arm("t1", 0.1), 0, outcome(0.99, 0.94)),
        Run(Arm("t1", 0.1), 1, outcome(0.95, 0.97)),
        Run(Arm("t1", 0.01), 0, outcome(0.93, 0.95)),
        Run(Arm("t1", 0.01), 1, outcome(0.90, 0.97)),
    ]


def test_the_weight_is_chosen_by_validation_and_a_tie_by_the_least(runs):
    weights = [run.arm.weight for run in report.select(runs)["t1"]]
    # Split 0: 0.95 beats 0.94, whatever the test accuracy. Split 1: a tie.
    assert weights == [0.01, 0.01]


def test_rows_by_hand(runs):
    none, t1 = report.summarise(runs)
    assert (none.regulariser, t1.regulariser) == ("none", "t1")
    assert none.gain is None
    assert none.accuracy == pytest.approx(91.0)
    assert none.deviation == pytest.approx(2**0.5)
    assert t1.accuracy == pytest.approx(91.5)
    assert t1.gain == pytest.approx(((93 - 90) + (90 - 92)) / 2)
    assert t1.weights == (0.01,)


def test_one_split_has_no_deviation(outcome):
    rows = report.summarise([Run(Arm("none", 0.0), 0, outcome(0.9, 0.9))])
    assert "| 90.00 |" in report.markdown(rows)


def test_without_none_there_is_no_gain(runs):
    assert [row.gain for row in report.summarise(runs[2:])] == [None]


def test_diverged_runs_are_marked(outcome):
    runs = [Run(Arm("t1", 1.0), 0, outcome(0.1, 0.1, diverged=True))]
    assert "(1 diverged)" in report.markdown(report.summarise(runs))


def test_markdown_has_one_line_for_each_regulariser(runs):
    lines = report.markdown(report.summarise(runs)).splitlines()
    assert lines[2:] == [
        "| none | - | 91.00 ± 1.41 | - | 10 | 1.0 |",
        "| t1 | 0.01 | 91.50 ± 2.12 | +0.50 | 10 | 1.0 |",
    ]


def test_written_files_hold_every_run(runs, tmp_path):
    table, rows, figure = report.write(runs, tmp_path)
    assert table.read_text(encoding="utf-8") == report.markdown(report.summarise(runs))
    with rows.open(encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert [(r["regulariser"], float(r["weight"]), int(r["seed"])) for r in read] == [
        (run.arm.regulariser, run.arm.weight, run.seed) for run in runs
    ]
    assert [float(r["test_accuracy"]) for r in read] == [r.outcome.test_accuracy for r in runs]
    assert figure.read_bytes().startswith(PNG)


def test_a_figure_that_fails_leaves_the_old_one(runs, tmp_path):
    path = tmp_path / "figure.png"
    report.plot(report.select(runs), path)
    before = path.read_bytes()
    with pytest.raises(StopIteration):
        report.plot({}, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
