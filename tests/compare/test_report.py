import csv
import re
from dataclasses import replace

import pytest

import topoloss
from topoloss.compare import report
from topoloss.compare.networks import protocol as usual
from topoloss.compare.runs import Arm, Problem, Run, read
from topoloss.compare.statistics import select
from topoloss.compare.training import Protocol, protocol

PNG = b"\x89PNG\r\n\x1a\n"
PARTS = ("table.md", "ranks.md", "differences.md", "weights.md", "neurons.md")
FILES = sorted([*PARTS, "figure.png", "report.md", "runs.csv", "weights.png"])


def of(problem, outcome, *results):
    return [
        Run(problem, Arm(name, weight), seed, outcome(test, validation))
        for name, weight, seed, test, validation in results
    ]


@pytest.fixture
def runs(outcome):
    return of(
        Problem(),
        outcome,
        ("none", 0.0, 0, 0.90, 0.91),
        ("none", 0.0, 1, 0.92, 0.93),
        ("t1", 0.1, 0, 0.99, 0.94),
        ("t1", 0.1, 1, 0.95, 0.97),
        ("t1", 0.01, 0, 0.93, 0.95),
        ("t1", 0.01, 1, 0.90, 0.97),
    )


@pytest.fixture
def three(runs, outcome):
    """With a third regulariser, so that ranks can be tested."""
    return runs + of(Problem(), outcome, ("l2", 0.1, 0, 0.80, 0.8), ("l2", 0.1, 1, 0.81, 0.8))


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_rows_by_hand(runs):
    none, t1 = report.summarise(runs)
    assert (none.regulariser, t1.regulariser) == ("none", "t1")
    assert none.gain is None
    assert none.score == pytest.approx(91.0)
    assert none.deviation == pytest.approx(2**0.5)
    assert t1.score == pytest.approx(91.5)
    assert t1.gain == pytest.approx(((93 - 90) + (90 - 92)) / 2)
    assert t1.weights == {0.01: 2}


def test_each_weight_is_told_with_its_number_of_splits(runs):
    chosen = [replace(runs[4], seed=2), replace(runs[5], seed=3), *runs[:4]]
    assert "| 0.01 x 2, 0.1 x 2 |" in report.markdown(report.summarise(chosen))


def test_one_split_has_no_deviation(runs):
    assert "| 90.00 |" in report.markdown(report.summarise(runs[:1]))


def test_without_none_there_is_no_gain(runs):
    assert [row.gain for row in report.summarise(runs[2:])] == [None]


def test_a_gain_is_of_the_splits_that_have_a_baseline(runs):
    assert report.summarise([runs[0], *runs[4:]])[1].gain == pytest.approx(93 - 90)


def test_diverged_runs_are_marked(outcome):
    runs = [Run(Problem(), Arm("t1", 1.0), 0, outcome(0.1, 0.1, diverged=True))]
    assert "(1 diverged)" in report.markdown(report.summarise(runs))


def test_runs_that_the_limit_of_epochs_ended_are_told(outcome):
    problem = Problem(protocol=Protocol(max_epochs=10))
    at_limit = [Run(problem, Arm("none", 0.0), seed, outcome(0.1, 0.1)) for seed in (0, 1)]
    assert "(2 stopped at the limit of epochs)" in report.markdown(report.summarise(at_limit))
    stopped_before = [replace(run, outcome=replace(run.outcome, epochs=9)) for run in at_limit]
    assert "limit" not in report.markdown(report.summarise(stopped_before))


def test_the_score_of_a_regression_has_its_name(outcome, tmp_path):
    runs = [Run(Problem(data="diabetes"), Arm("none", 0.0), 0, outcome(0.5, 0.4, metric="R2"))]
    assert "| test R2 (%) |" in text_of(runs, tmp_path)


