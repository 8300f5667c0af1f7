"""Find out whose code raised an error: the user's own, a plugin's, or the library's."""

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
    """Add a note to an error that says whose code raised it and where, unless the library did.

    The library's own errors already say what is wrong.
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
    """Whether the traceback contains the user's own code, or that of a third-party plugin."""
    return _first_of_others(error) is not None


@contextmanager
def no_exit(whose: str) -> Iterator[None]:
    """Turn a ``sys.exit()`` in the block into an error; Python would end without a word otherwise.

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
    """The error, or one that says the same if it cannot be pickled for another process."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:  # whatever the error's own methods raise
        substitute = TopolossError(f"{type(error).__name__}: {error}")
        for each in getattr(error, "__notes__", ()):
            substitute.add_note(each)
        return substitute


def _first_of_others(error: BaseException) -> tuple[str, TracebackType] | None:
    """The owner of the first frame in a user's or a plugin's code, and the traceback from there."""
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
