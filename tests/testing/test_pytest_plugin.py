"""The pytest plugin, in runs of its own."""

import subprocess
import sys

import pytest

CONFORMS = """
import topoloss
from topoloss.testing import parametrize_with_checks


class Manhattan(topoloss.Filtration):
    def vertices(self, x):
        return x.T

    def edge_values(self, v, i, j):
        return (v[i] - v[j]).abs().sum(-1)


class Wrong(Manhattan):
    order = "dot_descending"


@parametrize_with_checks("loss", "t1")
@parametrize_with_checks("filtration", "cosine", Manhattan, Wrong())
def test_conforms(check):
    if check.rule in ("order_hint", "cuda", "weights"):
        check()


def test_other():
    pass
"""


EXPECTS = """
from topoloss.testing import parametrize_with_checks


@parametrize_with_checks("loss", "t1", expected=lambda ds: -sum(ds[0].deaths.tolist()))
@parametrize_with_checks("loss", "t2", expected=lambda ds: 0)
def test_expected(check):
    check()
"""

USES_FIXTURES = """
import pytest
import torch
from topoloss.testing import examples

pytestmark = pytest.mark.topoloss


def same(a, b):
    return a.name == b.name and torch.equal(a.activations, b.activations)


def test_fixtures(two_clusters, duplicated, constant_column, generic):
    assert same(two_clusters, examples.two_clusters())
    assert same(duplicated, examples.duplicated())
    assert same(constant_column, examples.constant_column())
    assert same(generic, examples.generic(seed=17))
"""

STRICT = ("-m", "pytest", "--strict-markers", "-W", "error", "-p", "no:cacheprovider", "-v", "-rs")


def printed_by_a_run(folder, files, *arguments):
    for name, code in files.items():
        (folder / name).write_text(code, encoding="utf-8")
    run = subprocess.run(
        [sys.executable, *STRICT, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    return run.stdout.splitlines()


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """Run the marked tests of all files once, as each process imports torch anew."""
    files = {
        "test_conforms.py": CONFORMS,
        "test_expected.py": EXPECTS,
        "test_fixtures.py": USES_FIXTURES,
    }
    chosen = "order_hint or t1-weights or definition or fixtures or other"
    folder = tmp_path_factory.mktemp("run")
    return printed_by_a_run(folder, files, "-m", "topoloss", "--topoloss-seed", "17", "-k", chosen)


def test_every_check_of_every_component_is_a_test_with_a_name(printed):
    pytest.LineMatcher(printed).fnmatch_lines_random(
        [
            "*::test_conforms?t1-weights? PASSED*",
            "*::test_conforms?cosine-order_hint? PASSED*",
            "*::test_conforms?Manhattan-order_hint? SKIPPED*",
            "*::test_conforms?Wrong-order_hint? FAILED*",
            "E*CheckFailed: Wrong breaks the rule 'order_hint'*",
            "SKIPPED*it declares no order*",
        ]
    )


def test_the_marker_selects_the_checks_and_what_else_carries_it(printed):
    matcher = pytest.LineMatcher(printed)
    matcher.fnmatch_lines(["*::test_fixtures *"])
    matcher.no_fnmatch_line("*::test_other *")


def test_the_seed_is_that_of_the_command_line(printed):
    pytest.LineMatcher(printed).fnmatch_lines(["E*generic(samples=32, neurons=16, seed=17)*"])


def test_values_are_compared_with_what_is_expected(printed):
    pytest.LineMatcher(printed).fnmatch_lines_random(
        ["*::test_expected?t1-definition? PASSED*", "*::test_expected?t2-definition? FAILED*"]
    )


def test_fixtures_are_the_examples(printed):
    pytest.LineMatcher(printed).fnmatch_lines(["*::test_fixtures PASSED*"])


def test_an_unknown_name_stops_the_collection(tmp_path):
    unknown = EXPECTS.replace('"t1"', '"t3"')
    printed = printed_by_a_run(tmp_path, {"test_unknown.py": unknown})
    pytest.LineMatcher(printed).fnmatch_lines_random(
        ["*UnknownNameError: no loss is named 't3'*", "*1 error*"]
    )


@pytest.mark.parametrize(
    "imports",
    [
        {"pytest_topoloss": ["topoloss", "torch", "numpy"]},
        {
            "topoloss": ["topoloss.testing", "pytest_topoloss", "pytest"],
            "topoloss.testing": ["pytest_topoloss", "pytest"],
        },
    ],
    ids=",".join,
)
def test_an_import_brings_nothing_before_it_is_needed(imports):
    code = "import sys" + "".join(
        f"; import {imported}; print([m for m in {absent} if m in sys.modules])"
        for imported, absent in imports.items()
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["[]"] * len(imports)
