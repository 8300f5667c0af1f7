"""The first tables of the comparison, of runs that are made up.

Gains are the same on all splits, but for t1's, whose splits are 1 and 2 points by turns, and for
variance's: nine of ten splits gain nothing and the tenth a point.
"""

from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from benchmarks.today import choices, declared, report, stages
from topoloss.compare import statistics
from topoloss.compare.records import DEATH_BINS, Neurons, Outcome, Run

# Points that an arm gains over none wherever it is alone; t1 adds one to each, and t2 two.
GAINS = {"none": 0, "t1": 1, "t2": 2, "naive": -1, "dropout": 3, "batch-norm": 4, "decov": 5}
ADDED = ("+1.00* [+1.00, +1.00]", "+2.00* [+2.00, +2.00]")


def score(job):
    """0.5 and the gain, on odd splits one point higher and for t1 two."""
    first, _, rest = job.arm.regulariser.partition("+")
    points = GAINS.get(first, 0) + GAINS.get(rest.partition("=")[0], 0)
    odd, tenth = job.seed % 2, job.seed % 10 == 0
    own = odd * (first == "t1" and not rest)
    own += tenth * ("variance" in (first, rest.partition("=")[0]))
    return 0.5 + (points + odd + own) / 100


@pytest.fixture(scope="module")
def found():
    neurons = Neurons((1,) * DEATH_BINS, 0.1, 0.5, 0.9, 0.5, 0)
    whole = Outcome("accuracy", 0.5, 0.5, 10, 1.0, False, 0.0, 90, 38, 50, neurons, neurons)
    few = replace(whole, train_size=10)
    return [
        Run(
            *(job.setup, job.arm, job.seed),
            replace(few if "train=100]" in job.setup.data else whole, test_score=score(job)),
        )
        for job in stages.jobs_of("confirm", choices.stand_in())
    ]


def rows_of(table):
    lines = [line for line in table.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in rows[2:]}


def test_the_first_table_has_gains_with_intervals_and_what_is_added(found):
    rows = rows_of(report.headline(report.of(found, declared.PROBLEMS[0])))
    assert set(rows) == set(declared.GRIDS)
    ordered = list(rows)
    assert (ordered[0], ordered[-1]) == ("decov", "naive")
    assert rows["none"] == ["-", "50.50", "-", "-", "-"]
    assert rows["decov"] == ["0.001", "55.50", "+5.00* [+5.00, +5.00]", *ADDED]
    # Differences of 1 and 2, ten each: 1.5 -+ 2.0930 * 0.51299 / sqrt(20). With 50 / 90 as the
    # ratio of test to training t is 1.5 / sqrt((1 / 20 + 5 / 9) * 0.26316) = 3.757 > 2.093.
    assert rows["t1"] == ["0.001", "52.00", "+1.50* [+1.26, +1.74]", "-", "-"]
    # Twice a point in twenty: the interval leaves 0 in, and so does the test.
    assert rows["variance"] == ["0.1", "50.60", "+0.10 [-0.04, +0.24]", *ADDED]
    assert rows["batch-norm"] == ["-", "54.50", "+4.00* [+4.00, +4.00]", *ADDED]


def test_the_second_table_has_every_problem_and_ranks_over_data_sets(found):
    rows = rows_of(report.by_problem(found))
    names = [problem.name for problem in declared.PROBLEMS]
    assert list(rows) == [*names, "mean rank, 9 data sets"]
    place = {name: k for k, name in enumerate(declared.EVERYWHERE)}
    assert rows["net0 on wine"][place["none"]] == "50.50"
    assert rows["net0 on wine"][place["decov"]] == "+5.00*"
    assert rows["net0 on wine"][place["naive"]] == "-1.00*"
    assert rows["net0 on wine"][place["random-path"]] == "+0.00"
    # t is 1.5 / sqrt((1 / 20 + 50 / 10) * 0.26316) = 1.301: with few training images no star.
    assert rows["net0 on digits"][place["t1"]] == "+1.50*"
    assert rows["net0 on digits[train=100]"][place["t1"]] == "+1.50"
    assert rows["net1 on digits"][place["dropout"]] == "-"
    ranks = rows["mean rank, 9 data sets"]
    order = ("decov", "batch-norm", "dropout", "t2", "t1")
    assert [ranks[place[name]] for name in order] == [f"{k}.00" for k in (1, 2, 3, 4, 5)]
    assert ranks[place["naive"]] == "10.00"
    assert ranks[place["variance"]] == "6.00"
    # none and the two whose gain is 0 share the ranks 7 to 9.
    assert ranks[place["none"]] == ranks[place["random-path"]] == "8.00"


