"""The tiles of a lower triangle, numbered one after the other."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def place_of(tile, blocks):
    """Row and column of a tile of the lower triangle with `blocks` blocks a side.

    Rows a and ``blocks - 1 - a`` of the triangle have ``blocks + 1`` tiles together. So the
    triangle folds into a rectangle of that width, in which integer division finds a tile.
    """
    upper = tile // (blocks + 1)
    across = tile % (blocks + 1)
    longer = across < blocks - upper
    row = tl.where(longer, blocks - 1 - upper, upper)
    column = tl.where(longer, across, across - (blocks - upper))
    return row, column
