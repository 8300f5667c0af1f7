"""The README's Python runs, and what it prints is what it says."""

import doctest
import importlib
import re
from pathlib import Path

import pytest
import torch
from scipy import stats

from benchmarks import paper, report
from benchmarks.t1_step import T1_STEP
from benchmarks.today import declared, stages
from benchmarks.today import report as today_report
from benchmarks.today.choices import Frozen
from benchmarks.training import TRAINING
from topoloss.compare.statistics import scores, select
from topoloss.testing import check

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
RESULTS = ROOT / "benchmarks" / "results"
STUDY = "digits-net0-training-forward"


def test_the_two_lines_run_in_a_loop():
    (diff,) = re.findall(r"```diff\n(.*?)```", TEXT, flags=re.DOTALL)
    added = [line for line in diff.splitlines() if line.startswith("+")]
    assert added[0] == "+import topoloss"
    assert len(added[1:]) == 2
    model = torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.ReLU(), torch.nn.Linear(9, 3))
    before = model[0].weight.clone()
    namespace = {
        "cross_entropy": torch.nn.functional.cross_entropy,
        "model": model,
        "optimiser": torch.optim.SGD(model.parameters(), lr=0.1),
        "batches": [(torch.randn(8, 6), torch.randint(3, (8,)))] * 2,
    }
    exec(re.sub("^[+ ]", "", diff, flags=re.MULTILINE), namespace)
    assert namespace["penalty"].metrics()["value"] < 0
    assert not torch.equal(model[0].weight, before)


def test_the_custom_filtration_passes_the_check(tmp_path, monkeypatch):
    (block,) = (block for block in BLOCKS if "topoloss.Filtration" in block)
    (tmp_path / "my_filtration.py").write_text(block, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    check("filtration", importlib.import_module("my_filtration").Cosine)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_block_runs(block):
    namespace = {}
    if ">>>" in block:
        test = doctest.DocTestParser().get_doctest(block, namespace, "README", str(README), 0)
        assert doctest.DocTestRunner().run(test).failed == 0
    else:
        exec(compile(block, str(README), "exec"), namespace)


def test_the_gains_are_those_of_the_committed_runs_and_of_the_results_page():
    of_paper = scores(select(paper.STUDIES[STUDY].finished()))
    confirmed = today_report.of(stages.finished("confirm", Frozen.read()), declared.PROBLEMS[0])
    protocols = (of_paper, scores(confirmed))
    said = [
        f"| {label} | {' | '.join(_gain(name, s) for s in protocols)} |" for name, label in ARMS
    ]
    for text in (TEXT, (ROOT / "docs" / "results.md").read_text("utf-8")):
        lines = text.splitlines()
        first = lines.index(said[0])
        assert lines[first : first + len(said)] == said


ARMS = (
    *(("t1", "T1"), ("t2", "T2"), ("naive", "naive decorrelation"), ("dropout", "dropout")),
    *(("batch-norm", "BatchNorm"), ("input-noise", "noise on the inputs"), ("decov", "DeCov")),
    *(("label-smoothing", "label smoothing"), ("variance", "variance")),
)


def _gain(name, table):
    if name not in table:
        return "not run"
    gains = table[name] - table["none"]
    half = stats.t.ppf(0.975, len(gains) - 1) * stats.sem(gains)
    return f"{gains.mean():+.2f} [{gains.mean() - half:+.2f}, {gains.mean() + half:+.2f}]"


def test_the_figures_of_speed_are_those_of_the_committed_runs():
    assert report.speed_table(report.of_kinds(T1_STEP)) in TEXT
    first, second = (
        row["over_plain"]
        for timed in report.of_kinds(TRAINING).values()
        for row in timed
        if row["regulariser"] == "t1"
    )
    assert f"takes {first} times as long with T1, {second} times" in " ".join(TEXT.split())


def test_each_link_to_a_file_leads_to_one():
    links = re.findall(r"\]\((?!http|#)([^)#]+)", TEXT)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
