"""Minimum spanning trees of features, from all pairs of few vertices or light pairs of many."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from topoloss_mst.backends.triton_backend import dense
from topoloss_mst.backends.triton_backend.cheap import nearest_in_sample, shuffled
from topoloss_mst.backends.triton_backend.components import Components
from topoloss_mst.backends.triton_backend.forest import Source, all_listed, drops_zeros, grow
from topoloss_mst.backends.triton_backend.hierarchy import hierarchy_of
from topoloss_mst.backends.triton_backend.launching import in_parts
from topoloss_mst.backends.triton_backend.light import light_pairs
from topoloss_mst.backends.triton_backend.plan import Plan
from topoloss_mst.backends.triton_backend.rows import Rows, rows_of
from topoloss_mst.backends.triton_backend.twins import lowest_twins


def minimum_trees(v: Float[Tensor, "batch n d"], order: str, plan: Plan) -> Tensor:
    """Edges (batch, n - 1, 2), in some order, for n of at least 2.

    As many elements of the batch as fit are searched side by side.
    """
    n = v.shape[1]
    if n * n <= plan.kept_pairs:
        search, fitting = _of_all_pairs, plan.kept_pairs // n**2
    else:
        search, fitting = _of_light_pairs, max(1, plan.together // n)
    return in_parts(lambda part: search(part, order, plan), v, fitting)


def _of_all_pairs(v: Float[Tensor, "batch n d"], order: str, plan: Plan) -> Tensor:
    return dense.minimum_trees(dense.values_of_pairs(v, order))


def _of_light_pairs(v: Float[Tensor, "batch n d"], order: str, plan: Plan) -> Tensor:
    """A cheap tree rules out most pairs; those that are left are compared in float64."""
    batch, n, _ = v.shape
    v = v.float().contiguous()
    rows = rows_of(v, order)
    hierarchy = hierarchy_of(v, order, _cheap_trees(v, rows, order, plan))
    sources: list[Source] = []
    if order == "sq_dist_ascending":
        twin = lowest_twins(v)
        vertex = torch.arange(n, device=v.device)
        rows = rows.without(twin != vertex)
        sources.append(all_listed(v, order, twin * n + vertex))
    sources += light_pairs(v, rows, order, hierarchy, plan)
    forest = Components(batch, n, v.device)
    grow(forest, sources)
    if drops_zeros(order):
        forest.close_at_zero()
    return forest.edges()


def _cheap_trees(v: Float[Tensor, "batch n d"], rows: Rows, order: str, plan: Plan) -> Tensor:
    """The minimum tree of a sample, with an edge to it from each other vertex, as codes."""
    batch, n, _ = v.shape
    vertex = shuffled(n, v.device)
    sampled = max(1, n // plan.sampled)
    within = vertex.new_empty(batch, 0, 2)
    if sampled > 1:
        within = minimum_trees(v.index_select(1, vertex[:sampled]), order, plan)
    nearest = nearest_in_sample(rows.at(vertex.expand(batch, n)), order, sampled, plan)
    others = torch.arange(sampled, n, device=v.device).expand_as(nearest)
    i, j = torch.cat((within, torch.stack((nearest, others), -1)), 1).unbind(-1)
    i, j = vertex[i], vertex[j]
    return torch.minimum(i, j) * n + torch.maximum(i, j)