def test_a_tree_is_compared_with_its_controls_on_every_problem(found):
    rows = rows_of(report.beside_controls(found))
    assert list(rows) == [problem.name for problem in declared.PROBLEMS]
    # It gains nothing: as little as random-path, and 5 points less than decov. Variance gains a
    # point on two of twenty splits.
    less = "-0.10 [-0.24, +0.04]"
    assert rows["net0 on wine"] == [less, "+0.00 [+0.00, +0.00]", "-5.00* [-5.00, -5.00]"]


def test_the_legend_tells_what_a_star_takes(found):
    # 2.0930 * sqrt(1 / 20 + 50 / 90), and with 10 training images sqrt(1 / 20 + 50 / 10).
    assert "at least 1.6 standard deviations" in report.headline(
        report.of(found, declared.PROBLEMS[0])
    )
    assert "at least 1.6 to 4.7 standard deviations" in report.by_problem(found)


def test_a_strength_at_an_end_of_its_grid_is_marked(found):
    runs = [
        replace(run, arm=replace(run.arm, weight=0.7)) if run.arm.regulariser == "dropout" else run
        for run in report.of(found, declared.PROBLEMS[0])
    ]
    rows = rows_of(report.headline(runs))
    assert rows["dropout"][0] == "0.7 (highest)"
    assert rows["decov"][0] == "0.001"


def test_the_picture_shows_each_arm_alone_and_with_t1(found):
    figure = report.draw(report.of(found, declared.PROBLEMS[0]))
    (axes,) = figure.axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert set(labels) == set(declared.GRIDS) - {"none"}
    assert labels[-1] == "decov"
    at = {}
    for container in axes.containers:
        line = container.lines[0]
        at.setdefault(labels[round(line.get_ydata()[0])], []).append(line.get_xdata()[0])
    assert at["decov"] == pytest.approx([5, 6])
    assert at["t1"] == pytest.approx([1.5])


def test_a_report_is_written(found, tmp_path):
    report.write(found, tmp_path / "confirm")
    written = {path.name for path in (tmp_path / "confirm").iterdir()}
    assert written == {
        *("headline.md", "headline.png", "problems.md", "controls.md"),
        *("alone-measures.md", "alone-neurons.md"),
    }
    arms = rows_of((tmp_path / "confirm" / "alone-neurons.md").read_text())
    assert set(arms) == set(declared.GRIDS)


def test_what_the_page_says_of_the_confirming_runs_is_what_they_say():
    runs = stages.finished("confirm", choices.Frozen.read())
    page = " ".join((Path(__file__).parents[2] / "docs" / "results.md").read_text("utf-8").split())
    digits = report.of(runs, declared.PROBLEMS[0])
    noisy = {
        name: 100 * fmean(run.outcome.measures.noisy_score for run in of_arm)
        for name, of_arm in statistics.by_regulariser(digits).items()
    }
    assert (
        f"falls to {noisy['t1']:.0f}% with T1 and to {noisy['t2']:.0f}% with T2, but only to "
        f"{noisy['none']:.0f}% without" in page
    )
    assert f"T1 on top of dropout falls to {noisy['t1+dropout=0.2']:.0f}%" in page
    none = statistics.scores(digits)["none"].mean()
    assert f"without a regulariser the accuracy is already {none:.1f}%" in page
    gains = {}
    for problem in declared.PROBLEMS:
        scores = statistics.scores(report.of(runs, problem))
        gains[problem.data] = (scores.sub(scores["none"], axis=0)).mean()
    spirals, friedman3 = gains["spirals"], gains["friedman3"]
    assert f"T1 gains {spirals['t1']:.1f} points on spirals" in page
    assert f"every regulariser gains {spirals.drop('none').min():.1f} points or more" in page
    assert (
        f"On friedman3 T1 gains {friedman3['t1']:.1f} points, and DeCov {friedman3['decov']:.1f}. "
        f"On teacher T1 loses {-gains['teacher']['t1']:.1f}." in page
    )
    assert report.by_problem(runs).count("*") == 3
