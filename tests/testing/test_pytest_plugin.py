"""The pytest plugin, in runs of its own."""

import subprocess
import sys

import pytest

pytest_plugins = ["pytester"]

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


@pytest.fixture
def in_a_run_of_its_own(pytester):
    def run(code, *arguments):
        pytester.makepyfile(code)
        strict = ("--strict-markers", "-W", "error", "-p", "no:cacheprovider", "-rs")
        return pytester.runpytest_subprocess(*strict, *arguments)

    return run


def test_every_check_of_every_component_is_a_test_with_a_name(in_a_run_of_its_own):
    result = in_a_run_of_its_own(CONFORMS, "-m", "topoloss", "-v", "-k", "order_hint or t1-weights")
    outcomes = result.parseoutcomes()
    assert (outcomes["passed"], outcomes["skipped"], outcomes["failed"]) == (2, 1, 1)
    result.stdout.fnmatch_lines(
        [
            "*::test_conforms?t1-weights? PASSED*",
            "*::test_conforms?cosine-order_hint? PASSED*",
            "*::test_conforms?Manhattan-order_hint? SKIPPED*",
            "*::test_conforms?Wrong-order_hint? FAILED*",
            "E*CheckFailed: Wrong breaks the rule 'order_hint'*",
            "E*seed=0*",
            "SKIPPED*it declares no order*",
        ]
    )


def test_the_seed_is_that_of_the_command_line(in_a_run_of_its_own):
    result = in_a_run_of_its_own(CONFORMS, "--topoloss-seed", "17", "-k", "Wrong-order_hint")
    assert result.parseoutcomes()["failed"] == 1
    result.stdout.fnmatch_lines(["E*generic(samples=32, neurons=16, seed=17)*"])


def test_values_are_compared_with_what_is_expected(in_a_run_of_its_own):
    result = in_a_run_of_its_own(
        """
        from topoloss.testing import parametrize_with_checks

        @parametrize_with_checks("loss", "t1", expected=lambda ds: -sum(ds[0].deaths.tolist()))
        @parametrize_with_checks("loss", "t2", expected=lambda ds: 0)
        def test_conforms(check):
            check()
        """,
        *("-v", "-k", "definition"),
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*t1-definition? PASSED*", "*t2-definition? FAILED*"])


def test_fixtures_are_the_examples(in_a_run_of_its_own):
    result = in_a_run_of_its_own(
        """
        import torch
        from topoloss.testing import examples

        def same(a, b):
            return a.name == b.name and torch.equal(a.activations, b.activations)

        def test_fixtures(two_clusters, duplicated, constant_column, generic):
            assert same(two_clusters, examples.two_clusters())
            assert same(duplicated, examples.duplicated())
            assert same(constant_column, examples.constant_column())
            assert same(generic, examples.generic(seed=3))
        """,
        "--topoloss-seed=3",
    )
    result.assert_outcomes(passed=1)


def test_the_marker_without_arguments_only_selects(in_a_run_of_its_own):
    result = in_a_run_of_its_own(
        """
        import pytest

        pytestmark = pytest.mark.topoloss

        def test_mine():
            pass
        """,
        "-m",
        "topoloss",
    )
    result.assert_outcomes(passed=1)


def test_an_unknown_name_stops_the_collection(in_a_run_of_its_own):
    result = in_a_run_of_its_own(
        """
        from topoloss.testing import parametrize_with_checks

        @parametrize_with_checks("loss", "t3")
        def test_conforms(check):
            check()
        """
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*UnknownNameError: no loss is named 't3'*"])


@pytest.mark.parametrize(
    ("imported", "absent"),
    [
        ("pytest_topoloss", ["topoloss", "torch", "numpy"]),
        ("topoloss", ["topoloss.testing", "pytest_topoloss", "pytest"]),
        ("topoloss.testing", ["pytest_topoloss", "pytest"]),
    ],
)
def test_an_import_brings_nothing_before_it_is_needed(imported, absent):
    code = f"import sys, {imported}; print([m for m in {absent} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
