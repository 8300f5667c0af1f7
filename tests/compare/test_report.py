import csv
import re
from dataclasses import replace

import pytest

import topoloss
from topoloss.compare import protocols, report, tables
from topoloss.compare.paper.protocols import setup
from topoloss.compare.records import Arm, Run, Setup
from topoloss.compare.runs import read
from topoloss.compare.statistics import select

PNG = b"\x89PNG\r\n\x1a\n"
PARTS = ("table.md", "ranks.md", "differences.md", "weights.md", "neurons.md")
FILES = sorted([*PARTS, "figure.png", "report.md", "runs.csv", "weights.png"])


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_written_files_are_whole_and_their_folder_is_made(runs, tmp_path):
    folder = tmp_path / "new" / "folder"
    paths = report.write(runs, folder)
    assert names_in(folder) == sorted(path.name for path in paths) == FILES
    table = (folder / "table.md").read_text(encoding="utf-8")
    assert table == tables.summary(tables.summarise(runs)) + "\n"
    whole = (folder / "report.md").read_text(encoding="utf-8")
    assert all((folder / part).read_text(encoding="utf-8").strip() in whole for part in PARTS)
    assert read(folder / "runs.csv") == runs
    for name in ("figure.png", "weights.png"):
        assert (folder / name).read_bytes().startswith(PNG)


def test_the_file_of_runs_has_plain_columns(runs, tmp_path, undrawn):
    report.write(runs, tmp_path)
    with (tmp_path / "runs.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(r["regulariser"], float(r["weight"]), int(r["seed"])) for r in rows] == [
        (run.arm.regulariser, run.arm.weight, run.seed) for run in runs
    ]
    assert [float(r["test_score"]) for r in rows] == [r.outcome.test_score for r in runs]


@pytest.fixture
def text_of(undrawn):
    """Write a report; its text."""

    def write(runs, folder):
        report.write(runs, folder)
        return (folder / "report.md").read_text(encoding="utf-8")

    return write


def test_two_regularisers_are_not_ranked_and_the_report_says_so(runs, tmp_path, text_of):
    assert "No test of ranks: 2 treatments on 2 blocks" in text_of(runs, tmp_path)


def test_the_report_tells_ranks_and_differences_by_hand(three, tmp_path, text_of):
    text = text_of(three, tmp_path)
    assert names_in(tmp_path) == sorted([*FILES, "critical_difference.png"])
    # Ranks: none 2 1, t1 1 2, l2 3 3; 12 / (2 * 3 * 4) * (9 + 9 + 36) - 3 * 2 * 4 = 3.
    assert "over 2 blocks: statistic 3, p = 0.223" in text
    assert "splits of one data set, which are not independent" in text
    assert re.search(r"\| none \| 1\.50 \|.*\n\| t1 \| 1\.50 \|.*\n\| l2 \| 3\.00 \|", text)
    # Differences 3 and -2: resampled means lie between. Variance 12.5, t of 95% 12.706.
    assert "| t1 | none | 2 | +0.50 | -2.00 to +3.00 | -31.27 to +32.27 |" in text
    assert "![weights.png](weights.png)" in text


def test_each_section_begins_with_its_protocol(three, tmp_path, text_of):
    """Settings that earlier versions lacked are listed where they are not the default."""
    today = protocols.setup("net0", "wine", "today")
    text = text_of(three + [replace(run, setup=today) for run in three], tmp_path)
    ours, theirs = re.findall("^Protocol: (.*)$", text, re.MULTILINE)
    assert "batch_size 256, max_epochs 1200, patience 20, learning_rate 0.01," in ours
    assert "optimiser" not in ours
    assert "max_epochs 400, patience 100, learning_rate 0.001," in theirs
    assert "optimiser adamw, initialisation he, warmup 30" in theirs


