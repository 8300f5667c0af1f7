"""Every error and warning that the library raises on purpose.

Each message says what was given, what was expected and what to do about it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "AttachmentError",
    "AttachmentWarning",
    "InputError",
    "MissingExtraError",
    "NonFiniteError",
    "OptionError",
    "PluginError",
    "PluginWarning",
    "TooLargeError",
    "TopolossError",
    "UnknownNameError",
]


class TopolossError(Exception):
    """Base class of every error raised by topoloss."""


class InputError(TopolossError, ValueError):
    """A tensor, model or value that the library cannot work on."""


class NonFiniteError(InputError):
    """Activations that hold NaN or infinity."""


class TooLargeError(InputError):
    """A problem whose memory would exceed the configured limit."""


class OptionError(TopolossError, TypeError):
    """An option that does not exist, or a value that it does not accept."""


class UnknownNameError(TopolossError, LookupError):
    """A name that no installed or registered plugin offers."""


class PluginError(TopolossError):
    """A plugin that breaks the rules of registration."""


class MissingExtraError(TopolossError, ImportError):
    """An optional dependency that is not installed."""


class AttachmentError(TopolossError, RuntimeError):
    """A model that cannot be observed, or was not in the way that was asked for."""


class AttachmentWarning(UserWarning):
    """A layer that is left out, or an attachment that nobody kept."""


class PluginWarning(UserWarning):
    """An installed plugin that could not be loaded, or a name that several of them offer.

    Everything else still works.
    """


def nearest(given: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest known name, or an empty string."""
    by_lower_case = {name.lower(): name for name in known}
    matches = difflib.get_close_matches(given.lower(), by_lower_case, n=1)
    return f" Did you mean {by_lower_case[matches[0]]!r}?" if matches else ""


def check_choice(option: str, given: object, known: Iterable[str]) -> None:
    """Raise an `OptionError` unless `given` is one of the `known` values of `option`."""
    known = tuple(known)
    if given not in known:
        listed = ", ".join(repr(k) for k in known)
        hint = nearest(given, known) if isinstance(given, str) else ""
        raise OptionError(f"{option}={given!r} is not one of {listed}.{hint}")