def test_markdown_has_one_line_for_each_regulariser(runs):
    lines = report.markdown(report.summarise(runs)).splitlines()
    assert lines[2:] == [
        "| none | - | 2 | 91.00 ± 1.41 | - | 10 | 1.0 |",
        "| t1 | 0.01 | 2 | 91.50 ± 2.12 | +0.50 | 10 | 1.0 |",
    ]


def test_written_files_are_whole(runs, tmp_path):
    paths = report.write(runs, tmp_path)
    assert names_in(tmp_path) == sorted(path.name for path in paths) == FILES
    table = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert table == report.markdown(report.summarise(runs)) + "\n"
    whole = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert all((tmp_path / part).read_text(encoding="utf-8").strip() in whole for part in PARTS)
    assert read(tmp_path / "runs.csv") == runs
    for name in ("figure.png", "weights.png"):
        assert (tmp_path / name).read_bytes().startswith(PNG)


def test_the_file_of_runs_has_plain_columns(runs, tmp_path):
    report.write(runs, tmp_path)
    with (tmp_path / "runs.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(r["regulariser"], float(r["weight"]), int(r["seed"])) for r in rows] == [
        (run.arm.regulariser, run.arm.weight, run.seed) for run in runs
    ]
    assert [float(r["test_score"]) for r in rows] == [r.outcome.test_score for r in runs]


def text_of(runs, folder):
    report.write(runs, folder)
    return (folder / "report.md").read_text(encoding="utf-8")


def test_two_regularisers_are_not_ranked_and_the_report_says_so(runs, tmp_path):
    assert "No test of ranks: 2 treatments on 2 blocks" in text_of(runs, tmp_path)


def test_the_report_tells_ranks_and_differences_by_hand(three, tmp_path):
    text = text_of(three, tmp_path)
    assert names_in(tmp_path) == sorted([*FILES, "critical_difference.png"])
    # Ranks: none 2 1, t1 1 2, l2 3 3; 12 / (2 * 3 * 4) * (9 + 9 + 36) - 3 * 2 * 4 = 3.
    assert "over 2 blocks: statistic 3, p = 0.223" in text
    assert "splits of one data set, which are not independent" in text
    assert re.search(r"\| none \| 1\.50 \|.*\n\| t1 \| 1\.50 \|.*\n\| l2 \| 3\.00 \|", text)
    # Differences 3 and -2: resampled means lie between. Variance 12.5, (1/2 + 800/997) * 12.5.
    assert "| t1 | 2 | +0.50 | -2.00 to +3.00 | 0.12 |" in text
    assert f"![{'weights.png'}](weights.png)" in text


def test_the_report_tells_neurons_and_time(outcome, tmp_path):
    runs = [
        Run(Problem(), Arm("none", 0.0), 0, outcome(0.9, 0.9, seconds=2.0, epochs=20)),
        Run(Problem(), Arm("t1", 0.1), 0, outcome(0.9, 0.9, seconds=3.0, epochs=10, off=0.75)),
    ]
    # Seven neurons more, which are constant: of 13 * 12 pairs 6 * 5 have a correlation.
    after = runs[1].outcome.after
    after = replace(after, deaths=(*after.deaths[:-1], 7), constant=7)
    runs[1] = replace(runs[1], outcome=replace(runs[1].outcome, after=after))
    text = text_of(runs, tmp_path)
    # Deaths all lie in the bins 10 and 40 of 50.
    assert "| none | 0 | 0 | 0.790 | 0.190 | 0.21 | 0.81 | 0.0 | 100.0 | 1.00 |" in text
    assert "| t1 | 0 | 7 | 0.790 | 0.988 | 0.21 | 0.81 | 75.0 | 300.0 | 3.00 |" in text


def test_the_report_tells_every_weight(runs, tmp_path):
    report.write(runs, tmp_path)
    text = (tmp_path / "weights.md").read_text(encoding="utf-8")
    assert "| t1 | 0.01 | 2 | 96.00 | 95.00 | 2 |" in text
    assert "| t1 | 0.1 | 2 | 95.50 | 94.00 | 0 |" in text


