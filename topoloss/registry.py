"""Names to components: the plugin manager, its entry points, and selection by name."""

from __future__ import annotations

import inspect
import os
import threading
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal, TypeAlias

import pluggy

from topoloss import hookspecs
from topoloss.diagrams import Persistence
from topoloss.errors import (
    OptionError,
    PluginError,
    PluginWarning,
    UnknownNameError,
    check_choice,
    nearest,
)
from topoloss.filtrations import Filtration
from topoloss.losses import Loss
from topoloss.regularisers import Pipeline, Regulariser
from topoloss.samplers import Sampler

__all__ = [
    "PluginInfo",
    "available",
    "filtration",
    "installed_plugins",
    "loss",
    "persistence",
    "pipeline",
    "register",
    "regulariser",
    "sampler",
    "unregister",
]

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
    problem : str
        Why it failed, empty otherwise.
    """

    name: str
    source: str
    status: Literal["loaded", "disabled", "failed"]
    offers: Mapping[str, tuple[str, ...]]
    problem: str = ""


# kind -> name -> plugin name -> factory
_Table: TypeAlias = dict[str, dict[str, dict[str, Factory]]]


class _Registry:
    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(hookspecs)
        self._table: _Table = {kind: defaultdict(dict) for kind in KINDS}
        self._infos: dict[str, PluginInfo] | None = None

    def infos(self) -> dict[str, PluginInfo]:
        """Load the entry points, once, and return what is known of every plugin."""
        with self._lock:
            if self._infos is None:
                self._infos = {}
                self._load_entry_points()
            return self._infos

    def offers(self, kind: str) -> dict[str, dict[str, Factory]]:
        self.infos()
        return self._table[kind]

    def add(self, plugin: object, name: str | None) -> str:
        with self._lock:
            infos = self.infos()
            name = name or _plugin_name(plugin)
            if name in infos:
                raise PluginError(
                    f"a plugin named {name!r} is already there ({infos[name].source}); "
                    "pass register(plugin, name=...) another name, or unregister that one first."
                )
            self._accept(plugin, name, "registered", unique=True)
            return name

    def remove(self, name_or_plugin: object) -> None:
        with self._lock:
            self.infos()
            name = (
                name_or_plugin
                if isinstance(name_or_plugin, str)
                else self._manager.get_name(name_or_plugin)
            )
            if name is None or not self._manager.has_plugin(name):
                known = sorted(str(n) for n, _ in self._manager.list_name_plugin())
                raise UnknownNameError(
                    f"no plugin {name_or_plugin!r} is registered; there are {known}."
                )
            self._forget(name)

    def _load_entry_points(self) -> None:
        disabled = {n.strip() for n in os.environ.get(DISABLE_VARIABLE, "").split(",")}
        found = sorted(metadata.entry_points(group=GROUP), key=lambda e: e.name)
        if not found:
            self._warn(f"no plugin is installed in the entry-point group {GROUP!r}. {_INSTALL}")
        warned = []
        for entry in found:
            source = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "unknown"
            name = entry.name if entry.name not in self._known() else f"{entry.name} ({source})"
            if entry.name in disabled:
                self._known()[name] = PluginInfo(name, source, "disabled", {})
                continue
            # A third party's import can raise anything; it must not take the others down.
            try:
                self._accept(entry.load(), name, source, unique=False)
            except (Exception, SystemExit) as error:
                problem = f"{type(error).__name__}: {error}"
                self._known()[name] = PluginInfo(name, source, "failed", {}, problem)
                warned.append(
                    f"plugin {name!r} of distribution {source} did not load: {problem}. "
                    f"Everything else works; {DISABLE_VARIABLE}={entry.name} silences this."
                )
        # Where warnings are errors the first ends the loop, and every plugin is in by then.
        for message in warned:
            self._warn(message)

    def _accept(self, plugin: object, name: str, source: str, *, unique: bool) -> None:
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
        listed = {kind: tuple(factories) for kind, factories in offers.items() if factories}
        self._known()[name] = PluginInfo(name, source, "loaded", listed)

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

    def _forget(self, name: str) -> None:
        self._manager.unregister(name=name)
        self._known().pop(name, None)
        for names in self._table.values():
            for offered in list(names):
                names[offered].pop(name, None)
                if not names[offered]:
                    del names[offered]

    def _known(self) -> dict[str, PluginInfo]:
        assert self._infos is not None
        return self._infos

    @staticmethod
    def _warn(message: str) -> None:
        warnings.warn(message, PluginWarning, stacklevel=2)


_INSTALL = "In a bare checkout of topoloss run: pip install -e ."
_registry = _Registry()


def _plugin_name(plugin: object) -> str:
    name = getattr(plugin, "__name__", None)
    return name if isinstance(name, str) else type(plugin).__name__


def _checked_offer(offer: object, kind: str, plugin: str) -> Mapping[str, Factory]:
    hook, base = KINDS[kind]
    # An instance is refused, though a module can be called: all users would share it.
    if not isinstance(offer, Mapping) or not all(
        isinstance(name, str) and callable(factory) and not isinstance(factory, base)
        for name, factory in offer.items()
    ):
        raise PluginError(
            f"plugin {plugin!r}: {hook} returned {offer!r}; expected a dictionary from name to "
            "factory, such as {'my-name': MyClass}."
        )
    return offer


def register(plugin: object, name: str | None = None) -> str:
    """Register a plugin of this process.

    Parameters
    ----------
    plugin : object
        A module or an instance with methods marked ``@topoloss.hookimpl``.
    name : str, optional
        Name to :func:`unregister` by; the module's or class's name by default.

    Returns
    -------
    str
        The name.

    Raises
    ------
    PluginError
        If a hook is unknown, returns the wrong type, or offers a name that is taken.
        Nothing is registered then.

    Examples
    --------
    >>> import topoloss
    >>> class Sum(topoloss.Loss):
    ...     def forward(self, diagrams):
    ...         return sum(d.deaths.sum() for d in diagrams)
    >>> class MyPlugin:
    ...     @topoloss.hookimpl
    ...     def topoloss_losses(self):
    ...         return {"my-sum": Sum}
    >>> topoloss.register(MyPlugin())
    'MyPlugin'
    >>> topoloss.loss("my-sum")
    Sum()
    >>> topoloss.unregister("MyPlugin")
    """
    return _registry.add(plugin, name)


def unregister(name_or_plugin: object) -> None:
    """Take a plugin out again, with every name that it offers."""
    _registry.remove(name_or_plugin)


def available(kind: Kind) -> list[str]:
    """Return the names of a kind of component, sorted.

    Examples
    --------
    >>> import topoloss
    >>> topoloss.available("persistence")
    ['mst']
    """
    check_choice("kind", kind, KINDS)
    return sorted(_registry.offers(kind))


def installed_plugins() -> list[PluginInfo]:
    """Return every plugin found, loaded or not, sorted by name."""
    return [info for _, info in sorted(_registry.infos().items())]


def filtration(name: str, **options: Any) -> Filtration:
    """Construct the filtration of this name.

    Examples
    --------
    >>> import topoloss
    >>> topoloss.filtration("correlation").order
    'abs_dot_descending'
    """
    made: Filtration = _construct("filtration", name, options)
    return made


def persistence(name: str, **options: Any) -> Persistence:
    """Construct the persistence engine of this name."""
    made: Persistence = _construct("persistence", name, options)
    return made


def loss(name: str, **options: Any) -> Loss:
    """Construct the loss of this name."""
    made: Loss = _construct("loss", name, options)
    return made


def sampler(name: str, **options: Any) -> Sampler:
    """Construct the sampler of this name."""
    made: Sampler = _construct("sampler", name, options)
    return made


def regulariser(name: str, **options: Any) -> Regulariser:
    """Construct the regulariser of this name.

    Parameters
    ----------
    name : str
        One of ``topoloss.available("regulariser")``.
    **options
        Options of that regulariser.

    Raises
    ------
    UnknownNameError, OptionError
        Listing the known names or options, and the nearest match.

    Examples
    --------
    >>> import torch, topoloss
    >>> reg = topoloss.regulariser("t2", alpha=1.0)
    >>> x = torch.tensor([[1.0, 1.0, 0.0], [2.0, -2.0, 1.0], [3.0, 1.0, 0.0]])
    >>> reg(x)
    tensor(-0.2500)
    """
    made: Regulariser = _construct("regulariser", name, options)
    return made


def pipeline(
    filtration: str | Filtration,
    persistence: str | Persistence = "mst",
    loss: str | Loss = "t1",
    **options: Any,
) -> Pipeline:
    """Join a filtration, a persistence engine and a loss, by name or instance.

    Parameters
    ----------
    filtration, persistence, loss
        Names or instances, in any mixture.
    **options
        ``on_nonfinite`` and ``check_finite``, see :class:`Regulariser`.

    Examples
    --------
    >>> import topoloss
    >>> reg = topoloss.pipeline("cosine", "mst", topoloss.loss("t2", beta=0.0))
    """
    stages = {"filtration": filtration, "persistence": persistence, "loss": loss}
    made: dict[str, Any] = {
        kind: _construct(kind, given, {}) if isinstance(given, str) else given
        for kind, given in stages.items()
    }
    _check_options("pipeline", Pipeline, made | options)
    return Pipeline(**made, **options)


def _construct(kind: str, name: str, options: Mapping[str, Any]) -> Any:
    factory = _find(kind, name)
    _check_options(f"{kind} {name!r}", factory, options)
    made = factory(**options)
    base = KINDS[kind][1]
    if not isinstance(made, base):
        raise PluginError(
            f"the factory of {kind} {name!r} returned {made!r}; expected a "
            f"topoloss.{base.__name__}."
        )
    return made


def _find(kind: str, name: str) -> Factory:
    offers = _registry.offers(kind)
    owners = offers.get(name) if isinstance(name, str) else None
    if not owners:
        raise UnknownNameError(_unknown(kind, name, offers))
    if len(owners) > 1:
        listed = ", ".join(f"{o!r} ({_registry.infos()[o].source})" for o in owners)
        raise PluginError(
            f"the {kind} {name!r} is offered by {listed}; disable all but one with "
            f"{DISABLE_VARIABLE} or topoloss.unregister."
        )
    return next(iter(owners.values()))


def _unknown(kind: str, name: object, offers: Mapping[str, object]) -> str:
    infos = _registry.infos().values()
    message = f"no {kind} is named {name!r}; there are {sorted(offers)}."
    if isinstance(name, str):
        message += nearest(name, offers)
    if not any(info.source != "registered" for info in infos):
        message += f" {_INSTALL}"
    for info in infos:
        if info.status == "failed":
            message += f" Plugin {info.name!r} failed to load: {info.problem}"
        elif info.status == "disabled":
            message += f" Plugin {info.name!r} is disabled by {DISABLE_VARIABLE}."
    return message


def _check_options(what: str, factory: Factory, options: Mapping[str, Any]) -> None:
    """Refuse options that the factory does not take, naming those that it does."""
    signature = inspect.signature(factory)
    try:
        signature.bind(**options)
    except TypeError as error:
        known = [
            p.name
            for p in signature.parameters.values()
            if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        unknown = [option for option in options if option not in known]
        hint = nearest(unknown[0], known) if unknown else ""
        raise OptionError(f"{what}: {error}; its options are {known or 'none'}.{hint}") from error
