"""What the numba backend tells about the machine code that it makes, and where it keeps it."""

import os
import subprocess
import sys

import pytest

# Two small functions in place of the dozens that search for a tree.
TWO_FUNCTIONS = """
from topoloss_plugins.compiling import compiled, part_that_sums

@compiled
def doubled(x):
    return 2 * x

@part_that_sums
def sum_of(values):
    total = 0.0
    for value in values:
        total += value
    return total

@compiled
def mean(values):
    return sum_of(values) / len(values)

print(doubled(3), mean((1.0, 2.0)))
"""
TREE = """
import torch, topoloss
matrix = torch.tensor([[0.0, 1.0, 5.0], [1.0, 0.0, 4.0], [5.0, 4.0, 0.0]])
print(topoloss.persistence("mst").from_matrix(matrix)[0].death_edges.tolist())
"""
COMPILING = pytest.mark.parametrize(
    ("code", "printed"),
    [
        pytest.param(TWO_FUNCTIONS, "6 1.5\n", id="two functions"),
        pytest.param(TREE, "[[0, 1], [1, 2]]\n", id="tree", marks=pytest.mark.slow),
    ],
)


@pytest.fixture
def told(tmp_path, code, printed):
    """Run the code in a process of its own; the lines that it logs."""
    # Numba keeps nothing of code that stands in no file.
    script = tmp_path / "script.py"
    script.write_text(code, encoding="utf-8")

    def run(**variables):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_CACHE")}
        done = subprocess.run(
            [sys.executable, script],
            env=environment | variables, check=True, capture_output=True, text=True,
        )  # fmt: skip
        assert done.stdout == printed
        return done.stderr.splitlines()

    return run


@COMPILING
def test_the_first_call_on_a_machine_says_why_it_is_slow(told, tmp_path):
    (line,) = told(NUMBA_CACHE_DIR=str(tmp_path))
    assert line.endswith("this takes a while, once.")
    assert told(NUMBA_CACHE_DIR=str(tmp_path)) == []


@COMPILING
def test_without_a_directory_to_write_to_it_compiles_anew_and_says_so_once(told):
    # Numba is left with one place to look at, which nobody named.
    (line,) = told(NUMBA_CACHE_LOCATOR_CLASSES="UserProvidedCacheLocator")
    assert "in every process" in line
    assert "set the environment variable NUMBA_CACHE_DIR to a writable one" in line


PART = """
import numpy as np
from topoloss_plugins.compiling import part
FACTOR = 2
SHIFT = np.int64(0)

@part
def scaled(x):
    return int(FACTOR * max(x, 2) + SHIFT)
"""
CALLER = """
from topoloss_plugins.compiling import compiled
from a_part import scaled

@compiled
def result(x):
    return scaled(x) + 1

print(result(3))
"""


@pytest.mark.slow
def test_a_part_that_changes_in_another_file_is_compiled_anew(tmp_path):
    # As where a newer version is installed over an older one.
    def run(part):
        (tmp_path / "a_part.py").write_text(part, encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-B", tmp_path / "caller.py"],
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout, done.stderr

    (tmp_path / "caller.py").write_text(CALLER, encoding="utf-8")
    assert run(PART)[0] == "7\n"
    assert run(PART) == ("7\n", "")
    for before, after, printed in (
        ("FACTOR * max", "FACTOR - max", "0\n"),
        ("max(x, 2)", "min(x, 2)", "5\n"),
        ("FACTOR = 2", "FACTOR = 5", "16\n"),
        ("int64(0)", "int64(3)", "10\n"),
    ):
        found, told = run(PART.replace(before, after))
        assert found == printed
        assert "compiles its inner loops" in told
