"""Spanning trees as PyTorch operators: batches, vmap, fake tensors, one canonical result.

Engines see one problem without gradients and return some order of edges; everything
that PyTorch needs to know around them lives here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import topoloss
from topoloss_mst.selection import load_engine


@torch.library.custom_op("topoloss::spanning_tree_of_features", mutates_args=())
def spanning_tree_of_features(v: Tensor, order: str, engine: str) -> Tensor:
    """Edges (..., n - 1, 2) of the minimum spanning tree on vertices (..., n, d)."""
    run = load_engine(engine).from_features
    return _over_problems(lambda problem: run(_balanced(problem), order), v)


@torch.library.custom_op("topoloss::spanning_tree_of_matrix", mutates_args=())
def spanning_tree_of_matrix(values: Tensor, engine: str) -> Tensor:
    """Edges (..., n - 1, 2) of the minimum spanning tree of symmetric values (..., n, n).

    The diagonal counts for nothing, and need not be finite.
    """
    diagonal = torch.diagonal(values, dim1=-2, dim2=-1)
    if not torch.isfinite(diagonal).all():
        on_diagonal = torch.eye(values.shape[-1], dtype=torch.bool, device=values.device)
        values = values.masked_fill(on_diagonal, 0)
    return _over_problems(load_engine(engine).from_matrix, values)


@spanning_tree_of_features.register_fake
def _(v: Tensor, order: str, engine: str) -> Tensor:
    return _empty_tree(v)


@spanning_tree_of_matrix.register_fake
def _(values: Tensor, engine: str) -> Tensor:
    return _empty_tree(values)


@spanning_tree_of_features.register_vmap
def _(info: Any, in_dims: tuple[Any, ...], v: Tensor, order: str, engine: str) -> Any:
    return spanning_tree_of_features(v.movedim(in_dims[0], 0), order, engine), 0


@spanning_tree_of_matrix.register_vmap
def _(info: Any, in_dims: tuple[Any, ...], values: Tensor, engine: str) -> Any:
    return spanning_tree_of_matrix(values.movedim(in_dims[0], 0), engine), 0


def _empty_tree(x: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-2], x.shape[-2] - 1, 2), dtype=torch.int64)


@torch.no_grad()
def _over_problems(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    _check_finite(x)
    tree = _empty_tree(x)
    if tree.numel():
        problems = x.reshape(-1, *x.shape[-2:])
        for problem, out in zip(problems, tree.reshape(-1, *tree.shape[-2:]), strict=True):
            out.copy_(_canonical(run(problem), problem.shape[0]))
    return tree


def _check_finite(x: Tensor) -> None:
    # A finite sum proves that every entry is finite; one that is not may only have overflowed.
    if not torch.isfinite(x.sum()) and not torch.isfinite(x).all():
        raise topoloss.InputError(
            f"a filtration gave NaN or infinity in a tensor of shape {tuple(x.shape)}; every "
            "vertex and every edge value of the clique must be finite."
        )


def _balanced(v: Tensor) -> Tensor:
    """Scale by a power of two, which is exact, so that no product over- or underflows."""
    lowest, highest = torch.aminmax(v)
    largest = torch.maximum(-lowest, highest)
    limit = math.frexp(torch.finfo(v.dtype).max)[1] - 2
    exponent = (-torch.frexp(largest).exponent).clamp(-limit, limit)
    return v * torch.ldexp(torch.ones_like(largest), exponent)


def _canonical(edges: Tensor, n: int) -> Tensor:
    """Lower end point first, edges in lexicographic order: engines then agree exactly."""
    lower, higher = edges.amin(-1), edges.amax(-1)
    code = (lower * n + higher).sort().values
    return torch.stack((code // n, code % n), -1)
