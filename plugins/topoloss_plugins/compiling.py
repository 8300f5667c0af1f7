"""Loops in machine code, by numba: kept on disk, and free of the interpreter's lock."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import numba
from numba.core import event

__all__ = ["compiled", "part", "part_that_sums"]

_log = logging.getLogger("topoloss")
_compiled: set[Any] = set()
_not_kept: list[str] = []
# Nobody calls these functions from C. Numba's stubs do not list the options of entries.
_NOT_FROM_C: dict[str, Any] = {"no_cfunc_wrapper": True}
_NOR_FROM_PYTHON: dict[str, Any] = {"no_cpython_wrapper": True} | _NOT_FROM_C


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function when it is first called; later processes find it on disk."""
    try:
        made = numba.njit(function, cache=True, nogil=True, **_NOT_FROM_C)
    except RuntimeError:
        # No directory can be written, for example in a read-only container.
        _not_kept.append(function.__name__)
        made = numba.njit(function, nogil=True, **_NOT_FROM_C)
    _compiled.add(made)
    return made


def part(function: Callable[..., Any], **options: Any) -> Any:
    """Compile a function for compiled ones to call, and nobody else.

    It is kept on disk as a part of those, and gets no entry from Python, which would take as long
    to compile as a small function does.
    """
    return numba.njit(function, **_NOR_FROM_PYTHON, **options)


def part_that_sums(function: Callable[..., Any]) -> Any:
    """The same for sums, which may be taken in any order, so that they are vectorised."""
    return part(function, fastmath={"reassoc", "contract"})


@cache
def _tell() -> None:
    how_often = (
        "in every process, as no directory can be written: let the environment variable "
        "NUMBA_CACHE_DIR name one"
        if _not_kept
        else "once"
    )
    _log.warning(
        "topoloss compiles its inner loops for this processor: it takes a while, %s.",
        how_often,
    )


class _Compilation(event.Listener):
    """Tells the user why the first call is slow."""

    def on_start(self, event: event.Event) -> None:
        if event.data["dispatcher"] in _compiled:
            _tell()

    def on_end(self, event: event.Event) -> None:
        pass


event.register("numba:compile", _Compilation())  # type: ignore[no-untyped-call]
