"""Two ways to run the checks of a component: all at once, or as pytest tests."""

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
        A name, optionally with options as in ``"t1[reduction=mean]"``; a factory such as a
        class; or an instance with the options to check. A plugin is given by its name, or as
        the module or instance itself; everything that it offers is checked too.
    expected : callable, optional
        A slow, obvious definition to compare with. For a filtration it maps activations
        (samples, n) to the matrix (n, n) of edge values; for a filtration of weights, it maps a
        dict of weights to the matrix of its n vertices. For a loss it maps a list of diagrams to
        a number. For a regulariser it maps activations to a number; a regulariser that compares
        layers, or one of weights or parameters, takes a dict of tensors by name instead. The
        other kinds take no definition. Without one, a wrong formula passes if it is consistent
        with itself: a standard deviation with the wrong divisor, for example.
    seed : int
        Seed of all generated examples, from 0 to 2^32 - 1.

    Raises
    ------
    CheckFailed
        If the component breaks a rule. The message describes the first broken rule. It also
        names the rules that probably fail for the same reason, and those that fail for
        another. Rules that do not apply are skipped.
    UnknownNameError
        If no component of this kind has this name.
    OptionError
        If the kind is unknown, the object given makes no component, the seed is invalid, or
        this kind takes no definition.

    Examples
    --------
    >>> import topoloss
    >>> from topoloss.testing import check
    >>> check("persistence", "mst")
    >>> check("loss", "t1", expected=lambda diagrams: -sum(diagrams[0].deaths.tolist()))
    >>> check("sampler", topoloss.sampler("random", fraction=0.5))
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
    """Make one pytest test for each rule and each component.

    The test takes the argument ``check`` and calls it. A rule that does not apply to a
    component is a skipped test that says why. The option ``--topoloss-seed`` of pytest
    sets the seed of all generated examples, and ``-m topoloss`` selects these tests. Both
    come with the pytest plugin ``pytest_topoloss``, which pytest loads automatically unless
    told not to.

    Parameters
    ----------
    kind, *components, expected
        As for :func:`topoloss.testing.check`; ``expected`` applies to all the components.

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
    """Return the first failure, with a line that names its consequences, and one for the rest."""
    follow = [f for f in others if (f.component, f.root) == (first.component, first.rule)]
    besides = [
        f.rule
        + (f" of {f.component}" if f.component != first.component else "")
        + (f" (probably from {f.root})" if f.root else "")
        for f in others
        if f not in follow
    ]
    lines = [str(first)]
    if follow:
        lines.append(f"  follow    probably from this failure: {', '.join(f.rule for f in follow)}")
    if besides:
        lines.append(f"  others    also broken: {', '.join(besides)}")
    return CheckFailed("\n".join(lines), first.rule, first.component, first.seed, first.root)
