"""Write files so that neither an interruption nor a full disk leaves one half written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from topoloss.errors import InputError, TopolossError

__all__ = ["make_folder", "write_whole"]


def make_folder(path: Path) -> None:
    """Make a folder if there is none, and raise unless files can be written into it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise InputError(
            f"files cannot be written into {path}: {error.strerror or error}. Choose another "
            "folder with --out."
        ) from error


def write_whole(path: Path, make: Callable[[Path], object]) -> Path:
    """Let `make` write a file, and move it to `path` only when it is complete.

    Parameters
    ----------
    path : Path
    make : callable
        Called with the path to write to, which is in the same folder.

    Returns
    -------
    Path

    Raises
    ------
    TopolossError
        If the file cannot be written. An earlier file at `path` is unchanged.
    """
    # A unique name, because another process may write the same file at the same time.
    partial = path.with_name(f".{path.name}.{uuid4().hex[:12]}.partial")
    try:
        make(partial)
        os.replace(partial, path)
    except OSError as error:
        raise TopolossError(
            f"{path} cannot be written: {error.strerror or error}. Make room on the disk, or "
            "choose a folder that can be written to."
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    return path
