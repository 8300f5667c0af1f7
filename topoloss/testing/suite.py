"""The checks of each kind, and how they are run."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from topoloss import components, plugins
from topoloss.errors import OptionError, UnknownNameError, check_choice, nearest
from topoloss.extras import needs_extra
from topoloss.testing import filtration, loss, persistence, plugin, regulariser, sampler
from topoloss.testing.checks import Case, Kind, NotApplicable, Subject

__all__ = [
    "KINDS",
    "cases",
    "check_filtration",
    "check_loss",
    "check_persistence",
    "check_plugin",
    "check_regulariser",
    "check_sampler",
    "kinds_of",
    "parametrize_with_checks",
]

KINDS: Mapping[str, Kind] = {
    "filtration": filtration.KIND,
    "persistence": persistence.KIND,
    "loss": loss.KIND,
    "regulariser": regulariser.KIND,
    "sampler": sampler.KIND,
    "plugin": plugin.KIND,
}


def cases(
    kind: str,
    component: object,
    *,
    seed: int = 0,
    expected: Callable[..., Any] | None = None,
) -> list[Case]:
    """Return the checks of a component, to be called one by one.

    Parameters
    ----------
    kind : {"filtration", "persistence", "loss", "regulariser", "sampler", "plugin"}
    component : str, callable or instance
        A name, a factory such as a class, or a component. Of a plugin its name, the module
        or the instance; the checks of all that it offers follow its own.
    seed : int
        Of all inputs.
    expected : callable, optional
        A slow, obvious definition to compare with.

    Raises
    ------
    UnknownNameError, OptionError
        If there is no such name or kind.
    """
    check_choice("kind", kind, KINDS)
    if kind == "plugin":
        return _plugin_cases(component, seed)
    subject = Subject(_label(component), _factory(kind, component), KINDS[kind], seed, expected)
    return [Case(rule, subject) for rule in KINDS[kind].rules]


def kinds_of(component: object) -> list[str]:
    """Return the kinds that a name, factory, component or plugin belongs to.

    A name is that of components first, and of a plugin only where no component has it.

    Raises
    ------
    UnknownNameError, OptionError
        If it belongs to none.

    Examples
    --------
    >>> from topoloss.testing.suite import kinds_of
    >>> kinds_of("t1")
    ['loss', 'regulariser']
    """
    if isinstance(component, str):
        return _kinds_of_name(component)
    # A function is asked what it makes.
    made = component() if inspect.isroutine(component) else component
    found = made if inspect.isclass(made) else type(made)
    kinds = [kind for kind, (_, base) in plugins.KINDS.items() if issubclass(found, base)]
    if not kinds and plugin.offers(made):
        kinds = ["plugin"]
    if not kinds:
        raise OptionError(
            f"{component!r} was given; expected a component, a class or function that makes one, "
            "or a plugin."
        )
    return kinds


def check_filtration(
    component: object, *, seed: int = 0, expected: Callable[..., Any] | None = None
) -> None:
    """Check a filtration against every rule.

    Parameters
    ----------
    component : str, callable or Filtration
        A name, a factory such as a class, or a filtration.
    seed : int
        Of all inputs.
    expected : callable, optional
        From activations (samples, n) to the matrix (n, n) of edge values by definition.
        Without it nothing says which dissimilarity is meant, and a wrong formula that is
        consistent with itself passes.

    Raises
    ------
    CheckFailed
        At the first rule that is broken.

    Examples
    --------
    >>> from topoloss.testing import check_filtration
    >>> check_filtration("euclidean")
    """
    _run(cases("filtration", component, seed=seed, expected=expected))


def check_persistence(component: object, *, seed: int = 0) -> None:
    """Check a persistence engine against every rule, and against Kruskal's algorithm.

    Parameters
    ----------
    component : str, callable or Persistence
        A name, a factory such as a class, or an engine.
    seed : int
        Of all inputs.

    Raises
    ------
    CheckFailed
        At the first rule that is broken.

    Examples
    --------
    >>> from topoloss.testing import check_persistence
    >>> check_persistence("mst")
    """
    _run(cases("persistence", component, seed=seed))


def check_loss(
    component: object, *, seed: int = 0, expected: Callable[..., Any] | None = None
) -> None:
    """Check a loss against every rule.

    Parameters
    ----------
    component : str, callable or Loss
        A name, a factory such as a class, or a loss.
    seed : int
        Of all inputs.
    expected : callable, optional
        From diagrams to the number by definition. Without it nothing says which loss is
        meant: a standard deviation with the wrong divisor, say, is a loss like any other.

    Raises
    ------
    CheckFailed
        At the first rule that is broken.

    Examples
    --------
    >>> from topoloss.testing import check_loss
    >>> check_loss("t1", expected=lambda diagrams: -sum(diagrams[0].deaths.tolist()))
    """
    _run(cases("loss", component, seed=seed, expected=expected))


def check_regulariser(
    component: object, *, seed: int = 0, expected: Callable[..., Any] | None = None
) -> None:
    """Check a regulariser against every rule.

    Parameters
    ----------
    component : str, callable or Regulariser
        A name, a factory such as a class, or a regulariser.
    seed : int
        Of all inputs.
    expected : callable, optional
        From activations (samples, n) to the number by definition; not for a regulariser
        of weights or parameters.

    Raises
    ------
    CheckFailed
        At the first rule that is broken.

    Examples
    --------
    >>> from topoloss.testing import check_regulariser
    >>> check_regulariser("l2")
    """
    _run(cases("regulariser", component, seed=seed, expected=expected))


def check_sampler(component: object, *, seed: int = 0) -> None:
    """Check a sampler against every rule.

    Parameters
    ----------
    component : str, callable or Sampler
        A name, a factory such as a class, or a sampler.
    seed : int
        Of all inputs.

    Raises
    ------
    CheckFailed
        At the first rule that is broken.

    Examples
    --------
    >>> from topoloss.testing import check_sampler
    >>> check_sampler("importance")
    """
    _run(cases("sampler", component, seed=seed))


def check_plugin(component: object, *, seed: int = 0) -> None:
    """Check that a plugin's names and metadata agree, and then all that it offers.

    Parameters
    ----------
    component : str or object
        The name of an installed or registered plugin, or the module or instance.
    seed : int
        Of all inputs.

    Raises
    ------
    CheckFailed
        At the first rule that is broken.

    Examples
    --------
    >>> from topoloss.testing import check_plugin
    >>> check_plugin("samplers")
    """
    _run(cases("plugin", component, seed=seed))


def parametrize_with_checks(kind: str, *components: object) -> Any:
    """Make one pytest test of every check of every component.

    The test has the argument ``check``, and calls it. A rule that says nothing about a
    component is skipped, with the reason. ``--topoloss-seed`` sets the seed of all inputs,
    and ``-m topoloss`` selects such tests. Both come with the pytest plugin
    ``pytest_topoloss``, which pytest loads by itself unless that is switched off.

    Parameters
    ----------
    kind : {"filtration", "persistence", "loss", "regulariser", "sampler", "plugin"}
    *components : str, callable or instance
        Names, factories or instances.

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
    return pytest.mark.topoloss.with_args(kind, *components)


