"""How far networks can be pruned: the docs show the committed runs."""

import statistics
from pathlib import Path

import pytest
import torch
from scipy import stats

from benchmarks import pruning, rows
from topoloss.compare.data import load, split

DOCS = Path(__file__).parents[2] / "docs"


def mean_interval(values):
    """The mean, and the 95% interval of Student's t."""
    mean = statistics.fmean(values)
    return mean, *stats.t.interval(0.95, len(values) - 1, mean, stats.sem(values))


def test_the_table_of_the_docs_is_that_of_the_committed_rows():
    found = rows.read(pruning.PRUNING)
    runs = len(pruning.ARMS) * len(pruning.SPLITS)
    assert len(found) == runs * len(pruning.WAYS) * len(pruning.SHARES)
    assert pruning.table(found) in (DOCS / "pruning.md").read_text("utf-8")


def test_gains_told_on_the_results_page_are_those_of_the_networks_before_pruning():
    text = (DOCS / "results.md").read_text("utf-8")
    score = {}
    for row in rows.read(pruning.PRUNING):
        if row["way"] == "copies" and float(row["removed"]) == 0:
            score.setdefault(row["arm"], {})[row["split"]] = 100 * float(row["accuracy"])
    names = {"t1": "T1", "t2": "T2", "dropout": "dropout 0.5", "decov": "DeCov"}
    for arm, name in names.items():
        gains = [score[arm][split] - score["none"][split] for split in score["none"]]
        mean, low, high = mean_interval(gains)
        (line,) = (line for line in text.splitlines() if line.startswith(f"| {name} |"))
        assert line.endswith(f"| {mean:+.2f} [{low:+.2f}, {high:+.2f}] |")


def test_what_the_docs_say_of_t1_t2_and_decov_is_what_the_rows_say():
    text = (DOCS / "pruning.md").read_text("utf-8")
    assert "from 80% on; with a refit, from 90% on." in text
    assert "from 90% on with one stand-in, at 95% with a refit." in text
    accuracy = {}
    for row in rows.read(pruning.PRUNING):
        accuracy.setdefault((row["arm"], row["way"], float(row["removed"])), []).append(
            float(row["accuracy"])
        )
    mean = {key: sum(values) / len(values) for key, values in accuracy.items()}

    late = [share for share in pruning.SHARES if share >= 0.8]
    for arm in ("t1", "t2"):
        for way, since in {"copies": 0.8, "copies, refitted": 0.9}.items():
            worse = [k for k in late if mean[arm, way, k] < mean["none", way, k]]
            assert worse == [k for k in late if k >= since]
    for way, since in {"copies": 0.9, "copies, refitted": 0.95}.items():
        for k in pruning.SHARES:
            best = max(pruning.ARMS, key=lambda arm: mean[arm, way, k])
            assert best == ("dropout" if k >= since else "decov")


@pytest.mark.parametrize("way", pruning.WAYS)
def test_nothing_removed_is_the_trained_network(way, monkeypatch):
    monkeypatch.setattr(pruning, "EPOCHS", 1)
    parts = split(load("digits"), 0)
    model = pruning.trained("dropout", parts, 0)
    smaller = pruning.WAYS[way]
    torch.testing.assert_close(smaller(model, parts.train.x, 0)(parts.test.x), model(parts.test.x))
    assert pruning.score(smaller(model, parts.train.x, 0.99), parts.test) < 0.5