def test_several_problems_have_their_own_sections_and_are_blocks(three, outcome, tmp_path):
    other = Problem("net2")
    runs = three + [Run(other, run.arm, run.seed, run.outcome) for run in three]
    text = text_of(runs, tmp_path)
    assert "## net0 on digits, training-forward" in text
    assert "## net2 on digits, training-forward" in text
    across = text.split("## Problems as blocks")[1]
    # Means 91, 91.5 and 80.5 on both.
    assert "over 2 blocks: statistic 4," in across
    assert re.search(r"\| none \| 2\.00 .*\n\| t1 \| 1\.00 .*\n\| l2 \| 3\.00", across)
    assert {"figure-2.png", "table-2.md", "weights-2.png"} <= set(names_in(tmp_path))
    assert (tmp_path / "across.md").read_text(encoding="utf-8").strip() in text


def test_networks_that_are_trained_at_other_rates_are_blocks_of_one_test(three, tmp_path):
    other = Problem("vgg256", "cifar10", protocol("training-forward", usual("vgg256")))
    runs = three + [Run(other, run.arm, run.seed, run.outcome) for run in three]
    across = text_of(runs, tmp_path).split("## Problems as blocks")[1]
    assert across.count("###") == 1
    assert "over 2 blocks" in across


def test_differences_are_of_each_regularisers_own_splits(three, outcome, tmp_path):
    more = of(
        Problem(),
        outcome,
        *(("none", 0.0, s, 0.9, 0.9) for s in (2, 3)),
        *(("t1", 0.01, s, 0.9, 0.96) for s in (2, 3)),
    )
    text = text_of(three + more, tmp_path)
    assert "| t1 | 4 | +0.25 |" in text
    assert "| l2 | 2 | -10.50 |" in text


def test_a_test_part_that_is_always_the_same_licenses_no_corrected_test(runs, tmp_path):
    fixed = [replace(run, fixed_test=True) for run in runs]
    text = text_of(fixed, tmp_path)
    assert "| t1 | 2 | +0.50 | -2.00 to +3.00 | - | - |" in text
    assert "nothing is said of other test samples" in text


def test_a_weight_of_zero_that_was_chosen_is_told(runs):
    zero = [replace(runs[0], arm=Arm("t1", 0.0), seed=s) for s in (5, 6)]
    assert "| 0 x 2, 0.01 x 2 |" in report.markdown(report.summarise(runs + zero))


def test_a_report_removes_what_an_earlier_one_has_more_and_nothing_else(three, tmp_path):
    other = Problem("net2")
    report.write(three + [Run(other, r.arm, r.seed, r.outcome) for r in three], tmp_path)
    (tmp_path / "figure-of-mine.png").write_bytes(b"mine")
    report.write(three[:6], tmp_path)
    assert names_in(tmp_path) == sorted([*FILES, "figure-of-mine.png"])


def test_runs_that_are_not_reported_stay_in_the_file(runs, tmp_path):
    report.write(runs[:2], tmp_path, also=runs)
    assert read(tmp_path / "runs.csv") == runs
    assert "t1" not in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_protocols_are_no_blocks_of_one_another(three, tmp_path):
    faithful = Problem(protocol=protocol("faithful"))
    runs = three + [Run(faithful, run.arm, run.seed, run.outcome) for run in three]
    across = text_of(runs, tmp_path).split("## Problems as blocks")[1]
    assert "### training-forward, stopped by 20 epochs without a better loss, or 1200" in across
    assert "### faithful" in across
    assert across.count("on 1 blocks were given") == 2


def test_no_runs_make_no_report(tmp_path):
    with pytest.raises(topoloss.InputError, match="no finished runs"):
        report.write([], tmp_path)


def test_a_figure_that_fails_leaves_the_old_one(runs, tmp_path, monkeypatch):
    path = tmp_path / "figure.png"
    report.plot(select(runs), path)
    before = path.read_bytes()

    def fail(figure, file, **options):
        file.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    with pytest.raises(OSError, match="no space left"):
        report.plot(select(runs), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
