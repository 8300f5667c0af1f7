"""Tables as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["as_markdown"]


def as_markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells, without a newline at its end.

    Examples
    --------
    >>> from topoloss.compare.tables import as_markdown
    >>> print(as_markdown(["regulariser", "weight"], [["t1", "0.001"]]))
    | regulariser | weight |
    | - | - |
    | t1 | 0.001 |
    """
    lines = [header, ["-"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
