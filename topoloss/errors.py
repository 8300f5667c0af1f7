"""Every error and warning that the library raises on purpose, and the checks of options.

Each message says what was given, what was expected and what to do about it.
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from math import isfinite
from typing import Any

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
    "check_choice",
    "check_flag",
    "check_number",
    "listed",
    "nearest",
    "shown",
]


class TopolossError(Exception):
    """Base class of every error raised by topoloss."""


class InputError(TopolossError, ValueError):
    """A tensor, model or value that the library cannot work on."""


class NonFiniteError(InputError):
    """Activations that hold NaN or infinity."""


class TooLargeError(InputError):
    """Input that would take more memory than the configured limit, or than there is."""


class OptionError(TopolossError, TypeError):
    """An option that does not exist, or a value that it does not accept."""


class UnknownNameError(TopolossError, LookupError):
    """A name that no installed or registered plugin offers."""


class PluginError(TopolossError):
    """A plugin that breaks the rules of registration."""


class MissingExtraError(TopolossError, ImportError):
    """An optional dependency that is not installed."""


class AttachmentError(TopolossError, RuntimeError):
    """A model that cannot be observed, or was not observed as asked."""


class AttachmentWarning(UserWarning):
    """A layer that is left out, or an attachment that was not kept in a variable."""


class PluginWarning(UserWarning):
    """An installed plugin that could not be loaded, or a name that several of them offer.

    Everything else still works.
    """


def listed(words: Iterable[str], last: str = "and") -> str:
    """Join words by commas and a last "and".

    Examples
    --------
    >>> from topoloss.errors import listed
    >>> listed(["t1", "t2", "naive"])
    't1, t2 and naive'
    """
    *others, end = list(words) or ["none"]
    return f"{', '.join(others)} {last} {end}" if others else end


def nearest(given: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest known name, or an empty string."""
    by_lower_case = {name.lower(): name for name in known}
    matches = difflib.get_close_matches(given.lower(), by_lower_case, n=1)
    return f" Did you mean {by_lower_case[matches[0]]!r}?" if matches else ""


def shown(given: object) -> str:
    """Show a value in an error message: briefly, and even if its `repr` fails."""
    try:
        return _SHORT.repr(given)
    except Exception:  # an integer of thousands of digits, or an object of the user's own
        return f"a value of type {type(given).__name__}"


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 200


def check_choice(option: str, given: object, known: Iterable[str]) -> None:
    """Raise an `OptionError` unless an option was given one of the words that it takes.

    Parameters
    ----------
    option : str
        Its name, for the message.
    given : object
    known : iterable of str
        The words that the option takes.

    Raises
    ------
    OptionError

    Examples
    --------
    >>> import topoloss
    >>> topoloss.check_choice("reduction", "sun", ("sum", "mean"))
    Traceback (most recent call last):
        ...
    topoloss.errors.OptionError: reduction='sun' is not one of 'sum', 'mean'. Did you mean 'sum'?
    """
    known = tuple(known)
    if not isinstance(given, str) or given not in known:
        words = ", ".join(repr(k) for k in known)
        hint = nearest(given, known) if isinstance(given, str) else ""
        raise OptionError(f"{option}={shown(given)} is not one of {words}.{hint}")


def check_number(
    option: str,
    given: object,
    *,
    whole: bool = False,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    instead: str = "",
) -> None:
    """Raise an `OptionError` unless an option was given a finite number within its bounds.

    Parameters
    ----------
    option : str
        Its name, for the message.
    given : object
        True and False do not count as numbers. Nor does an integer too large for a float,
        unless `whole` is set.
    whole : bool
        Whether the number must be an ``int``.
    least, above, most : float, optional
        Bounds: the number is at least `least`, more than `above`, and at most `most`.
    instead : str
        What else the option takes, for the message.

    Raises
    ------
    OptionError

    Examples
    --------
    >>> import topoloss
    >>> topoloss.check_number("power", 2, least=1)
    >>> topoloss.check_number("power", "2", least=1)
    Traceback (most recent call last):
        ...
    topoloss.errors.OptionError: power='2' was given; expected a finite number, power >= 1.
    """
    if _is_number(given, whole) and _within(given, least, above, most):
        return
    kind = "an integer" if whole else "a finite number"
    raise OptionError(
        f"{option}={shown(given)} was given; expected {kind}"
        f"{_bounds(option, least, above, most)}{instead and f', or {instead}'}."
    )


def check_flag(option: str, given: object) -> None:
    """Raise an `OptionError` unless an option was given True or False.

    Examples
    --------
    >>> import topoloss
    >>> topoloss.check_flag("normalised", "no")
    Traceback (most recent call last):
        ...
    topoloss.errors.OptionError: normalised='no' was given; expected True or False.
    """
    if not isinstance(given, bool):
        raise OptionError(f"{option}={shown(given)} was given; expected True or False.")


def _is_number(given: object, whole: bool) -> bool:
    if isinstance(given, bool) or not isinstance(given, int if whole else (int, float)):
        return False
    try:
        return whole or isfinite(given)
    except OverflowError:
        return False


def _within(given: Any, least: float | None, above: float | None, most: float | None) -> bool:
    return (
        (least is None or given >= least)
        and (above is None or given > above)
        and (most is None or given <= most)
    )


def _bounds(option: str, least: float | None, above: float | None, most: float | None) -> str:
    """The bounds as an inequality after a comma, or nothing."""
    below = f"{above} < " if above is not None else f"{least} <= " if least is not None else ""
    beyond = "" if most is None else f" <= {most}"
    if below and not beyond:
        return f", {option} > {above}" if above is not None else f", {option} >= {least}"
    return f", {below}{option}{beyond}" if below or beyond else ""