def test_several_setups_have_their_own_sections_and_data_sets_are_blocks(three, tmp_path, text_of):
    others = [Setup("net2"), Setup("net0", "digits[train=100]"), Setup("net0", "wine")]
    runs = three + [Run(other, r.arm, r.seed, r.outcome) for other in others for r in three]
    text = text_of(runs, tmp_path)
    assert "## net0 on digits, default" in text
    assert "## net2 on digits, default" in text
    across = text.split("## Data sets as blocks")[1]
    # Means 91, 91.5 and 80.5 on all four, of which three share their samples.
    assert "over 2 blocks: statistic 4," in across
    assert "digits (3 setups), wine (1 setup)" in across
    assert re.search(r"\| none \| 2\.00 .*\n\| t1 \| 1\.00 .*\n\| l2 \| 3\.00", across)
    assert {"figure-2.png", "table-2.md", "weights-2.png"} <= set(names_in(tmp_path))
    assert (tmp_path / "across.md").read_text(encoding="utf-8").strip() in text


@pytest.mark.parametrize(
    "others",
    [
        [setup("vgg256", "cifar10")],
        [protocols.setup("net0", "wine", "today", monitor="score", learning_rate=0.01)],
    ],
)
def test_networks_that_are_trained_at_other_rates_are_rows_of_one_test(
    three, others, tmp_path, text_of
):
    first = protocols.setup("net0", "digits", protocols.name_of(others[0]))
    runs = [Run(each, r.arm, r.seed, r.outcome) for each in (first, *others) for r in three]
    across = text_of(runs, tmp_path).split("## Data sets as blocks")[1]
    assert across.count("###") == 1
    assert "over 2 blocks" in across


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        ({}, {"patience": 3, "max_epochs": 40, "warmup": 0}, "patience 3"),
        ({"batch_size": 32}, {"batch_size": 64}, "batch_size 64"),
    ],
)
def test_setups_that_differ_in_more_than_a_rate_are_no_rows_of_one_test(
    three, one, other, told, tmp_path, text_of
):
    setups = [
        protocols.setup("net0", data, "today", **changes)
        for data, changes in (("digits", one), ("wine", other))
    ]
    runs = [Run(each, r.arm, r.seed, r.outcome) for each in setups for r in three]
    across = text_of(runs, tmp_path).split("## Data sets as blocks")[1]
    assert across.count("###") == 2
    assert told in across


def test_arms_that_some_setups_lack_are_told(three, tmp_path, text_of):
    wine = Setup("net0", "wine")
    l1 = [replace(r, arm=Arm("l1", 0.1)) for r in three[:2]]
    runs = three + l1 + [replace(r, setup=wine) for r in three]
    text = text_of(runs, tmp_path)
    assert "Left out, as some setups have no runs of them: l1." in text


def test_arms_of_one_weight_are_not_said_to_be_chosen(runs, tmp_path, text_of):
    assert "is chosen on each split" in text_of(runs, tmp_path)
    one = {run.arm.regulariser: run.arm.weight for run in runs}
    fixed = [run for run in runs if run.arm.weight == one[run.arm.regulariser]]
    text = text_of(fixed, tmp_path)
    assert "is chosen on each split" not in text
    assert "Every regulariser was tried at one weight." in text


def test_a_report_removes_what_an_earlier_one_has_more_and_nothing_else(three, tmp_path, undrawn):
    other = Setup("net2")
    report.write(three + [Run(other, r.arm, r.seed, r.outcome) for r in three], tmp_path)
    (tmp_path / "figure-of-mine.png").write_bytes(b"mine")
    report.write(three[:6], tmp_path)
    assert names_in(tmp_path) == sorted([*FILES, "figure-of-mine.png"])


def test_runs_that_are_not_reported_stay_in_the_file(runs, tmp_path, undrawn):
    report.write(runs[:2], tmp_path, also=runs)
    assert read(tmp_path / "runs.csv") == runs
    assert "t1" not in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_protocols_are_no_blocks_of_one_another(three, tmp_path, text_of):
    faithful = setup("net0", "digits", "faithful")
    runs = three + [Run(faithful, run.arm, run.seed, run.outcome) for run in three]
    across = text_of(runs, tmp_path).split("## Data sets as blocks")[1]
    assert "### default, stopped by 20 epochs without a better loss, or 1200" in across
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
    with pytest.raises(topoloss.TopolossError, match=r"figure\.png cannot be written: no space"):
        report.plot(select(runs), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
