"""The user's own functions, named on the command line as ``package.module:function``."""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

from topoloss.errors import InputError

__all__ = ["call"]


def call(reference: str, purpose: str) -> Any:
    """Import ``package.module:function`` and return what the function returns.

    The current folder is importable, as it is for ``python -m``.

    Raises
    ------
    InputError
        If there is no such module or function, or it cannot be called without arguments.
    """
    module_name, _, name = reference.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    if not all(part.isidentifier() for part in (*module_name.split("."), name)):
        raise InputError(f"{purpose} {reference!r} is not of the form package.module:function.")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise InputError(
            f"{purpose} {reference!r}: there is no module {error.name!r}; expected "
            "package.module:function, importable from here."
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise InputError(f"{purpose} {reference!r}: {module_name} has no function {name!r}.")
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise InputError(
            f"{purpose} {reference!r} is called without arguments: {error}."
        ) from error
    return function()
