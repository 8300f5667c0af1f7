"""Plugins: registering them, and finding what they offer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from topoloss.errors import check_choice
from topoloss.registry import (
    DISTRIBUTION,
    GROUP,
    KINDS,
    Factory,
    Kind,
    PluginInfo,
    PluginRegistry,
)

__all__ = [
    "DISTRIBUTION",
    "GROUP",
    "KINDS",
    "Factory",
    "Kind",
    "PluginInfo",
    "PluginRegistry",
    "available",
    "clashes",
    "find",
    "installed_plugins",
    "register",
    "registered",
    "unregister",
    "using_registry",
]

# The registry of this process.
_current = PluginRegistry()


def register(plugin: object, name: str | None = None) -> str:
    """Register a plugin in this process.

    Parameters
    ----------
    plugin : object
        A module or an instance with methods marked ``@topoloss.hookimpl``.
    name : str, optional
        Name for :func:`unregister`; by default that of the module or class.

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
    ...         return sum((d.weights * d.deaths).sum() for d in diagrams)
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
    return _current.register(plugin, name)


def unregister(name_or_plugin: object) -> None:
    """Unregister a plugin, with every name that it offers.

    Parameters
    ----------
    name_or_plugin : str or object
        The name that :func:`register` returned, an entry point's name, or the plugin itself.

    Raises
    ------
    UnknownNameError
        If no such plugin is registered.
    """
    _current.unregister(name_or_plugin)


@contextmanager
def registered(plugin: object, name: str | None = None) -> Iterator[str]:
    """Register a plugin, and unregister it at the end of a ``with`` block, even after an error.

    Parameters
    ----------
    plugin : object
        As for :func:`register`.
    name : str, optional
        As for :func:`register`.

    Yields
    ------
    str
        The name.

    Raises
    ------
    PluginError
        As :func:`register` does, before the block is entered.

    Notes
    -----
    The plugin is registered in the whole process: other threads see it as well.

    Examples
    --------
    >>> import topoloss
    >>> class Longest(topoloss.Loss):
    ...     def forward(self, diagrams):
    ...         return diagrams[0].deaths.amax()
    >>> class MyPlugin:
    ...     @topoloss.hookimpl
    ...     def topoloss_losses(self):
    ...         return {"longest": Longest}
    >>> with topoloss.registered(MyPlugin()):
    ...     topoloss.loss("longest")
    Longest()
    >>> "longest" in topoloss.available("loss")
    False
    """
    registered_name = _current.register(plugin, name)
    try:
        yield registered_name
    finally:
        _current.unregister(plugin)


def available(kind: Kind) -> list[str]:
    """Return the names of a kind of component, sorted.

    A name that several plugins offer is listed once for each, as ``plugin:name``; the one that the
    plain name means is listed as the plain name.

    Examples
    --------
    >>> import topoloss
    >>> topoloss.available("sampler")
    ['all', 'importance', 'random']
    """
    check_choice("kind", kind, KINDS)
    return _current.available(kind)


def installed_plugins() -> list[PluginInfo]:
    """Return every plugin found, loaded or not, sorted by name."""
    return _current.installed_plugins()


def clashes() -> list[str]:
    """Return one sentence for each name that more than one installed plugin offers."""
    return _current.clashes()


def find(kind: Kind, name: str) -> Factory:
    """Return the factory of this kind and name.

    Parameters
    ----------
    kind : str
    name : str
        As a plugin offers it, or ``plugin:name``. If several plugins offer the plain name, it
        means the shipped one.

    Raises
    ------
    UnknownNameError
        If nobody offers it, listing the known names and the nearest match.
    PluginError
        If more than one installed plugin offers it, and none of them is shipped.
    """
    return _current.find(kind, name)


@contextmanager
def using_registry(registry: PluginRegistry) -> Iterator[PluginRegistry]:
    """Replace the registry of the process for the length of a ``with`` block.

    Parameters
    ----------
    registry : PluginRegistry
        A new one, ``PluginRegistry()``, starts afresh: it loads the entry points at its first
        lookup, and knows nothing that was registered before. Tests of plugins need that.

    Yields
    ------
    PluginRegistry
        The one that was given.

    Notes
    -----
    The whole process uses the registry: other threads see the change as well.

    Examples
    --------
    >>> import topoloss
    >>> from topoloss.plugins import PluginRegistry, using_registry
    >>> with using_registry(PluginRegistry()):
    ...     topoloss.available("sampler")
    ['all', 'importance', 'random']
    """
    global _current
    before, _current = _current, registry
    try:
        yield registry
    finally:
        _current = before
