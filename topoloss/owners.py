"""Whose code raised an error: the user's own, a plugin's, or that of the library."""

from __future__ import annotations

import pickle
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from traceback import format_tb
from types import TracebackType

from topoloss.errors import InputError, TopolossError
from topoloss.extras import DISTRIBUTION

__all__ = ["has_note", "is_of_others", "no_exit", "note", "picklable"]

_BEGIN = "It was raised by"
_PACKAGE = Path(__file__).parent
_OURS = (_PACKAGE, _PACKAGE.parent / "plugins")
_LIBRARIES = tuple(Path(sysconfig.get_path(kind)) for kind in ("stdlib", "purelib", "platlib"))


def note(error: BaseException) -> None:
    """Add a note that says whose code raised an error and where, if it is not the library's.

    The library's own errors say themselves what is wrong.
    """
    if isinstance(error, TopolossError) or has_note(error):
        return
    found = _first_of_others(error)
    if found is not None:
        owner, traceback = found
        error.add_note(f"{_BEGIN} {owner}:\n{''.join(format_tb(traceback)).rstrip()}")


def has_note(error: BaseException) -> bool:
    return any(each.startswith(_BEGIN) for each in getattr(error, "__notes__", ()))


def is_of_others(error: BaseException) -> bool:
    """Whether code of the user's own, or of a plugin of somebody else, took part."""
    return _first_of_others(error) is not None


@contextmanager
def no_exit(whose: str) -> Iterator[None]:
    """Turn an attempt to end Python inside into an error, for nothing would be told otherwise.

    Raises
    ------
    InputError
        In place of SystemExit.
    """
    try:
        yield
    except SystemExit as stop:
        raise InputError(
            f"{whose} ended Python with sys.exit({stop.code!r}); remove that call, or put it below "
            'if __name__ == "__main__".'
        ) from stop


def picklable(error: Exception) -> Exception:
    """The error, or one that says the same where another process could not be given it."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:  # whatever the error's own methods raise
        told = TopolossError(f"{type(error).__name__}: {error}")
        for each in getattr(error, "__notes__", ()):
            told.add_note(each)
        return told


def _first_of_others(error: BaseException) -> tuple[str, TracebackType] | None:
    """The first frame that is not the library's: whose it is, and the traceback from there."""
    traceback = error.__traceback__
    # Read once, as that takes long where many distributions are installed.
    plugins = metadata.entry_points(group="topoloss")
    while traceback is not None:
        frame = traceback.tb_frame
        owner = _owner(frame.f_code.co_filename, frame.f_globals.get("__name__", ""), plugins)
        if owner is not None:
            return owner, traceback
        traceback = traceback.tb_next
    return None


def _owner(file: str, module: str, plugins: metadata.EntryPoints) -> str | None:
    path = Path(file)
    if file.startswith("<") or any(path.is_relative_to(each) for each in _OURS):
        return None
    top = module.partition(".")[0]
    for entry in plugins:
        if _top(entry) == top and entry.dist and entry.dist.name != DISTRIBUTION:
            return f"the plugin {entry.name} of {entry.dist.name} {entry.dist.version}"
    if {"site-packages", "dist-packages"} & set(path.parts) or any(
        path.is_relative_to(each) for each in _LIBRARIES
    ):
        return None
    return f"code of your own, {file}"


def _top(entry: metadata.EntryPoint) -> str:
    return entry.module.partition(".")[0]
