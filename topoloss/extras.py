"""Optional dependencies, imported where they are used and named when they are missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from topoloss.errors import MissingExtraError

__all__ = ["needs_extra"]


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Turn a failed import inside into an error that names the extra to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "topoloss":
            raise
        raise MissingExtraError(
            f"{error.name} is not installed; run: pip install 'topoloss-framework[{extra}]'"
        ) from error
