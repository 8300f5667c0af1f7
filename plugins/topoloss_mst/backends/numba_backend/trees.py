"""Exact minimum spanning trees of features, whatever the number of vertices."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from topoloss_mst.backends.numba_backend.edges import ABS_DOT, closed_at_zero, exact_keys
from topoloss_mst.backends.numba_backend.few import are_few, minimum_trees_of_few
from topoloss_mst.backends.numba_backend.light import most_similar
from topoloss_mst.backends.numba_backend.matrix import light_pairs
from topoloss_mst.backends.numba_backend.prim import prim
from topoloss_mst.backends.numba_backend.search import Edges, Floats, Search, forest_of
from topoloss_mst.backends.numba_backend.share import ALL, Share
from topoloss_mst.backends.numba_backend.similarities import Similarities, fastest_dtype
from topoloss_mst.backends.numba_backend.threads import in_threads
from topoloss_mst.backends.numba_backend.twins import lowest_twins, with_twins

_PAIRS_AT_ONCE = 1 << 24
# The cheap tree starts from a sample of this many times sqrt(n) vertices.
_SAMPLED = 6


class Plan(NamedTuple):
    """How to search. It decides how long a search takes, but never which tree is found.

    Attributes
    ----------
    dtype : torch.dtype
        The dtype of the products that rule pairs out: float32 or bfloat16. For distances it is
        float32 in any case.
    dense : int
        Up to this many vertices, the similarities of all pairs are held at once.
    crowded : int
        If more light pairs than this are found for each vertex, with products in bfloat16, the
        search starts again in float32.
    capacity : int
        Pairs that are collected before their keys are computed; at least a row of a stack, 16,384.
    many : int
        More pairs than this are replaced by their minimum forest before the search goes on.
    share : Share
        Which pairs this process looks at, where no matrix of all pairs is held.
    """

    dtype: torch.dtype
    dense: int = 2048
    crowded: int = 64
    capacity: int = 1 << 17
    many: int = 1 << 21
    share: Share = ALL


def minimum_trees(v: Float[Tensor, "batch n d"], order: int, plan: Plan | None = None) -> Edges:
    """Edges of shape (batch, n - 1, 2); without a plan, in the fastest way known."""
    batch, n, d = v.shape
    if plan is None:
        if are_few(n, d):
            return minimum_trees_of_few(v, order)
        plan = Plan(fastest_dtype())
    trees = np.empty((batch, n - 1, 2), np.int64)
    lowest = lowest_twins(v.numpy())
    distinct = (lowest == np.arange(n)).all(1)
    if distinct.all():
        return _trees(v, order, plan)
    if distinct.any():
        trees[distinct] = _trees(v[torch.from_numpy(distinct)], order, plan)
    for element in np.flatnonzero(~distinct):
        rows, twins = v[element], lowest[element]
        representatives = np.unique(twins)
        tree = _trees(rows[None, torch.from_numpy(representatives)], order, plan)[0]
        trees[element] = with_twins(tree, representatives, twins, rows.numpy(), order)
    return trees


def _trees(v: Float[Tensor, "batch n d"], order: int, plan: Plan) -> Edges:
    """Trees of vertices without twins."""
    n = v.shape[1]
    if n > plan.dense:
        return np.stack([_sparse(element, order, plan) for element in v])
    some = max(1, _PAIRS_AT_ONCE // n**2)
    return np.concatenate([_dense(part, order, plan) for part in torch.split(v, some)])


def _dense(v: Float[Tensor, "batch n d"], order: int, plan: Plan) -> Edges:
    similarities = Similarities(v, order, plan.dtype)
    bits, rows = similarities.all(), v.numpy()
    batch, n, _ = rows.shape
    trees, crowded = np.empty((batch, n - 1, 2), np.int64), np.zeros(batch, np.bool_)
    most = n * n if similarities.dtype == torch.float32 else plan.crowded * n

    def fill(thread: int, threads: int) -> None:
        for element in range(thread, batch, threads):
            sizes, error = similarities.sizes[element], similarities.errors[element]
            pairs = light_pairs(bits[element], rows[element], order, sizes, error, most)
            crowded[element] = len(pairs) > most
            if not crowded[element]:
                keys = exact_keys(rows[element], pairs, order)
                trees[element] = _closed(n, order, *forest_of(n, [(pairs, keys)]))

    in_threads(fill, min(torch.get_num_threads(), batch))
    if crowded.any():
        again = np.flatnonzero(crowded)
        trees[again] = _dense(v[torch.from_numpy(again)], order, plan._replace(dtype=torch.float32))
    return trees


def _sparse(v: Float[Tensor, "n d"], order: int, plan: Plan) -> Edges:
    similarities = Similarities(v[None], order, plan.dtype)
    cheap = plan.share.of_first(lambda: _cheap_tree(similarities, order))
    forest = plan.share.joined(len(v), lambda: _forest(v, order, similarities, cheap, plan))
    return _closed(len(v), order, *forest)


def _forest(
    v: Float[Tensor, "n d"], order: int, similarities: Similarities, cheap: Edges, plan: Plan
) -> tuple[Edges, Floats]:
    """The minimum spanning forest of this process's share of the pairs, and its keys."""
    sizes, error = similarities.sizes[0], similarities.errors[0]
    search = Search(v.numpy(), order, sizes, error, cheap, plan.capacity, plan.many)
    tiles = similarities.tiles(search.vertex)
    for stack in tiles.lower_triangle(plan.share.rows(len(tiles))):
        search.scan(stack)
        if _is_crowded(search, similarities, plan):
            again = Similarities(v[None], order, torch.float32)
            return _forest(v, order, again, cheap, plan)
    return search.minimum_forest()


def _closed(n: int, order: int, forest: Edges, keys: Floats) -> Edges:
    tree: Edges = closed_at_zero(n, forest, keys) if order == ABS_DOT else forest
    return tree


def _is_crowded(search: Search, similarities: Similarities, plan: Plan) -> bool:
    """Whether there are so many light pairs that products of higher precision pay off."""
    return similarities.dtype != torch.float32 and search.count > plan.crowded * len(search.vertex)


def _cheap_tree(similarities: Similarities, order: int) -> Edges:
    """Some light spanning tree: that of a sample, and an edge to it from each other vertex."""
    n, signed = similarities.sizes.shape[1], order != ABS_DOT
    # The sample is fixed but pseudo-random, as neighbouring neurons are often alike.
    count = int(_SAMPLED * math.sqrt(n))
    sample = np.sort(np.random.default_rng(0).permutation(n)[:count])
    nearest, within = np.empty(n, np.int64), []
    for first, rows in similarities.with_some(sample):
        stop = first + len(rows)
        most_similar(rows, signed, nearest[first:stop])
        within.append(rows[sample[(first <= sample) & (sample < stop)] - first])
    others = np.delete(np.arange(n), sample)
    edges = np.stack((sample[nearest[others]], others), 1)
    tree: Edges = np.concatenate((sample[prim(np.concatenate(within), signed)], edges))
    return tree
