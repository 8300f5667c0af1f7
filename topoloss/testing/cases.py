"""Make the checks of a component, one for each rule of its kind."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from typing import Any

from topoloss import components, objects, plugins
from topoloss.errors import (
    OptionError,
    UnknownNameError,
    check_choice,
    check_number,
    listed,
    nearest,
    shown,
)
from topoloss.expressions import parse
from topoloss.owners import no_exit
from topoloss.testing.checks import Case, Subject
from topoloss.testing.factories import Copied, Named
from topoloss.testing.kinds import KINDS
from topoloss.testing.kinds.plugins import found, offers

__all__ = ["cases", "kinds_of"]

_LARGEST_SEED = 2**32 - 1


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
        If the name, kind or seed is invalid, or this kind takes no definition.
    """
    check_choice("kind", kind, KINDS)
    check_number("seed", seed, whole=True, least=0, most=_LARGEST_SEED)
    _check_expected(kind, expected)
    if kind == "plugin":
        return _plugin_cases(component, seed)
    subject = Subject(_label(component), _factory(kind, component), KINDS[kind], seed, expected)
    return [Case(rule, subject) for rule in KINDS[kind].rules]


def kinds_of(component: object) -> list[str]:
    """Return the kinds that a name, expression, factory, component or plugin belongs to.

    If components and a plugin share a name, the name refers to the components.

    Raises
    ------
    UnknownNameError, InputError, OptionError
        If it belongs to none.

    Examples
    --------
    >>> from topoloss.testing.cases import kinds_of
    >>> kinds_of("t1")
    ['loss', 'regulariser']
    >>> kinds_of("cosine/mst/t1[reduction=mean]")
    ['regulariser']
    """
    options: dict[str, Any] = {}
    if isinstance(component, str):
        parts = parse(component).parts
        if len(parts) > 1:
            return ["regulariser"]
        name, options = parts[0].name, dict(parts[0].options)
        kinds = _kinds_of_name(name)
        if kinds:
            return kinds
        component = objects.find(name, "component", "object")
    # A function may make components of any kind: call it and look at the result.
    made = component
    if inspect.isroutine(component):
        components.check_options(_label(component), component, options)
        try:
            inspect.signature(component).bind(**options)
        except (TypeError, ValueError) as error:
            raise OptionError(
                f"{_label(component)} cannot be called to make a component: {error}. Expected a "
                "function that takes no arguments except options."
            ) from error
        with no_exit(_label(component)):
            made = component(**options)
    made_type = made if inspect.isclass(made) else type(made)
    kinds = [kind for kind, (_, base) in plugins.KINDS.items() if issubclass(made_type, base)]
    if not kinds and not isinstance(made, str) and offers(made):
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
    if expected is None:
        return
    if not callable(expected):
        raise OptionError(f"expected={shown(expected)} was given; expected a function.")
    if kind not in compared:
        raise OptionError(
            f"expected={expected!r} was given for the kind {kind!r}; only the kinds "
            f"{', '.join(compared)} are compared with a definition. Leave expected= out."
        )


def _plugin_cases(plugin: object, seed: int) -> list[Case]:
    if isinstance(plugin, str):
        plugin = found(plugin)
    subject = Subject(_label(plugin), lambda: plugin, KINDS["plugin"], seed)
    offered = [
        Subject(f"{kind} {name}", factory, KINDS[kind], seed)
        for kind, of_kind in offers(plugin).items()
        for name, factory in of_kind.items()
    ]
    return [Case(rule, s) for s in (subject, *offered) for rule in s.kind.rules]


def _factory(kind: str, component: object) -> Callable[..., Any]:
    base = KINDS[kind].base
    if isinstance(component, str):
        components.look_up(kind, component, {})  # type: ignore[arg-type]
        return Named(kind, component)
    if isinstance(component, base):
        return Copied(component)
    if not callable(component):
        raise OptionError(
            f"{component!r} was given; expected the name of a {kind}, a topoloss.{base.__name__}, "
            "or a class or function that makes one."
        )
    return component


def _kinds_of_name(name: str) -> list[str]:
    """Return the kinds that a name belongs to; none if it may be the user's ``module:object``."""
    kinds = [kind for kind in plugins.KINDS if _is_offered(kind, name)]
    installed = [info.name for info in plugins.installed_plugins()]
    if not kinds and name in installed:
        return ["plugin"]
    if not kinds and ":" not in name:
        offered = (plugins.available(kind) for kind in plugins.KINDS)  # type: ignore[arg-type]
        names = sorted({*installed, *itertools.chain.from_iterable(offered)})
        raise UnknownNameError(
            f"nothing is named {name!r}; there are {listed(names)}, and your own as "
            f"package.module:object.{nearest(name, names)}"
        )
    return kinds


def _is_offered(kind: str, name: str) -> bool:
    """Whether a plugin offers this name, which may be written ``plugin:name``."""
    try:
        plugins.find(kind, name)  # type: ignore[arg-type]
    except UnknownNameError:
        return False
    return True


def _label(component: object) -> str:
    if isinstance(component, str):
        return component
    name = getattr(component, "__name__", None)
    return name if isinstance(name, str) else type(component).__name__