def _run(checks: list[Case]) -> None:
    for check in checks:
        try:
            check()
        except NotApplicable:
            continue


def _plugin_cases(given: object, seed: int) -> list[Case]:
    if isinstance(given, str):
        plugin.check_known(given)
    subject = Subject(_label(given), lambda: given, plugin.KIND, seed)
    own = [Case(rule, subject) for rule in plugin.KIND.rules]
    return own + [
        Case(rule, Subject(f"{kind} {name}", factory, KINDS[kind], seed))
        for kind, offered in plugin.offers(given).items()
        for name, factory in offered.items()
        for rule in KINDS[kind].rules
    ]


def _factory(kind: str, component: object) -> Callable[..., Any]:
    base = KINDS[kind].base
    if isinstance(component, str):
        select = getattr(components, kind)
        if component not in plugins.available(kind):  # type: ignore[arg-type]
            select(component)  # raises, and names what there is
        return partial(select, component)
    if isinstance(component, base):
        return partial(copy.deepcopy, component)
    if not callable(component):
        raise OptionError(
            f"{component!r} was given; expected the name of a {kind}, a topoloss.{base.__name__}, "
            "or a class or function that makes one."
        )
    return component


def _kinds_of_name(name: str) -> list[str]:
    known = {kind: plugins.available(kind) for kind in plugins.KINDS}  # type: ignore[arg-type]
    known["plugin"] = [info.name for info in plugins.installed_plugins()]
    kinds = [kind for kind, names in known.items() if name in names]
    if not kinds:
        names = sorted({name for names in known.values() for name in names})
        raise UnknownNameError(
            f"nothing is named {name!r}; there are {names}, and your own as package.module:object."
            f"{nearest(name, names)}"
        )
    return [kind for kind in kinds if kind != "plugin"] or kinds


def _label(component: object) -> str:
    if isinstance(component, str):
        return component
    name = getattr(component, "__name__", None)
    return name if isinstance(name, str) else type(component).__name__
