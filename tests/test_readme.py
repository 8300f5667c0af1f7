"""The README's Python runs, and what it prints is what it says."""

import doctest
import re
from pathlib import Path

import pytest

from benchmarks import paper, report, rows
from benchmarks.t1_step import FILES
from benchmarks.training import TRAINING
from topoloss.compare.tables import summarise

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
RESULTS = ROOT / "benchmarks" / "results"
STUDY = "digits-net0-training-forward"


def test_readme_has_the_loop_and_a_custom_filtration():
    assert any("topoloss.attach" in block for block in BLOCKS)
    assert any("topoloss.Filtration" in block for block in BLOCKS)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_block_runs(block):
    namespace = {}
    if ">>>" in block:
        test = doctest.DocTestParser().get_doctest(block, namespace, "README", str(README), 0)
        assert doctest.DocTestRunner().run(test).failed == 0
    else:
        exec(compile(block, str(README), "exec"), namespace)


def test_the_demos_table_is_as_printed():
    assert (RESULTS / "demo" / "table.md").read_text(encoding="utf-8") in TEXT


def test_the_gains_are_those_of_the_committed_runs():
    rows = {row.regulariser: row for row in summarise(paper.STUDIES[STUDY].finished())}
    gains = {name: f"{row.gain:.2f}" for name, row in rows.items() if row.gain is not None}
    at_most = max(gains.pop(name) for name in ("naive", "l1", "l2"))
    said = f"T1 gains {gains['t1']} points over none and T2 {gains['t2']}; naive, l1 and l2 gain"
    assert f"{said} at most {at_most}." in " ".join(TEXT.split())


def test_the_figures_of_speed_are_those_of_the_committed_runs():
    assert report.speed_table(rows.read(FILES["cpu"])) in TEXT
    t1 = next(row for row in rows.read(TRAINING) if row["regulariser"] == "t1")
    assert f"takes {t1['over_plain']} times as long with T1" in TEXT
