"""The registry of plugins: loads entry points, and finds the factory behind each name."""

from __future__ import annotations

import inspect
import os
import threading
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal, TypeAlias

import pluggy

from topoloss import hookspecs
from topoloss.engines import Persistence
from topoloss.errors import (
    PluginError,
    PluginWarning,
    UnknownNameError,
    listed,
    nearest,
)
from topoloss.expressions import is_writable
from topoloss.extras import DISTRIBUTION, remedy
from topoloss.filtrations import Filtration
from topoloss.losses import Loss
from topoloss.regularisers import Regulariser
from topoloss.samplers import Sampler

__all__ = ["DISTRIBUTION", "GROUP", "KINDS", "Factory", "Kind", "PluginInfo", "PluginRegistry"]

GROUP = "topoloss"
DISABLE_VARIABLE = "TOPOLOSS_DISABLE_PLUGINS"

Factory: TypeAlias = Callable[..., Any]
Kind: TypeAlias = Literal["filtration", "persistence", "loss", "regulariser", "sampler"]

# kind -> (hook, base class of what the factories return)
KINDS: Mapping[str, tuple[str, type[Any]]] = {
    "filtration": ("topoloss_filtrations", Filtration),
    "persistence": ("topoloss_persistence", Persistence),
    "loss": ("topoloss_losses", Loss),
    "regulariser": ("topoloss_regularisers", Regulariser),
    "sampler": ("topoloss_samplers", Sampler),
}

# The stages of a pipeline, with a name for each that errors give as an example.
_STAGES = {"filtration": "correlation", "persistence": "mst", "loss": "t1"}


@dataclass(frozen=True)
class PluginInfo:
    """One plugin: where it comes from, what it offers, or why it did not load.

    Attributes
    ----------
    name : str
        Entry-point name, or the name it was registered under.
    source : str
        Distribution and version, or ``"registered"``.
    status : {"loaded", "disabled", "failed"}
    offers : dict of str to tuple of str
        Names by kind.
    reason : str
        Why it failed, and the extra to install where one is missing; empty otherwise.
    shipped : bool
        Whether it comes in the distribution of topoloss itself.
    """

    name: str
    source: str
    status: Literal["loaded", "disabled", "failed"]
    offers: Mapping[str, tuple[str, ...]]
    reason: str = ""
    shipped: bool = False


# kind -> name -> plugin name -> factory
_Table: TypeAlias = dict[str, dict[str, dict[str, Factory]]]


_INSTALL = "In a bare checkout of topoloss run: pip install -e ."


