"""From a kind and a component to the checks of its rules."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from topoloss import components, plugins
from topoloss.errors import OptionError, UnknownNameError, check_choice, nearest
from topoloss.testing.checks import Case, Subject
from topoloss.testing.kinds import KINDS
from topoloss.testing.kinds.plugins import check_known, offers

__all__ = ["cases", "kinds_of"]


def cases(
    kind: str,
    component: object,
    *,
    expected: Callable[..., Any] | None = None,
    seed: int = 0,
) -> list[Case]:
    """Return the checks of a component, to be called one by one.

    Parameters
    ----------
    kind, component, expected, seed
        As for :func:`topoloss.testing.check`.

    Raises
    ------
    UnknownNameError, OptionError
        If there is no such name or kind, or no definition to give for this kind.
    """
    check_choice("kind", kind, KINDS)
    _check_expected(kind, expected)
    if kind == "plugin":
        return _plugin_cases(component, seed)
    subject = Subject(_label(component), _factory(kind, component), KINDS[kind], seed, expected)
    return [Case(rule, subject) for rule in KINDS[kind].rules]


def kinds_of(component: object) -> list[str]:
    """Return the kinds that a name, factory, component or plugin belongs to.

    A name that components and a plugin share means the components.

    Raises
    ------
    UnknownNameError, OptionError
        If it belongs to none.

    Examples
    --------
    >>> from topoloss.testing.cases import kinds_of
    >>> kinds_of("t1")
    ['loss', 'regulariser']
    """
    if isinstance(component, str):
        return _kinds_of_name(component)
    # A function may make components of any kind: call it and look at the result.
    made = component() if inspect.isroutine(component) else component
    found = made if inspect.isclass(made) else type(made)
    kinds = [kind for kind, (_, base) in plugins.KINDS.items() if issubclass(found, base)]
    if not kinds and offers(made):
        kinds = ["plugin"]
    if not kinds:
        raise OptionError(
            f"{component!r} was given; expected a component, a class or function that makes one, "
            "or a plugin."
        )
    return kinds


def _check_expected(kind: str, expected: object) -> None:
    compared = [
        name
        for name, of_kind in KINDS.items()
        if any(rule.__name__ == "definition" for rule in of_kind.rules)
    ]
    if expected is not None and kind not in compared:
        raise OptionError(
            f"expected={expected!r} was given for the kind {kind!r}; only the kinds "
            f"{', '.join(compared)} are compared with a definition. Leave expected= out."
        )


def _plugin_cases(plugin: object, seed: int) -> list[Case]:
    if isinstance(plugin, str):
        check_known(plugin)
    subject = Subject(_label(plugin), lambda: plugin, KINDS["plugin"], seed)
    own = [Case(rule, subject) for rule in KINDS["plugin"].rules]
    return own + [
        Case(rule, Subject(f"{kind} {name}", factory, KINDS[kind], seed))
        for kind, offered in offers(plugin).items()
        for name, factory in offered.items()
        for rule in KINDS[kind].rules
    ]


def _factory(kind: str, component: object) -> Callable[..., Any]:
    base = KINDS[kind].base
    if isinstance(component, str):
        select = getattr(components, kind)
        if component not in plugins.available(kind):  # type: ignore[arg-type]
            select(component)  # raises, and lists the known names
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
