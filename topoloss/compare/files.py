"""Files that are whole or not there, whatever stops their writing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

__all__ = ["write_whole"]


def write_whole(path: Path, make: Callable[[Path], object]) -> Path:
    """Let `make` write a file, and put it in its place when it is written.

    Parameters
    ----------
    path : Path
    make : callable
        Writes to the path that it is given, in the same folder.

    Returns
    -------
    Path
    """
    partial = path.with_name(path.name + ".partial")
    try:
        make(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path
