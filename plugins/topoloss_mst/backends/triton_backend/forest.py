"""Spanning forests of listed pairs, and of all pairs of heavy tiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
import triton
from torch import Tensor

from topoloss_mst.backends.triton_backend.components import Components
from topoloss_mst.backends.triton_backend.kernels import heavy, pairs
from topoloss_mst.backends.triton_backend.launching import OPTIONS, programs

# Pairs that a program looks at together; pairs, and features of them, that it multiplies together.
_BLOCK, _MULTIPLIED, _DEPTH = 256, 32, 64


class Source(Protocol):
    """Pairs with keys, for each element of a batch."""

    def offer(self, forest: Components, round: int, edges: bool) -> None:
        """Lower the lightest key of all components or, if `edges`, their lightest edge."""


class Space(NamedTuple):
    """How many pairs and heavy tiles of each element there is space for."""

    pairs: int
    tiles: int


class Pairs:
    """Listed pairs of vertices, and their keys in float64.

    Only the device knows how much of the list is used.

    Parameters
    ----------
    v : Tensor of float32, shape (batch, n, d)
    order : str
    codes : Tensor of int64, shape (batch, space.pairs)
        Pairs are ``lower * n + higher``.
    counts : Tensor of int32, shape (batch, 2)
        Numbers of pairs and of heavy tiles that were found. If either is more than there is space
        for, the lists are not used: all tiles are heavy then.
    space : Space
    drop_zeros : bool
        Whether pairs of key 0 are ignored.

    Attributes
    ----------
    keys : Tensor of int64, shape (batch, space.pairs)
    """

    def __init__(
        self, v: Tensor, order: str, codes: Tensor, counts: Tensor, space: Space, drop_zeros: bool
    ) -> None:
        batch, n, d = v.shape
        self.codes, self.counts, self.space = codes, counts, space
        self.keys = torch.empty_like(codes)
        self._grid = (programs(v.device, batch), batch)
        depth = min(_DEPTH, max(16, triton.next_power_of_2(d)))
        pairs.fill_keys[self._grid](
            v, codes, self.keys, counts, n, d, *space, order, drop_zeros, _MULTIPLIED, depth,
            **OPTIONS,
        )  # fmt: skip

    def offer(self, forest: Components, round: int, edges: bool) -> None:
        pairs.offer_pairs[self._grid](
            self.codes, self.keys, self.counts, forest.component, forest.lightest_key,
            forest.lightest_edge, forest.joined, round, forest.rounds, forest.n, *self.space,
            edges, _BLOCK, **OPTIONS,
        )  # fmt: skip


def all_listed(v: Tensor, order: str, codes: Tensor) -> Pairs:
    """Listed pairs, of which every element has the same number."""
    batch, count = codes.shape
    counts = torch.zeros(batch, 2, dtype=torch.int32, device=v.device)
    counts[:, 0].fill_(count)
    return Pairs(v, order, codes, counts, Space(count, 0), drop_zeros=False)


class HeavyTiles:
    """All pairs of the tiles on a list, or of all tiles where a list has overflowed.

    Parameters
    ----------
    v : Tensor of float32, shape (batch, n, d)
    order : str
    vertex : Tensor of int64, shape (batch, positions)
        The vertex at each row and column of the matrix of tiles; those from n on are padding.
    tiles : Tensor of int64, shape (batch, space.tiles)
        ``row << 32 | column``, in blocks of the tiles' `shape`.
    counts : Tensor of int32, shape (batch, 2)
        As in `Pairs`.
    space : Space
    shape : tuple of int
        Rows and columns of a tile.
    side : int
        Side of the squares of a tile whose keys are held at once.
    """

    def __init__(
        self, v: Tensor, order: str, vertex: Tensor, tiles: Tensor, counts: Tensor, space: Space,
        shape: tuple[int, int], side: int,
    ) -> None:  # fmt: skip
        self._v, self._order, self._vertex, self._tiles = v, order, vertex, tiles
        self._counts, self._space, self._shape, self._side = counts, space, shape, side

    def offer(self, forest: Components, round: int, edges: bool) -> None:
        heavy.offer_tiles[(programs(forest.device, forest.batch), forest.batch)](
            self._v, self._vertex, self._tiles, self._counts, forest.component,
            forest.lightest_key, forest.lightest_edge, forest.joined, round, forest.rounds,
            forest.n, self._v.shape[2], self._vertex.shape[1], *self._space,
            self._order, drops_zeros(self._order), edges, *self._shape, self._side,
            num_warps=16, **OPTIONS,
        )  # fmt: skip


def drops_zeros(order: str) -> bool:
    """Whether 0 is the highest key, so that pairs of key 0 can be ignored until the end."""
    return order == "abs_dot_descending"


def grow(
    forest: Components, sources: Sequence[Source], each: Callable[[int], None] = lambda _: None
) -> None:
    """Join all that the pairs connect; in each round call `each` when its edges are known."""
    for round in range(forest.rounds):
        for edges in (False, True):
            for source in sources:
                source.offer(forest, round, edges)
        each(round)
        forest.hook(round)
        forest.relabel(round)
