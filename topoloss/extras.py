"""Optional dependencies, imported where they are used and named when they are missing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata

from topoloss.errors import MissingExtraError

__all__ = ["DISTRIBUTION", "needs_extra", "remedy"]


DISTRIBUTION = "topoloss-framework"


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Turn a failed import inside a ``with`` block into an error that names the extra to install.

    Parameters
    ----------
    extra : str
        An extra of topoloss, such as ``"plot"``.

    Raises
    ------
    MissingExtraError
        If an import in the block finds no module.

    Examples
    --------
    >>> import topoloss
    >>> with topoloss.needs_extra("plot"):
    ...     import matplotlib
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "topoloss":
            raise
        raise MissingExtraError(
            f"{error.name} is not installed; run: pip install '{DISTRIBUTION}[{extra}]'"
        ) from error


# "scikit-learn>=1.4; extra == 'compare'"
_OPTIONAL = re.compile(r"""([\w.-]+).*;.*\bextra\s*==\s*['"]([\w.-]+)['"]""")


def remedy(module: str, distribution: metadata.Distribution) -> str:
    """Say which extra of a distribution provides a missing module, if its metadata show it."""
    matches = map(_OPTIONAL.match, distribution.requires or ())
    optional = [(_normalised(match[1]), match[2]) for match in matches if match]
    wanted = _normalised(module.partition(".")[0])
    for requirement, extra in optional:
        if requirement == wanted:
            return f"; run: pip install '{distribution.name}[{extra}]'"
    if not optional:
        return ""
    # The name to import may differ from the name to install: sklearn, scikit-learn.
    extras = ", ".join(sorted({extra for _, extra in optional}))
    return f"; perhaps an extra of {distribution.name} provides it: {extras}"


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
