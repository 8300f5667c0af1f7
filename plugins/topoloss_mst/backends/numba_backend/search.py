"""Light pairs, which a spanning tree does not rule out, and their minimum spanning forest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from topoloss_mst.backends.numba_backend.edges import (
    ABS_DOT,
    SQ_DIST,
    exact_keys,
    minimum_forest,
)
from topoloss_mst.backends.numba_backend.light import (
    Bounds,
    Stack,
    light_in_stack,
)
from topoloss_mst.backends.numba_backend.linkage import chunk_highest, linkage
from topoloss_mst.backends.numba_backend.threads import in_threads

Edges = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Search:
    """Collects the light pairs of tiles of similarities, with their exact keys.

    Parameters
    ----------
    v : ndarray, shape (n, d)
    order : int
    sizes : ndarray of float64, shape (n,)
    error : ndarray of float64, shape (2,)
        Both as in `Similarities`.
    tree : ndarray of int64, shape (n - 1, 2)
        Any spanning tree; the nearer to the minimum, the fewer pairs are collected.
    capacity : int
        Pairs that are collected before their keys are computed; at least as many as a row of a
        stack has.
    many : int
        More pairs than this are replaced by their minimum forest before the search goes on.

    Attributes
    ----------
    vertex : ndarray of int64, shape (n,)
        The vertices in the order of the rows and columns of tiles.
    count : int
        Pairs collected so far.
    """

    def __init__(
        self, v: npt.NDArray[np.floating], order: int, sizes: Floats, error: Floats, tree: Edges,
        capacity: int, many: int,
    ) -> None:  # fmt: skip
        self._v, self._order, self._capacity = v, order, capacity
        self._many = max(many, 16 * len(v))
        row = row_of(v, tree, order)
        self.vertex = row.vertex
        size = sizes[self.vertex]
        self._bounds = Bounds(
            row.gap,
            chunk_highest(row.gap),
            row.similarity,
            size,
            chunk_highest(size),
            error,
            v,
            self.vertex,
            order,
        )
        self._heaviest = np.full(len(v), -1)
        self._found: list[tuple[Edges, Floats]] = [(np.empty((0, 2), np.int64), np.empty(0))]
        self.count = 0

    def scan(self, stack: Stack) -> None:
        """Collect the light pairs of some tiles, in as many threads as torch has."""
        side = stack.tiles.shape[1]

        def share(thread: int, threads: int) -> list[tuple[Edges, Floats]]:
            first, last = side * thread // threads, side * (thread + 1) // threads
            return self._light(stack, first, last)

        for found in in_threads(share, torch.get_num_threads()):
            self._keep(found)

    def _light(self, stack: Stack, row: int, last: int) -> list[tuple[Edges, Floats]]:
        """Light pairs, with their keys, of the rows from `row` up to, not including, `last`."""
        found = []
        positions = np.empty((self._capacity, 2), np.int64)
        while row < last:
            count, row = light_in_stack(stack, row, last, self._heaviest, self._bounds, positions)
            pairs = self.vertex[positions[:count]]
            found.append((pairs, exact_keys(self._v, pairs, self._order)))
        return found

    def _keep(self, found: list[tuple[Edges, Floats]]) -> None:
        self.count += sum(len(pairs) for pairs, _ in found)
        if self._order == ABS_DOT:
            # No key is above 0, and `closed_at_zero` adds edges of key 0 without any pairs.
            found = [(pairs[keys < 0], keys[keys < 0]) for pairs, keys in found]
        self._found += found
        if sum(len(pairs) for pairs, _ in self._found) > self._many:
            self._found = [self.minimum_forest()]

    def minimum_forest(self) -> tuple[Edges, Floats]:
        """The minimum spanning forest of the pairs collected so far, and its keys.

        For |a.b|, only of those with keys below 0.
        """
        return forest_of(len(self._v), self._found)


class Row(NamedTuple):
    """The vertices of a spanning tree laid in a row.

    Attributes
    ----------
    vertex, gap : ndarrays of int64, shape (n,)
        As from `linkage`.
    similarity : ndarray of float64, shape (n - 1,)
        Of the tree's edges, from the lightest to the heaviest.
    """

    vertex: Edges
    gap: Edges
    similarity: Floats


def row_of(v: npt.NDArray[np.floating], tree: Edges, order: int) -> Row:
    """Lay the vertices of any spanning tree in a row, by the exact keys of its edges."""
    keys = exact_keys(v, tree, order)
    ascending = np.argsort(keys)
    similarity = -keys[ascending] / 2 if order == SQ_DIST else -keys[ascending]
    vertex, gap = linkage(tree, ascending)
    return Row(vertex, gap, similarity)


def forest_of(n: int, found: Sequence[tuple[Edges, Floats]]) -> tuple[Edges, Floats]:
    """The minimum spanning forest of pairs of n vertices, and its keys."""
    pairs = np.concatenate([pairs for pairs, _ in found])
    keys = np.concatenate([keys for _, keys in found])
    chosen = minimum_forest(n, pairs, keys)
    return pairs[chosen], keys[chosen]
