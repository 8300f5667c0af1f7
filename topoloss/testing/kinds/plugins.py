"""The rules for a plugin: its hooks, its names and its metadata agree."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any

from topoloss import objects, plugins
from topoloss.errors import OptionError, PluginError, UnknownNameError, listed, nearest
from topoloss.owners import no_exit
from topoloss.testing.checks import Kind, NotApplicable, Subject, require
from topoloss.testing.examples import Example
from topoloss.testing.factories import Named

__all__ = ["KIND", "found", "offers"]

_HOOKS = {kind: hook for kind, (hook, _) in plugins.KINDS.items()}


def registration(subject: Subject) -> None:
    """The plugin loads, or can be registered and unregistered."""
    plugin = subject.make()
    name = _installed_name(plugin)
    if name is None:
        try:
            with no_exit(type(plugin).__name__):
                plugins.unregister(plugins.register(plugin))
        except PluginError as error:
            reason = str(error)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
        else:
            return
    else:
        reason = _infos()[name].reason or _infos()[name].status
    require(
        reason == "loaded",
        expected="a plugin that loads",
        received=reason,
        mend="see the message: it names the hook, the import or the name at fault",
    )


def hooks(subject: Subject) -> None:
    """Every function with the name of a hook is marked with @topoloss.hookimpl."""
    plugin = _object(subject.make())
    if plugin is None:
        raise NotApplicable("it was registered in this process: check the plugin object itself")
    # The plugin manager silently ignores an unmarked function.
    unmarked = [
        name
        for name in dir(plugin)
        if name in _HOOKS.values() and not hasattr(getattr(plugin, name), "topoloss_impl")
    ]
    require(
        not unmarked,
        expected="@topoloss.hookimpl on every hook",
        received=f"none on {', '.join(unmarked)}, which are never called",
        mend="decorate it with @topoloss.hookimpl",
    )


def names(subject: Subject) -> None:
    """A hook offers the same names at every call."""
    given = subject.make()
    listed = _names(offers(given))
    plugin = _object(given)
    if plugin is not None:
        again = _names(_ask(plugin))
        require(
            again == listed,
            expected=f"{listed}, as before",
            received=again,
            mend="return the same dictionary at every call of the hook",
        )


def requirement(subject: Subject) -> None:
    """The distribution of an installed plugin requires topoloss-framework."""
    entry = _entry_point(subject.make())
    if entry is None or entry.dist is None:
        raise NotApplicable("it does not come from an installed distribution")
    if entry.dist.name == plugins.DISTRIBUTION:
        raise NotApplicable(f"it is part of {plugins.DISTRIBUTION}")
    required = [re.split(r"[^\w.-]", line)[0] for line in entry.dist.requires or ()]
    require(
        any(re.sub(r"[-_.]+", "-", name).lower() == plugins.DISTRIBUTION for name in required),
        expected=f"{plugins.DISTRIBUTION} among the dependencies of {entry.dist.name}",
        received=required,
        mend=f'write dependencies = ["{plugins.DISTRIBUTION}"] in its pyproject.toml',
    )


KIND = Kind(
    base=object,
    generic=lambda plugin, seed: Example("", ()),
    special=lambda plugin: [],
    apply=lambda plugin: [],
    rules=(registration, hooks, names, requirement),
)


def found(name: str) -> object:
    """Return the name of an installed plugin, or the object for ``package.module:object``."""
    if name in _infos():
        return name
    if ":" in name:
        return objects.find(name, "plugin", "object")
    raise UnknownNameError(
        f"no plugin is named {name!r}; there are {listed(sorted(_infos()))}."
        f"{nearest(name, _infos())}"
    )


def offers(plugin: object) -> Mapping[str, Mapping[str, Callable[..., Any]]]:
    """Return what a plugin, or the plugin of a name, offers: kind -> name -> factory."""
    name = _installed_name(plugin)
    if name is not None:
        return {
            # Qualified by the plugin: another plugin may offer a component of the same name.
            kind: {o: Named(kind, f"{name}:{o}") for o in listed}
            for kind, listed in _infos()[name].offers.items()
        }
    return _ask(plugin)


def _ask(plugin: object) -> Mapping[str, Mapping[str, Callable[..., Any]]]:
    if inspect.isclass(plugin) and any(hasattr(plugin, hook) for hook in _HOOKS.values()):
        raise OptionError(
            f"the class {plugin.__name__} was given; expected an instance of it, or a module."
        )
    marked: dict[str, Any] = {
        kind: getattr(plugin, hook)
        for kind, hook in _HOOKS.items()
        if hasattr(getattr(plugin, hook, None), "topoloss_impl")
    }
    return {kind: _offered(hook) for kind, hook in marked.items()}


def _offered(hook: Callable[[], object]) -> Mapping[str, Callable[..., Any]]:
    """Call a hook. If it raises or returns no dictionary, the rule `registration` reports that."""
    try:
        with no_exit(hook.__name__):
            offer = hook()
    except Exception:
        return {}
    return offer if isinstance(offer, Mapping) else {}


def _infos() -> dict[str, plugins.PluginInfo]:
    return {info.name: info for info in plugins.installed_plugins()}


def _installed_name(plugin: object) -> str | None:
    if isinstance(plugin, str):
        return plugin
    entry = _entry_point(plugin)
    return entry.name if entry is not None and entry.name in _infos() else None


def _names(offered: Mapping[str, Mapping[str, object]]) -> dict[str, list[str]]:
    return {kind: sorted(names) for kind, names in offered.items() if names}


def _entry_point(plugin: object) -> metadata.EntryPoint | None:
    for entry in metadata.entry_points(group=plugins.GROUP):
        imported = _imported(entry)
        if plugin == entry.name or (imported is not None and plugin is imported):
            return entry
    return None


def _imported(entry: metadata.EntryPoint) -> object:
    """Return the object that an entry point names, or None if it is not imported yet."""
    found: object = sys.modules.get(entry.module)
    for attribute in filter(None, (entry.attr or "").split(".")):
        found = getattr(found, attribute, None)
    return found


def _object(given: object) -> object:
    """Return the plugin object, or None where only its name is known."""
    if not isinstance(given, str):
        return given
    entry = _entry_point(given)
    return None if entry is None else entry.load()
