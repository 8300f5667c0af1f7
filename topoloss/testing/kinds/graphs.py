"""The graph of a filtration, as the rules see it: vertices and edges."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from topoloss.filtrations import Filtration
from topoloss.testing.checks import NotApplicable, require

__all__ = ["Graph", "all_pairs", "each", "given", "graph_of", "skip_listed"]

# In larger cliques only about two edges for each vertex are used, as in a spanning tree.
_ALL_PAIRS_UP_TO = 64


class Graph(NamedTuple):
    """What a pipeline hands to a filtration's methods.

    Attributes
    ----------
    v : Tensor or tuple of Tensor
        Vertices, in at least float32.
    n : int
        The number of vertices.
    i, j : Tensor of int64, shape (e,)
        End points; columns of one tensor, as in a pipeline.
    listed : bool
        Whether the filtration listed the edges itself.
    """

    v: Any
    n: int
    i: Tensor
    j: Tensor
    listed: bool


def graph_of(filtration: Filtration, x: Tensor) -> Graph:
    """Return the vertices of an example, and edges: those listed, or pairs of the clique."""
    v = each(
        lambda y: y.float() if y.dtype in _HALF else y, filtration.vertices(given(filtration, x))
    )
    listed = filtration.edges(each(Tensor.detach, v))
    if listed is not None:
        n, edges = listed
        _require_edges(n, edges)
    else:
        # For weights, each vertex has a row of v.
        n = x.shape[-1] if filtration.source == "activations" else len(v)
        edges = all_pairs(n, x.device) if n <= _ALL_PAIRS_UP_TO else _few_pairs(n, x.device)
    return Graph(v, n, edges[:, 0], edges[:, 1], listed is not None)


def given(filtration: Filtration, x: Tensor) -> Any:
    """Return activations, or the weights of two layers by name, as the filtration takes them."""
    return x if filtration.source == "activations" else {"0": x, "1": x.flip(0).mT}


def skip_listed(graph: Graph) -> None:
    """Skip a rule about the clique where the filtration lists its edges."""
    if graph.listed:
        raise NotApplicable("it lists its edges, and is never asked for the values of others")


def each(function: Any, v: Any) -> Any:
    """Apply a function to the vertices, or to each tensor of a tuple of them."""
    return tuple(function(y) for y in v) if isinstance(v, tuple) else function(v)


def all_pairs(n: int, device: torch.device | None = None) -> Tensor:
    """Return all edges of the clique, shape (e, 2)."""
    return torch.triu_indices(n, n, 1, device=device).T.contiguous()


def _few_pairs(n: int, device: torch.device) -> Tensor:
    """Return a star around the first vertex, and a path through all: shape (2n - 3, 2)."""
    vertex = torch.arange(n, device=device)
    star = torch.stack((torch.zeros_like(vertex[1:]), vertex[1:]), 1)
    path = torch.stack((vertex[1:-1], vertex[2:]), 1)
    return torch.cat((star, path))


def _require_edges(n: Any, edges: Any) -> None:
    mend = "return (n, edges) from edges(v): the number of vertices, and pairs of vertices"
    require(
        type(n) is int and n > 0,
        expected="a number of vertices, at least 1",
        received=repr(n),
        mend=mend,
    )
    require(
        isinstance(edges, Tensor)
        and edges.dtype == torch.int64
        and edges.ndim == 2
        and edges.shape[1] == 2,
        expected="edges: int64 of shape (e, 2)",
        received=f"{edges.dtype} of shape {tuple(edges.shape)}"
        if isinstance(edges, Tensor)
        else repr(edges),
        mend=mend,
    )


_HALF = (torch.float16, torch.bfloat16)
