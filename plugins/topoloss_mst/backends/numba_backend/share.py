"""Which pairs of vertices this process looks at, and how shares become one tree."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import numpy as np

import topoloss
from topoloss_mst.backends.numba_backend.search import Edges, Floats, forest_of

T = TypeVar("T")


class Share:
    """All pairs: this process works alone."""

    def of_first(self, work: Callable[[], T]) -> T:
        """Do some work in the first process only, and give every process the result."""
        return work()

    def rows(self, count: int) -> Iterable[int]:
        """Which of `count` rows of tiles this process takes; row i has i + 1 tiles."""
        return range(count)

    def joined(self, n: int, work: Callable[[], tuple[Edges, Floats]]) -> tuple[Edges, Floats]:
        """Join the processes' minimum forests, with keys; `work` finds that of this process."""
        return work()


class SharedOut(Share):
    """The processes of a group share the pairs; each takes some rows of tiles.

    An edge that is not in the minimum forest of its share closes a cycle with lighter edges there,
    so it is not in the minimum tree of all pairs either.
    """

    def __init__(self, processes: topoloss.Processes) -> None:
        self._processes = processes

    def of_first(self, work: Callable[[], T]) -> T:
        return self._processes.broadcast(work)

    def rows(self, count: int) -> Iterable[int]:
        # Dealt back and forth, as later rows are longer.
        rank, size = self._processes.rank, self._processes.size
        to_and_fro = (*range(size), *reversed(range(size)))
        return [row for row in range(count) if to_and_fro[row % (2 * size)] == rank]

    def joined(self, n: int, work: Callable[[], tuple[Edges, Floats]]) -> tuple[Edges, Floats]:
        def own() -> tuple[np.ndarray, Floats]:
            pairs, keys = work()
            return pairs.astype(np.int32), keys

        shares = self._processes.all_gather(own)
        return forest_of(n, [(pairs.astype(np.int64), keys) for pairs, keys in shares])


ALL = Share()
