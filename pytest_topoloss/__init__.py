"""The pytest plugin: fixtures with known diagrams, the marker and ``--topoloss-seed``.

pytest loads this module in every run wherever the library is installed, so the module
imports nothing before it is needed. It is not part of the package ``topoloss``, because
importing any module of that package imports all of it, and torch too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from topoloss.testing.examples import KnownExample


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("topoloss").addoption(
        "--topoloss-seed",
        type=int,
        default=0,
        metavar="N",
        help="seed of the examples that topoloss's conformance checks generate (default: 0)",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "topoloss(kind, *components, expected=None): conformance tests, one for each rule and "
        "component; made by topoloss.testing.parametrize_with_checks",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    # Users may put the marker, without arguments, on tests of their own; these take no checks.
    markers = [marker for marker in metafunc.definition.iter_markers("topoloss") if marker.args]
    if not markers:
        return
    from topoloss.testing.cases import cases

    seed = metafunc.config.getoption("topoloss_seed")
    checks = [
        case
        for marker in reversed(markers)
        for component in marker.args[1:]
        for case in cases(marker.args[0], component, seed=seed, **marker.kwargs)
    ]
    metafunc.parametrize("check", checks, ids=[f"{c.subject.label}-{c.rule}" for c in checks])


@pytest.fixture
def two_clusters() -> KnownExample:
    """Two groups of correlated neurons: `topoloss.testing.examples.two_clusters`."""
    from topoloss.testing import examples

    return examples.two_clusters()


@pytest.fixture
def duplicated() -> KnownExample:
    """Neurons with copies, one of them reflected: `topoloss.testing.examples.duplicated`."""
    from topoloss.testing import examples

    return examples.duplicated()


@pytest.fixture
def constant_column() -> KnownExample:
    """A constant neuron between two others: `topoloss.testing.examples.constant_column`."""
    from topoloss.testing import examples

    return examples.constant_column()


@pytest.fixture
def generic(pytestconfig: pytest.Config) -> KnownExample:
    """Neurons in general position, for `--topoloss-seed`: `topoloss.testing.examples.generic`."""
    from topoloss.testing import examples

    return examples.generic(seed=pytestconfig.getoption("topoloss_seed"))
