"""Write files so that an interruption leaves none of them half written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

__all__ = ["write_whole"]


def write_whole(path: Path, make: Callable[[Path], object]) -> Path:
    """Let `make` write a file, and put it in its place only when it is complete.

    Parameters
    ----------
    path : Path
    make : callable
        Called with the path to write to, which is in the same folder.

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
