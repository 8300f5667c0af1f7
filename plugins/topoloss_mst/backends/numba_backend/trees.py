"""Exact minimum spanning trees of features, whatever the number of vertices."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from topoloss_mst.backends.numba_backend.dense import dense_trees
from topoloss_mst.backends.numba_backend.edges import (
    ABS_DOT,
    closed_at_zero,
    exact_keys,
    live_rows,
    minimum_forest,
)
from topoloss_mst.backends.numba_backend.light import (
    Integers,
    Stack,
    light_pairs,
    most_similar,
    still_light,
)
from topoloss_mst.backends.numba_backend.linkage import linked, running_highest
from topoloss_mst.backends.numba_backend.ordered import lowest_integers
from topoloss_mst.backends.numba_backend.similarities import SIDE, Similarities, fastest_dtype

Edges = npt.NDArray[np.int64]
Found = npt.NDArray[np.int32]

_PAIRS_AT_ONCE = 1 << 24
# One vertex in so many is in the sample that the cheap tree starts from.
_SAMPLED = 8


class Plan(NamedTuple):
    """How to search. It decides how long a search takes, and never which tree is found.

    Attributes
    ----------
    dtype : torch.dtype
        Of the products that rule pairs out: float32 or bfloat16.
    dense : int
        Up to so many vertices the similarities of all pairs are held at once.
    crowded : int
        Pairs left over, for each vertex, that are too many for products in bfloat16.
    capacity : int
        Pairs that are collected before they are put aside; at least a row of tiles, 16,384.
    many : int
        Pairs put aside that are settled before the search goes on.
    """

    dtype: torch.dtype
    dense: int = 2048
    crowded: int = 64
    capacity: int = 1 << 18
    many: int = 1 << 21


def minimum_trees(
    v: Float[Tensor, "batch n d"], order: int, start: Edges | None = None, plan: Plan | None = None
) -> Edges:
    """Edges of shape (batch, n - 1, 2).

    `start` are spanning trees of that shape, the nearer to the minimum the better.
    """
    batch, n, _ = v.shape
    if start is None:
        start = np.empty((batch, 0, 2), np.int64)
    if plan is None:
        plan = Plan(fastest_dtype(order))
    trees = np.empty((batch, n - 1, 2), np.int64)
    if n <= plan.dense:
        some = max(1, _PAIRS_AT_ONCE // n**2)
        for first in range(0, batch, some):
            part = slice(first, first + some)
            trees[part] = _dense(v[part], order, start[part], plan)
    else:
        for element in range(batch):
            trees[element] = _sparse(v[element], order, start[element], plan)
    return trees


def _dense(v: Float[Tensor, "batch n d"], order: int, start: Edges, plan: Plan) -> Edges:
    similarities = Similarities(v, order, plan.dtype)
    batch, n, _ = v.shape
    trees, crowded = np.empty((batch, n - 1, 2), np.int64), np.empty(batch, np.bool_)
    bits, margins, rows = similarities.all(), similarities.margins, v.numpy()
    threads = min(torch.get_num_threads(), batch)

    def fill(first: int) -> None:
        dense_trees(
            bits, margins, rows, order, start, _most(n, plan), first, threads, trees, crowded
        )

    if threads == 1:
        fill(0)
    else:
        # What is compiled is free of the interpreter's lock.
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(fill, range(threads)))
    if crowded.any():
        again = np.flatnonzero(crowded)
        trees[again] = _dense(v[torch.from_numpy(again)], order, start[again], _in_float32(plan))
    return trees


def _sparse(v: Float[Tensor, "n d"], order: int, start: Edges, plan: Plan) -> Edges:
    similarities = Similarities(v[None], order, plan.dtype)
    tree = start if len(start) else _cheap_tree(v, order, similarities, plan)
    search = _Search(v, order, similarities, tree, plan)
    for stack in similarities.tiles(search.vertex).lower_triangle():
        search.scan(stack)
        if search.count > _most(len(v), plan):
            return _sparse(v, order, tree, _in_float32(plan))
    return search.minimum_tree()


def _in_float32(plan: Plan) -> Plan:
    return plan._replace(dtype=torch.float32)


def _most(n: int, plan: Plan) -> int:
    """So many pairs may be left over before products of higher precision pay."""
    return n * n if plan.dtype == torch.float32 else plan.crowded * n


def _cheap_tree(
    v: Float[Tensor, "n d"], order: int, similarities: Similarities, plan: Plan
) -> Edges:
    """Some light spanning tree: the minimum one of a sample, and each other vertex where it
    is nearest."""
    n = len(v)
    # A fixed shuffle, as neighbouring neurons are often alike.
    shuffled = np.random.default_rng(0).permutation(n)
    sampled = n // _SAMPLED
    nearest = np.zeros(n, np.int64)
    highest = np.full(n, np.iinfo(np.int64).min)
    for stack in similarities.tiles(shuffled).rows(sampled, columns=sampled):
        most_similar(stack, order != ABS_DOT, sampled, highest, nearest)
    within = minimum_trees(v[None, torch.from_numpy(shuffled[:sampled])], order, plan=plan)[0]
    others = np.stack((nearest[sampled:], np.arange(sampled, n)), 1)
    tree: Edges = shuffled[np.concatenate((within, others))]
    return tree


class _Search:
    """The pairs that a spanning tree does not rule out, and the minimum spanning tree of them.

    Rows (p, q, similarity) are collected, p and q being positions in the tree's linkage.
    """

    def __init__(
        self, v: Tensor, order: int, similarities: Similarities, tree: Edges, plan: Plan
    ) -> None:
        self._v = v.numpy()
        self._order = order
        self._margin = similarities.margins[0]
        self._no_bits = similarities.no_bits
        keys, self.vertex, self._linkage = linked(tree, self._v, order)
        self._live = live_rows(self._v, order)
        self._lower_bound = self._lowest(keys)
        self._heaviest = np.full(len(v), -1)
        position = np.argsort(self.vertex)
        below_all = np.full((len(tree), 1), np.iinfo(np.int32).min)
        self._tree = np.concatenate((position[tree], below_all), 1).astype(np.int32)
        self.count = 0
        self._found: list[Found] = []
        self._buffer = np.empty((plan.capacity, 3), np.int32)
        self._many = max(plan.many, 16 * len(v))

    def scan(self, stack: Stack) -> None:
        """Look at all pairs of some tiles."""
        row = 0
        while row < SIDE:
            count, row = light_pairs(
                stack, row, self._live[self.vertex], self._heaviest, self._linkage,
                self._lower_bound, self._order != ABS_DOT, self._buffer,
            )  # fmt: skip
            self._found.append(self._buffer[:count].copy())
            self.count += count
        if sum(map(len, self._found)) > self._many:
            self._found = [self._minimum()[0]]

    def minimum_tree(self) -> Edges:
        found, keys = self._minimum()
        tree: Edges = self.vertex[found[:, :2]]
        return tree if self._live.all() else closed_at_zero(len(self._v), tree, keys)

    def _minimum(self) -> tuple[Found, npt.NDArray[np.float64]]:
        """Of the rows collected those that make up the minimum forest, and their keys."""
        # The first tree connects what was not looked at yet, and zero vertices.
        found = np.concatenate((self._tree, *self._found))
        n = len(self._v)
        pairs, similarity = self.vertex[found[:, :2]], found[:, 2]
        # The tree by similarities is nearly the minimum one, and rules out almost all the rest.
        close = pairs[minimum_forest(n, pairs, -similarity.astype(np.int64))]
        keys, vertex, (gap, _) = linked(close, self._v, self._order)
        light = still_light(pairs, similarity, vertex, running_highest(gap), self._lowest(keys))
        found, pairs = found[light], pairs[light]
        keys = exact_keys(self._v, pairs, self._order)
        chosen = minimum_forest(n, pairs, keys)
        return found[chosen], keys[chosen]

    def _lowest(self, keys: npt.NDArray[np.float64]) -> Integers:
        integers: Integers = lowest_integers(keys, self._order, self._margin, self._no_bits)
        return integers
