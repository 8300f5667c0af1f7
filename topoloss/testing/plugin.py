"""What is asked of a plugin: agreement of its hooks, its names and its metadata."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from importlib import metadata
from typing import Any

from topoloss import registry
from topoloss.errors import PluginError, UnknownNameError, nearest
from topoloss.testing.checks import Given, Kind, NotApplicable, Subject, require

__all__ = ["KIND", "check_known", "offers"]

_DISTRIBUTION = "topoloss-framework"
_HOOKS = {kind: hook for kind, (hook, _) in registry.KINDS.items()}


def registration(subject: Subject) -> None:
    """The plugin loads, or can be registered and taken out again."""
    plugin = subject.make()
    name = _installed_name(plugin)
    if name is None:
        try:
            registry.unregister(registry.register(plugin))
        except PluginError as error:
            problem = str(error)
        else:
            return
    else:
        problem = _infos()[name].problem or _infos()[name].status
    require(
        problem == "loaded",
        expected="a plugin that loads",
        received=problem,
        mend="see the message: it names the hook, the import or the name at fault",
    )


def hooks(subject: Subject) -> None:
    """Every function named like a hook is marked as one."""
    plugin = _object(subject.make())
    # A plain function of that name is not a hook to the plugin manager, which says nothing.
    unmarked = [
        name
        for name in dir(plugin)
        if name in _HOOKS.values() and not hasattr(getattr(plugin, name), "topoloss_impl")
    ]
    require(
        not unmarked,
        expected="@topoloss.hookimpl on every hook",
        received=f"none on {', '.join(unmarked)}, which will never be asked",
        mend="decorate it with @topoloss.hookimpl",
    )


def names(subject: Subject) -> None:
    """The names that the plugin offers can be looked up, and written on the command line."""
    plugin = subject.make()
    installed = _installed_name(plugin) is not None
    for kind, offered in offers(plugin).items():
        for name in offered:
            require(
                re.fullmatch(r"[^\s=,:]+", name) is not None,
                expected="a name without spaces and the signs = , :",
                received=repr(name),
                mend="name it for example 'my-name': `topoloss compare` reads NAME=WEIGHT,WEIGHT",
            )
            require(
                not installed or name in registry.available(kind),  # type: ignore[arg-type]
                expected=f"{name!r} among the available names of the {kind}s",
                received=registry.available(kind),  # type: ignore[arg-type]
                mend="return the same dictionary whenever the hook is asked",
            )


def requirement(subject: Subject) -> None:
    """The distribution of an installed plugin requires topoloss-framework."""
    entry = _entry_point(subject.make())
    if entry is None or entry.dist is None:
        raise NotApplicable("it does not come from an installed distribution")
    if entry.dist.name == _DISTRIBUTION:
        raise NotApplicable(f"it is part of {_DISTRIBUTION}")
    required = [re.split(r"[^\w.-]", line)[0] for line in entry.dist.requires or ()]
    require(
        any(re.sub(r"[-_.]+", "-", name).lower() == _DISTRIBUTION for name in required),
        expected=f"{_DISTRIBUTION} among the dependencies of {entry.dist.name}",
        received=required,
        mend=f'write dependencies = ["{_DISTRIBUTION}"] in its pyproject.toml',
    )


KIND = Kind(
    base=object,
    generic=lambda plugin, seed: Given("", ()),
    special=lambda plugin: [],
    apply=lambda plugin: [],
    rules=(registration, hooks, names, requirement),
)


def check_known(name: str) -> None:
    """Raise an `UnknownNameError` unless there is a plugin of this name."""
    if name not in _infos():
        raise UnknownNameError(
            f"no plugin is named {name!r}; there are {sorted(_infos())}.{nearest(name, _infos())}"
        )


def offers(plugin: object) -> Mapping[str, Mapping[str, Callable[..., Any]]]:
    """Return kind to name to factory, of a plugin by name or of the plugin itself."""
    name = _installed_name(plugin)
    if name is not None:
        return {
            kind: {offered: partial(getattr(registry, kind), offered) for offered in listed}
            for kind, listed in _infos()[name].offers.items()
        }
    asked = {
        kind: getattr(plugin, hook)() for kind, hook in _HOOKS.items() if hasattr(plugin, hook)
    }
    # What is no dictionary is refused by the rule `registration`.
    return {kind: offer for kind, offer in asked.items() if isinstance(offer, Mapping)}


def _infos() -> dict[str, registry.PluginInfo]:
    return {info.name: info for info in registry.installed_plugins()}


def _installed_name(plugin: object) -> str | None:
    if isinstance(plugin, str):
        return plugin
    entry = _entry_point(plugin)
    return entry.name if entry is not None and entry.name in _infos() else None


def _entry_point(plugin: object) -> metadata.EntryPoint | None:
    for entry in metadata.entry_points(group=registry.GROUP):
        if entry.name == plugin or (entry.module in sys.modules and entry.load() is plugin):
            return entry
    return None


def _object(plugin: object) -> object:
    if not isinstance(plugin, str):
        return plugin
    entry = _entry_point(plugin)
    if entry is None:
        raise NotApplicable("it was registered by name; check the plugin itself for this")
    return entry.load()
