"""The pytest plugin: fixtures with known diagrams, the marker and ``--topoloss-seed``.

pytest loads this in every run wherever the library is installed, so nothing is imported
here before it is asked for. It is no part of the package ``topoloss``, because importing a
part would import the whole, and torch with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from topoloss.testing.problems import Problem


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("topoloss").addoption(
        "--topoloss-seed",
        type=int,
        default=0,
        metavar="N",
        help="seed of the inputs of topoloss's conformance checks (default: 0)",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "topoloss(kind, *components): conformance tests, one for each check of each component; "
        "written by topoloss.testing.parametrize_with_checks",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    markers = [marker.args for marker in metafunc.definition.iter_markers("topoloss")]
    if not any(markers):
        return
    from topoloss.testing.suite import cases

    seed = metafunc.config.getoption("topoloss_seed")
    checks = [
        case
        for kind, *components in filter(None, reversed(markers))
        for component in components
        for case in cases(kind, component, seed=seed)
    ]
    metafunc.parametrize("check", checks, ids=[f"{c.subject.label}-{c.rule}" for c in checks])


@pytest.fixture
def two_clusters() -> Problem:
    """Two groups of correlated neurons: `topoloss.testing.problems.two_clusters`."""
    from topoloss.testing import problems

    return problems.two_clusters()


@pytest.fixture
def duplicated() -> Problem:
    """Neurons with copies, one of them reflected: `topoloss.testing.problems.duplicated`."""
    from topoloss.testing import problems

    return problems.duplicated()


@pytest.fixture
def constant_column() -> Problem:
    """A constant neuron between two others: `topoloss.testing.problems.constant_column`."""
    from topoloss.testing import problems

    return problems.constant_column()


@pytest.fixture
def generic(pytestconfig: pytest.Config) -> Problem:
    """Neurons in general position, by `--topoloss-seed`: `topoloss.testing.problems.generic`."""
    from topoloss.testing import problems

    return problems.generic(seed=pytestconfig.getoption("topoloss_seed"))
