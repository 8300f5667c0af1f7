import csv
from dataclasses import replace

import pytest

import topoloss
from topoloss.compare.paper.protocols import setup
from topoloss.compare.records import Arm, Run, Setup
from topoloss.compare.runs import joined, read, write


@pytest.fixture
def runs(outcome):
    return [
        Run(Setup(), Arm("none", 0.0), 0, outcome(1 / 3, 0.1 + 0.2)),
        Run(setup("net1", "a:b", "faithful"), Arm("t1", 1e-5), 7, outcome(0.9, 0.8)),
        Run(Setup(), Arm("t2", 5.0), 1, outcome(0.1, 0.1, diverged=True, off=0.25)),
    ]


def test_runs_are_read_back_as_they_were(runs, tmp_path):
    write(runs, tmp_path / "runs.csv")
    assert read(tmp_path / "runs.csv") == runs


def test_of_runs_of_one_arm_on_one_split_the_first_is_kept(runs, outcome):
    again = [replace(run, outcome=outcome(0.4, 0.4)) for run in runs]
    other = replace(runs[0], seed=1)
    assert joined(runs[:2], again, [other]) == [*runs[:2], again[2], other]


def test_columns_are_in_the_documented_order(runs, tmp_path):
    write(runs, tmp_path / "runs.csv")
    header = (tmp_path / "runs.csv").read_text(encoding="utf-8").split("\n")[0].strip().split(",")
    assert header[:3] == ["model", "data", "batch_size"]
    assert header.index("divide_twice") + 1 == header.index("regulariser")
    assert header[header.index("regulariser") :][:4] == [
        *("regulariser", "weight", "seed", "metric")
    ]
    after = header.index("after_constant")
    assert header[after - 11] == "before_deaths"
    assert header[after + 1 :][:2] == ["step_seconds", "cpu_seconds"]
    assert header[-2:] == ["effective_rank", "fixed_test"]


def test_files_of_earlier_versions_are_read_without_what_came_later(runs, tmp_path):
    later = {"optimiser", "initialisation", "warmup", "step_seconds", "cpu_seconds"}
    later |= {"ece", "nll", "temperature", "scaled_ece", "scaled_nll"}
    later |= {"noisy_score", "masked_score", "effective_rank"}
    path = tmp_path / "runs.csv"
    write(runs, path)
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    with path.open("w", newline="", encoding="utf-8") as file:
        kept = [name for name in rows[0] if name not in later]
        writer = csv.DictWriter(file, kept, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    assert len(kept) == len(rows[0]) - len(later)
    assert read(path) == runs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("weight", "wait", 1), r"columns differ in \['wait', 'weight'\]"),
        (lambda text: text.replace("t2,5.0", "t2,much"), "line 4 holds no run: could not convert"),
        (lambda text: text.replace("True", "yes"), "line 2 holds no run: 'yes'"),
        (lambda text: text.strip() + ",1", r"line 4 holds no run: .* Restore the file"),
        (lambda text: "", "is empty. Restore it, or delete it, and repeat"),
        (lambda text: text[: len(text) // 2], r"line \d holds no run: it has \d+ values, expected"),
        (lambda text: text[:100], "its columns differ"),
        # An older file may lack the optimiser.
        (lambda text: "no,{}".format(text.replace("optimiser,", "", 1)), r"differ in \['no'\]"),
        (lambda text: text.replace("t2", "x" * 200_000), "cannot be read"),
    ],
)
def test_a_file_that_holds_no_runs_is_refused(runs, tmp_path, change, message):
    path = tmp_path / "runs.csv"
    write(runs, path)
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(topoloss.InputError, match=message):
        read(path)


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(topoloss.InputError, match=r"cannot be read from .*none\.csv"):
        read(tmp_path / "none.csv")