class PluginRegistry:
    """All plugins: the installed ones, loaded at the first lookup, and those registered.

    A process has one registry, which the functions of :mod:`topoloss.plugins` use. Everything
    happens under one lock, so no thread sees half a change.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._clear()

    def _clear(self) -> None:
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(hookspecs)
        self._table: _Table = {kind: defaultdict(dict) for kind in KINDS}
        self._infos: dict[str, PluginInfo] = {}
        self._state: Literal["unloaded", "loading", "loaded"] = "unloaded"

    def installed_plugins(self) -> list[PluginInfo]:
        """Return every plugin found, loaded or not, sorted by name."""
        with self._loaded():
            return [info for _, info in sorted(self._infos.items())]

    def available(self, kind: str) -> list[str]:
        """Return the names of a kind of component, sorted."""
        with self._loaded():
            return self._available(kind)

    def find(self, kind: str, name: str) -> Factory:
        """Return the factory of this kind and name, which may be ``plugin:name``."""
        with self._loaded():
            plugin, _, plain = name.rpartition(":") if isinstance(name, str) else ("", "", "")
            for owner, spelling in self._spellings(kind, plain).items():
                if name == spelling or plugin == owner:
                    return self._table[kind][plain][owner]
            if not plugin and plain in self._table[kind]:
                raise PluginError(self._clash(kind, plain))
            raise UnknownNameError(self._unknown(kind, name))

    def clashes(self) -> list[str]:
        """Return one sentence for each name that more than one installed plugin offers."""
        with self._loaded():
            return self._clashes()

    def register(self, plugin: object, name: str | None = None) -> str:
        """Register a plugin and return its name: see :func:`register`."""
        with self._loaded():
            name = name or _plugin_name(plugin)
            if name in self._infos:
                raise PluginError(
                    f"a plugin named {name!r} already exists ({self._infos[name].source}); "
                    "pass register(plugin, name=...) another name, or unregister that one first."
                )
            self._accept(plugin, name, "registered", unique=True)
            return name

    def unregister(self, name_or_plugin: object) -> None:
        """Unregister a plugin: see :func:`unregister`."""
        with self._loaded():
            name = (
                name_or_plugin if isinstance(name_or_plugin, str) else self._name_of(name_or_plugin)
            )
            if name is None or not self._manager.has_plugin(name):
                known = sorted(str(n) for n, _ in self._manager.list_name_plugin())
                raise UnknownNameError(
                    f"no plugin {name_or_plugin!r} is registered; there are {listed(known)}."
                )
            self._forget(name)

    @contextmanager
    def _loaded(self) -> Iterator[None]:
        """Hold the lock; at the first lookup, load the entry points."""
        with self._lock:
            if self._state == "loading":
                raise PluginError(
                    "a plugin used the registry while the installed plugins were being loaded; "
                    "look names up in its factories, not on import or in its hooks."
                )
            if self._state == "unloaded":
                self._load()
            yield

    def _load(self) -> None:
        self._state = "loading"
        try:
            complaints = self._load_entry_points() + self._clashes()
        except BaseException:
            self._clear()  # interrupted: the next lookup starts afresh
            raise
        self._state = "loaded"
        # If warnings are errors, the first one ends the loop; by then every plugin is loaded.
        for complaint in complaints:
            warnings.warn(complaint, PluginWarning, stacklevel=2)

    def _load_entry_points(self) -> list[str]:
        """Load the entry points one by one, and return the warnings to give."""
        disabled = {n.strip() for n in os.environ.get(DISABLE_VARIABLE, "").split(",")}
        # Among entry points of one name the shipped one comes first, and keeps the name.
        found = sorted(
            metadata.entry_points(group=GROUP), key=lambda e: (e.name, not _is_shipped(e))
        )
        if not found:
            return [f"no plugin is installed in the entry-point group {GROUP!r}. {_INSTALL}"]
        complaints = []
        for entry in found:
            source = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "unknown"
            shipped = _is_shipped(entry)
            name = entry.name
            if name in self._infos and entry.dist:
                name = f"{entry.name}@{entry.dist.name}"
            if entry.name in disabled:
                self._infos[name] = PluginInfo(name, source, "disabled", {}, shipped=shipped)
                continue
            # A third party's import can raise anything; it must not take the others down.
            try:
                self._accept(entry.load(), name, source, unique=False, shipped=shipped)
            except (Exception, SystemExit) as error:
                reason = _cause(error, entry.dist)
                self._infos[name] = PluginInfo(name, source, "failed", {}, reason, shipped)
                complaints.append(
                    f"plugin {name!r} of distribution {source} did not load: {reason}. "
                    f"Everything else works; {DISABLE_VARIABLE}={entry.name} silences this."
                )
        return complaints

    def _accept(
        self, plugin: object, name: str, source: str, *, unique: bool, shipped: bool = False
    ) -> None:
        """Register with pluggy, then ask each hook once; undo everything on failure."""
        if inspect.isclass(plugin):
            raise PluginError(
                f"plugin {name!r} is the class {plugin.__name__}; register an instance "
                "of it, or point the entry point at a module or an instance."
            )
        if self._manager.is_registered(plugin):
            raise PluginError(
                f"this plugin is already registered as {self._manager.get_name(plugin)!r}."
            )
        try:
            self._manager.register(plugin, name)
            self._manager.check_pending()
            offers = self._ask(plugin, name)
            if unique:
                self._check_unique(offers, name)
        except pluggy.PluginValidationError as error:
            self._manager.unregister(name=name)
            known = ", ".join(hook for hook, _ in KINDS.values())
            raise PluginError(f"plugin {name!r}: {error}. Known hooks: {known}.") from error
        except BaseException:
            self._manager.unregister(name=name)
            raise
        for kind, factories in offers.items():
            for offered, factory in factories.items():
                self._table[kind][offered][name] = factory
        of_kind = {kind: tuple(factories) for kind, factories in offers.items() if factories}
        self._infos[name] = PluginInfo(name, source, "loaded", of_kind, shipped=shipped)

    def _ask(self, plugin: object, name: str) -> dict[str, Mapping[str, Factory]]:
        offers: dict[str, Mapping[str, Factory]] = {}
        for kind, (hook, _) in KINDS.items():
            for implementation in getattr(self._manager.hook, hook).get_hookimpls():
                if implementation.plugin is plugin:
                    offers[kind] = _checked_offer(implementation.function(), kind, name)
        if not offers:
            known = ", ".join(hook for hook, _ in KINDS.values())
            raise PluginError(
                f"plugin {name!r} implements no hook; decorate one of {known} with "
                "@topoloss.hookimpl and register an instance or a module."
            )
        return offers

    def _check_unique(self, offers: Mapping[str, Mapping[str, Factory]], name: str) -> None:
        for kind, factories in offers.items():
            for offered in factories:
                owners = self._table[kind].get(offered)
                if owners:
                    raise PluginError(
                        f"plugin {name!r} offers the {kind} {offered!r}, which "
                        f"{next(iter(owners))!r} offers already; choose another name."
                    )

    def _name_of(self, plugin: object) -> str | None:
        # By identity: another plugin may be equal to this one.
        return next((n for n, p in self._manager.list_name_plugin() if p is plugin), None)

    def _forget(self, name: str) -> None:
        self._manager.unregister(name=name)
        self._infos.pop(name, None)
        for names in self._table.values():
            for offered in list(names):
                names[offered].pop(name, None)
                if not names[offered]:
                    del names[offered]

    def _available(self, kind: str) -> list[str]:
        names = list(self._table[kind])
        return sorted(spelling for n in names for spelling in self._spellings(kind, n).values())

    def _spellings(self, kind: str, name: str) -> dict[str, str]:
        """How to write this name for each plugin that offers it.

        The plain name means the only plugin that offers it or, of several, the shipped one. So
        no other plugin can take over a shipped name.
        """
        owners = list(self._table[kind].get(name, ()))
        shipped = [o for o in owners if self._infos[o].shipped]
        entitled = next((each for each in (owners, shipped) if len(each) == 1), [])
        return {o: name if o in entitled else f"{o}:{name}" for o in owners}

    def _unknown(self, kind: str, name: object) -> str:
        known = self._available(kind)
        message = f"no {kind} is named {name!r}; there are {listed(known)}."
        others = [other for other in KINDS if name in self._available(other)]
        if others:
            written = " and a ".join(others)
            message += f" {name!r} is a {written}: topoloss.{others[0]}({name!r})."
            if kind == "regulariser" and others[0] in _STAGES:
                message += (
                    f" A regulariser with it is for example {_with_stage(others[0], name)!r}."
                )
        elif isinstance(name, str):
            message += nearest(name, known)
        if not any(info.source != "registered" for info in self._infos.values()):
            message += f" {_INSTALL}"
        for info in self._infos.values():
            if info.status == "failed":
                message += f" Plugin {info.name!r} failed to load: {info.reason}"
            elif info.status == "disabled":
                message += f" Plugin {info.name!r} is disabled by {DISABLE_VARIABLE}."
        return message

    def _clashes(self) -> list[str]:
        return [
            self._clash(kind, name)
            for kind, names in self._table.items()
            for name, owners in names.items()
            if len(owners) > 1
        ]

    def _clash(self, kind: str, name: str) -> str:
        spellings = self._spellings(kind, name)
        owned = ", ".join(f"{owner!r} ({self._infos[owner].source})" for owner in spellings)
        shipped = f"{name!r} means the shipped one, " if name in spellings.values() else ""
        qualified = [repr(spelling) for spelling in spellings.values() if spelling != name]
        return (
            f"the {kind} {name!r} is offered by {owned}; {shipped}write {' or '.join(qualified)} "
            f"{'for another' if shipped else 'for one of them'}, or disable all but one with "
            f"{DISABLE_VARIABLE} or topoloss.unregister."
        )


def _with_stage(stage: str, name: object) -> str:
    """An example of a pipeline that has a stage of this name."""
    return "/".join(str(name) if each == stage else usual for each, usual in _STAGES.items())


def _plugin_name(plugin: object) -> str:
    name = getattr(plugin, "__name__", None)
    return name if isinstance(name, str) else type(plugin).__name__


def _is_shipped(entry: metadata.EntryPoint) -> bool:
    return entry.dist is not None and entry.dist.name == DISTRIBUTION


def _cause(error: BaseException, distribution: metadata.Distribution | None) -> str:
    cause = f"{type(error).__name__}: {error}"
    if isinstance(error, ModuleNotFoundError) and error.name and distribution:
        cause += remedy(error.name, distribution)
    return cause


def _checked_offer(offer: object, kind: str, plugin: str) -> Mapping[str, Factory]:
    hook, base = KINDS[kind]
    # Refuse a component, though it may be callable: all users would share that one instance.
    if not isinstance(offer, Mapping) or not all(
        isinstance(name, str) and callable(factory) and not isinstance(factory, base)
        for name, factory in offer.items()
    ):
        raise PluginError(
            f"plugin {plugin!r}: {hook} returned {offer!r}; expected a dictionary from name to "
            "factory, such as {'my-name': MyClass}."
        )
    unwritable = [name for name in offer if not is_writable(name)]
    if unwritable:
        raise PluginError(
            f"plugin {plugin!r}: {hook} offers the name {unwritable[0]!r}, which nobody can ask "
            "for; expected a name without blanks, quotes and the signs = , : + / [ ], such as "
            "'my-name'."
        )
    return offer
