"""Compiled loops. Importing this module imports the compiler, so others import it when needed."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import numpy as np
from topoloss_plugins.compiling import compiled, part


@compiled
def product(a, b):
    product = np.full((a.shape[0], b.shape[1]), -np.inf, a.dtype)
    # This many rows of b stay in the processor's cache while all rows of a are multiplied by them.
    for first in range(0, b.shape[0], 64):
        for i in range(a.shape[0]):
            for k in range(first, min(first + 64, b.shape[0])):
                _update_largest(product[i], a[i, k], b[k])
    return product


@part
def _update_largest(best, limit, entries):
    for j in range(len(best)):
        through = entries[j] if entries[j] < limit else limit
        best[j] = through if through > best[j] else best[j]


@compiled
def prim(matrix):
    """Grow the maximum spanning tree from row 0, always by the largest entry leading out of it."""
    rows, columns = matrix.shape
    # For each vertex outside the tree: its largest entry to a tree vertex, and that vertex.
    of_rows, of_columns = np.full(rows, -np.inf), matrix[0].astype(np.float64)
    from_rows, from_columns = np.zeros(rows, np.int64), np.zeros(columns, np.int64)
    rows_outside, columns_outside = np.ones(rows, np.bool_), np.ones(columns, np.bool_)
    rows_outside[0] = False
    tree_rows, tree_columns = (
        np.empty(rows + columns - 1, np.int64),
        np.empty(rows + columns - 1, np.int64),
    )
    for step in range(rows + columns - 1):
        row, column = _largest(of_rows, rows_outside), _largest(of_columns, columns_outside)
        if column < 0 or (row >= 0 and of_rows[row] > of_columns[column]):
            tree_rows[step], tree_columns[step] = row, from_rows[row]
            rows_outside[row] = False
            _relax(matrix[row], row, of_columns, from_columns, columns_outside)
        else:
            tree_rows[step], tree_columns[step] = from_columns[column], column
            columns_outside[column] = False
            _relax(matrix[:, column], column, of_rows, from_rows, rows_outside)
    return tree_rows, tree_columns


@part
def _largest(best, outside):
    """Return the outside vertex of the largest entry, the first of equals; -1 if none has one."""
    found, highest = -1, -np.inf
    for k in range(len(best)):
        if outside[k] and best[k] > highest:
            found, highest = k, best[k]
    return found


@part
def _relax(entries, joined, best, origin, outside):
    for k in range(len(entries)):
        if outside[k] and entries[k] > best[k]:
            best[k], origin[k] = entries[k], joined
