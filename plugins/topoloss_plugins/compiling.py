"""Functions compiled by numba: kept on disk, and run without the interpreter's lock (the GIL)."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from functools import cache
from types import CodeType
from typing import Any

import numba
import numpy as np
from numba.core import event
from numba.core.caching import FunctionCache
from numba.core.dispatcher import Dispatcher

__all__ = ["compiled", "part", "part_that_sums"]

_log = logging.getLogger("topoloss")
_compiled: set[Any] = set()
_not_kept: list[str] = []
# Nobody calls these functions from C. `Any`, as numba's stubs lack the options of entry points.
_NOT_FROM_C: dict[str, Any] = {"no_cfunc_wrapper": True}
_NOR_FROM_PYTHON: dict[str, Any] = {"no_cpython_wrapper": True} | _NOT_FROM_C


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function when it is first called; later processes find it on disk."""
    made = numba.njit(function, nogil=True, **_NOT_FROM_C)
    try:
        made._cache = _Cache(function)  # type: ignore[no-untyped-call]
    except RuntimeError:
        # No directory can be written, for example in a read-only container.
        _not_kept.append(function.__name__)
    _compiled.add(made)
    return made


def part(function: Callable[..., Any], **options: Any) -> Any:
    """Compile a function that only compiled functions call.

    It is kept on disk as a part of its callers. It gets no entry point from Python, which would
    take as long to compile as a small function does.
    """
    return numba.njit(function, **_NOR_FROM_PYTHON, **options)


def part_that_sums(function: Callable[..., Any]) -> Any:
    """The same, but sums may be reordered, so that they are vectorised."""
    return part(function, fastmath={"reassoc", "contract"})


class _Cache(FunctionCache):
    """Machine code on disk, compiled again when the function or anything that it uses has changed.

    Numba itself only looks at the file of the function. A newer version of the package that changes
    another file would go on running what the older one compiled.
    """

    def _index_key(self, *given: Any) -> tuple[Any, ...]:
        used = sorted(_used(self._py_func.__code__, self._py_func.__globals__, set()))
        key = super()._index_key(*given)  # type: ignore[no-untyped-call]
        return (*key, hashlib.sha256("\n".join(used).encode()).hexdigest())


def _used(code: CodeType, names: dict[str, Any], seen: set[Any]) -> Iterator[str]:
    """Yield instructions, names and constants of some code and of the compiled functions it uses.

    Instructions refer to a name only by its number: those of min(x, y) and max(x, y) are equal.
    """
    yield code.co_code.hex()
    yield repr(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _used(constant, names, seen)
        else:
            yield repr(constant)
    for name in code.co_names:
        value = names.get(name)
        if isinstance(value, Dispatcher) and value not in seen:
            seen.add(value)
            options = value.targetoptions.items()
            yield f"{name}: {sorted((k, sorted(v) if type(v) is set else v) for k, v in options)}"
            yield from _used(value.py_func.__code__, value.py_func.__globals__, seen)
        elif isinstance(value, (int, float, str, tuple, np.generic)):
            yield f"{name} = {value!r}"


@cache
def _tell() -> None:
    how_often = (
        "in every process, as there is no directory to keep the result in: set the environment "
        "variable NUMBA_CACHE_DIR to a writable one"
        if _not_kept
        else "once"
    )
    _log.warning(
        "topoloss compiles its inner loops for this processor; this takes a while, %s.",
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
