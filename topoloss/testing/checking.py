"""The two ways to run the checks of a component: at once, or as tests of pytest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from topoloss.errors import check_choice
from topoloss.extras import needs_extra
from topoloss.testing.cases import cases
from topoloss.testing.checks import CheckFailed, NotApplicable
from topoloss.testing.kinds import KINDS

__all__ = ["check", "parametrize_with_checks"]


def check(
    kind: str,
    component: object,
    *,
    expected: Callable[..., Any] | None = None,
    seed: int = 0,
) -> None:
    """Check a component against every rule of its kind.

    Parameters
    ----------
    kind : {"filtration", "persistence", "loss", "regulariser", "sampler", "plugin"}
    component : str, callable or instance
        A name, also with options as in ``"t1[reduction=mean]"``; a factory such as a class;
        or a component with the options to check. A plugin is given by its name, or as the
        module or instance itself; everything that it offers is checked too.
    expected : callable, optional
        A slow, obvious definition to compare with. For a filtration it maps activations
        (samples, n), or weights by name for one of weights, to the matrix (n, n) of edge
        values of the n vertices; for a loss a list of diagrams to a number; for a regulariser
        the activations to a number, or by name those of each layer if it compares layers, or
        by name the weights or parameters that it is of. The other kinds take none. Without a
        definition a wrong formula passes if it is consistent with itself: a standard deviation
        with the wrong divisor, for example.
    seed : int
        Seed of all generated examples, from 0 to 2^32 - 1.

    Raises
    ------
    CheckFailed
        If the component breaks a rule. The message is about the first broken rule, and names
        the others: those that probably follow from it, and those that are broken besides.
        Rules that do not apply are skipped.
    UnknownNameError
        If no component of this kind has this name.
    OptionError
        For an unknown kind, something that makes no component, a seed that is none, or a
        definition that this kind is not compared with.

    Examples
    --------
    >>> import topoloss
    >>> from topoloss.testing import check
    >>> check("persistence", "mst")
    >>> check("loss", "t1", expected=lambda diagrams: -sum(diagrams[0].deaths.tolist()))
    >>> check("filtration", topoloss.filtration("correlation", constant="drop"))
    """
    __tracebackhide__ = True  # pytest then shows the message alone
    failures = []
    for case in cases(kind, component, expected=expected, seed=seed):
        try:
            case()
        except NotApplicable:
            continue
        except CheckFailed as failure:
            failures.append(failure)
    if failures:
        raise _with_the_others(*failures) from failures[0].__cause__


def parametrize_with_checks(
    kind: str, *components: object, expected: Callable[..., Any] | None = None
) -> Any:
    """Make one pytest test of each rule for each component.

    The test takes the argument ``check`` and calls it. A rule that does not apply to a
    component is a skipped test that says why. The option ``--topoloss-seed`` of pytest
    sets the seed of all generated examples, and ``-m topoloss`` selects these tests. Both
    come with the pytest plugin ``pytest_topoloss``; pytest loads it by itself, unless
    told not to.

    Parameters
    ----------
    kind, *components, expected
        As for :func:`topoloss.testing.check`; ``expected`` holds for all the components.

    Examples
    --------
    >>> from topoloss.testing import parametrize_with_checks
    >>> @parametrize_with_checks("filtration", "correlation", "cosine")
    ... def test_conforms(check):
    ...     check()
    """
    with needs_extra("test"):
        import pytest
    check_choice("kind", kind, KINDS)
    return pytest.mark.topoloss.with_args(kind, *components, expected=expected)


def _with_the_others(first: CheckFailed, *others: CheckFailed) -> CheckFailed:
    """Return the first failure, with a line about those that follow from it, and the rest."""
    follow = [f.rule for f in others if (f.component, f.root) == (first.component, first.rule)]
    besides = [
        f.rule if f.component == first.component else f"{f.rule} of {f.component}"
        for f in others
        if f.root is None
    ]
    lines = [str(first)]
    if follow:
        lines.append(f"  follow    probably from this: {', '.join(follow)}")
    if besides:
        lines.append(f"  besides   also broken: {', '.join(besides)}")
    return CheckFailed("\n".join(lines), first.rule, first.component, first.seed, first.root)
