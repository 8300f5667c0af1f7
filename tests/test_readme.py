"""The README's Python runs, and what it prints is what it says."""

import doctest
import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


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
