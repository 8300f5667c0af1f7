"""The README's Python runs, and what it prints is what it says."""

import csv
import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
RESULTS = ROOT / "benchmarks" / "results"


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


def test_the_table_of_speed_is_that_of_the_committed_run():
    with (RESULTS / "t1_step.csv").open(encoding="utf-8") as file:
        rows = {(row["contestant"], row["neurons"]): row for row in csv.DictReader(file)}
    for n in ("1010", "4096", "10000"):
        gram, ours, paper = (rows[c, n] for c in ("gram_product", "topoloss_t1", "paper_t1"))
        cells = (
            *(f"{int(n):,}", gram["median_ms"], ours["median_ms"], ours["over_gram"]),
            *(paper["median_ms"], paper["topoloss_faster"]),
        )
        assert f"| {' | '.join(cells)} |" in TEXT
