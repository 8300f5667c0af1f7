"""The user's own objects, named in text as ``package.module:name``."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from topoloss.errors import InputError
from topoloss.owners import no_exit

__all__ = ["call", "find"]


def call(reference: str, purpose: str) -> Any:
    """Import ``package.module:function`` and return what the function returns.

    Raises
    ------
    InputError
        If there is no such module or function, or if the function needs arguments.
    """
    function = find(reference, purpose, "function")
    if not callable(function):
        raise InputError(f"{purpose} {reference!r} is not a function.")
    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError) as error:  # ValueError: some written in C have no signature
        raise InputError(
            f"{purpose} {reference!r} is called without arguments: {error}."
        ) from error
    with no_exit(f"{purpose} {reference!r}"):
        return function()


def find(reference: str, purpose: str, what: str) -> Any:
    """Import ``package.module:name`` and return the object of that name.

    Parameters
    ----------
    reference : str
    purpose, what : str
        For errors: what the object is used for, and what kind of object is expected.

    Raises
    ------
    InputError
        If there is no such module or object.
    """
    module_name, _, name = reference.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), name)):
        raise InputError(f"{purpose} {reference!r} is not of the form package.module:{what}.")
    try:
        with no_exit(f"{purpose} {reference!r}: the module {module_name}"):
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise InputError(
            f"{purpose} {reference!r}: there is no module {error.name!r}; expected "
            f"package.module:{what}, importable from here."
        ) from error
    if not hasattr(module, name):
        raise InputError(f"{purpose} {reference!r}: {module_name} has no {what} {name!r}.")
    return getattr(module, name)
