"""Spanning trees as PyTorch operators: batches, vmap, fake tensors, one canonical result.

Backends get a batch without gradients and return its edges in any order; this module does all that
PyTorch needs around them.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

import topoloss
from topoloss_mst.selection import HOLD_A_MATRIX, load_backend

# Where the largest magnitude is in between, sums of products stay clear of the limits of float32.
_SAFE = (2.0**-40, 2.0**40)
GIVE_AN_ORDER = "give the filtration an order, so that mst works on its features"

_NAMESPACE = "topoloss::"
_LIBRARY = torch.library.Library("topoloss", "DEF")  # type: ignore[no-untyped-call]


def _operator(schema: str) -> Callable[[Callable[..., Tensor]], Any]:
    """Register a function as the operator of a schema, on every device.

    `torch.library.custom_op` would import torch's compiler at the first call, which takes
    seconds, and go through it at each call.
    """

    def register(function: Callable[..., Tensor]) -> Any:
        _LIBRARY.define(schema)  # type: ignore[no-untyped-call]
        _LIBRARY.impl(function.__name__, function, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
        return getattr(torch.ops.topoloss, function.__name__).default

    return register


@_operator("spanning_tree_of_features(Tensor v, str order, str backend) -> Tensor")
def spanning_tree_of_features(v: Tensor, order: str, backend: str) -> Tensor:
    """Edges (..., n - 1, 2) of the minimum spanning tree on vertices (..., n, d)."""
    run = load_backend(backend).from_features
    remedy = "use backend='triton', in float32" if backend in HOLD_A_MATRIX else None
    return _trees(lambda batch: run(_balanced(batch), order), v, backend, remedy)


def shared_tree_of_features(v: Tensor, order: str, processes: topoloss.Processes) -> Tensor:
    """The same for vertices (n, d), where the processes of a group share the search.

    This is not an operator, as operators cannot take `processes`. The search runs on the CPU.
    """
    v = v.detach().cpu()
    _check_alike(v, order, processes)
    run = load_backend("numba").from_features_shared
    return _trees(lambda batch: run(_balanced(batch), order, processes), v, "numba", None)


@_operator("spanning_tree_of_matrix(Tensor values, str backend) -> Tensor")
def spanning_tree_of_matrix(values: Tensor, backend: str) -> Tensor:
    """Edges (..., n - 1, 2) of the minimum spanning tree of symmetric values (..., n, n).

    The diagonal does not count, and need not be finite.
    """
    if _is_checked(values, backend):
        diagonal = torch.diagonal(values, dim1=-2, dim2=-1)
        if not torch.isfinite(diagonal).all():
            on_diagonal = torch.eye(values.shape[-1], dtype=torch.bool, device=values.device)
            values = values.masked_fill(on_diagonal, 0)
    return _trees(load_backend(backend).from_matrix, values, backend, GIVE_AN_ORDER)


@_operator("spanning_forest(int n, Tensor edges, Tensor values) -> Tensor")
def spanning_forest(n: int, edges: Tensor, values: Tensor) -> Tensor:
    """Rows (..., n - k, 2) of `edges` (e, 2): the minimum spanning forest by values (..., e).

    The graph has n vertices and k components. The search runs on the CPU.
    """
    _check_finite(values)
    if len(edges) and not (int(edges.min()) >= 0 and int(edges.max()) < n):
        raise topoloss.InputError(
            f"edges between the vertices {int(edges.min())} to {int(edges.max())} were listed for "
            f"a graph of {n} vertices; expected indices from 0 to {n - 1}."
        )
    listed = edges.cpu()
    from_edges = load_backend("numba").from_edges
    each = values.detach().cpu().reshape(values.shape[:-1].numel(), len(edges))
    if not len(each):
        # For an empty batch, the graph alone says how many edges each forest has.
        count = len(from_edges(n, listed, torch.zeros(len(edges))))
        return edges.new_empty(*values.shape[:-1], count, 2)
    rows = [from_edges(n, listed, v) for v in each]
    forests = edges[torch.stack(rows).to(edges.device)]
    return forests.reshape(*values.shape[:-1], *forests.shape[1:])


@torch.library.register_fake(_NAMESPACE + "spanning_tree_of_features")  # type: ignore[untyped-decorator]
def _(v: Tensor, order: str, backend: str) -> Tensor:
    return _empty_tree(v)


@torch.library.register_fake(_NAMESPACE + "spanning_tree_of_matrix")  # type: ignore[untyped-decorator]
def _(values: Tensor, backend: str) -> Tensor:
    return _empty_tree(values)


@torch.library.register_fake(_NAMESPACE + "spanning_forest")  # type: ignore[untyped-decorator]
def _(n: int, edges: Tensor, values: Tensor) -> Tensor:
    # The number of components depends on the values of `edges`.
    count = torch.library.get_ctx().new_dynamic_size()
    return edges.new_empty((*values.shape[:-1], count, 2))


@torch.library.register_vmap(_NAMESPACE + "spanning_tree_of_features")  # type: ignore[untyped-decorator]
def _(info: Any, in_dims: tuple[Any, ...], v: Tensor, order: str, backend: str) -> Any:
    return spanning_tree_of_features(v.movedim(in_dims[0], 0), order, backend), 0


@torch.library.register_vmap(_NAMESPACE + "spanning_tree_of_matrix")  # type: ignore[untyped-decorator]
def _(info: Any, in_dims: tuple[Any, ...], values: Tensor, backend: str) -> Any:
    return spanning_tree_of_matrix(values.movedim(in_dims[0], 0), backend), 0


@torch.library.register_vmap(_NAMESPACE + "spanning_forest")  # type: ignore[untyped-decorator]
def _(info: Any, in_dims: tuple[Any, ...], n: int, edges: Tensor, values: Tensor) -> Any:
    _, of_edges, of_values = in_dims
    if of_edges is None:
        return spanning_forest(n, edges, values.movedim(of_values, 0)), 0
    graphs = edges.movedim(of_edges, 0)
    each = values.expand(len(graphs), -1) if of_values is None else values.movedim(of_values, 0)
    forests = [spanning_forest(n, graph, v) for graph, v in zip(graphs, each, strict=True)]
    if len({len(forest) for forest in forests}) > 1:
        raise topoloss.InputError(
            "the graphs of a batch have differing numbers of components, and so of deaths; pass "
            "the elements of the batch as a list instead."
        )
    return torch.stack(forests), 0


def _empty_tree(x: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-2], x.shape[-2] - 1, 2), dtype=torch.int64)


@torch.no_grad()
def _trees(run: Callable[[Tensor], Tensor], x: Tensor, backend: str, remedy: str | None) -> Tensor:
    """Run a backend on the whole batch at once.

    `remedy` says how to avoid a matrix of all pairs; None for a backend that holds none.
    """
    if _is_checked(x, backend):
        _check_finite(x)
    tree = _empty_tree(x)
    if not tree.numel():
        return tree
    if not x.numel():
        raise topoloss.InputError(f"vertices of shape {tuple(x.shape)} have no features.")
    # Half precision widens exactly. Contiguous, as sums over other layouts round differently.
    x = x.to(torch.promote_types(x.dtype, torch.float32)).contiguous()
    batch = x.reshape(-1, *x.shape[-2:])
    try:
        # Autocast would multiply in half precision, which the backends do not expect.
        with torch.autocast(x.device.type, enabled=False):
            edges = run(batch)
    except torch.OutOfMemoryError as error:
        raise (_no_space_to_search(x) if remedy is None else out_of_memory(x, remedy)) from error
    return _canonical(edges, batch.shape[1]).reshape(tree.shape)


def _check_alike(v: Tensor, order: str, processes: topoloss.Processes) -> None:
    """Raise in every process unless all were given the same vertices, and say which differ."""
    bits = zlib.crc32(v.contiguous().view(torch.uint8).numpy().data)
    given = processes.all_gather(lambda: (tuple(v.shape), str(v.dtype), order, bits))
    if all(one == given[0] for one in given):
        return
    if all(one[:3] == given[0][:3] for one in given):
        differing = [rank for rank, one in enumerate(given) if one != given[0]]
        raise topoloss.InputError(
            f"ranks {differing} were given other numbers than rank 0 in features of equal shape; a "
            "group needs the same features in every process, bit for bit. Gather the activations, "
            "as attach(..., group=...) does, or send them from one process "
            "(torch.distributed.broadcast)."
        )
    listed = "; ".join(
        f"rank {rank}: {shape[0]} vertices of {shape[1]} features in {dtype}, {order}"
        for rank, (shape, dtype, order, _) in enumerate(given)
    )
    raise topoloss.InputError(
        f"the processes of a group were given differing features ({listed}); every process needs "
        "the same ones."
    )


def out_of_memory(x: Tensor, remedy: str) -> topoloss.TooLargeError:
    """Return an error for vertices, or a matrix, whose n x n keys did not fit."""
    n = x.shape[-2]
    size = n * n * x.element_size() / 2**30
    return topoloss.TooLargeError(
        f"{x.device} ran out of memory for {n} x {n} keys, at least {size:.1f} GiB for each copy. "
        f"To avoid such a matrix, {remedy}; or take a fraction of the neurons "
        "(attach(..., fraction=0.1))."
    )


def _no_space_to_search(v: Tensor) -> topoloss.TooLargeError:
    """Return an error for a search without a matrix of all pairs that ran out of memory."""
    *batch, n, d = v.shape
    size = v.numel() * v.element_size() / 2**30
    return topoloss.TooLargeError(
        f"{v.device} ran out of memory in the search for the spanning tree of {n} vertices of {d} "
        f"features{f', for a batch of {math.prod(batch)}' if batch else ''}; the features alone "
        f"take {size:.1f} GiB. Free memory there, take a fraction of the neurons "
        "(attach(..., fraction=0.1)) or a smaller batch, or search on the CPU "
        "(regulariser(activations.cpu()))."
    )


def _is_checked(x: Tensor, backend: str) -> bool:
    """Whether to check for NaN, which waits for the device.

    On a GPU the triton backend must not wait, so there is no check. There NaN sorts before every
    number, so a tree contains any NaN there is and the loss becomes NaN. Regularisers check
    activations in any case.
    """
    return backend != "triton" or x.device.type == "cpu"


def _check_finite(x: Tensor) -> None:
    # A finite sum proves that every entry is finite; another one may just have overflowed.
    if not math.isfinite(x.sum().item()) and not torch.isfinite(x).all():
        raise topoloss.InputError(
            f"a filtration gave NaN or infinity in a tensor of shape {tuple(x.shape)}; every "
            "vertex and every edge value must be finite."
        )


def _balanced(v: Tensor) -> Tensor:
    """Scale each element of a batch by a power of two, so that no product over- or underflows.

    On the CPU this is done only where one might, and then in float64, which loses no digits.
    """
    largest = v.abs().amax((-2, -1), keepdim=True)
    if v.device.type == "cpu":
        safe = (_SAFE[0] <= largest) & (largest <= _SAFE[1])
        if (safe | (largest == 0)).all():
            return v
        v, largest = v.double(), largest.double()
    limit = 2.0 ** (math.frexp(torch.finfo(v.dtype).max)[1] - 2)
    # A number's mantissa over the number is an exact power of two; not every pow is exact.
    scale = torch.where(largest == 0, 1, torch.frexp(largest).mantissa / largest)
    return v * scale.clamp(1 / limit, limit)


def _canonical(edges: Tensor, n: int) -> Tensor:
    """Put lower ends first and sort edges lexicographically, so that backends agree exactly."""
    if edges.device.type == "cpu":
        # For the few edges of a tree NumPy is several times faster than torch.
        one, other = np.moveaxis(edges.numpy(), -1, 0)
        ascending = np.sort(np.minimum(one, other) * n + np.maximum(one, other))
        return torch.from_numpy(np.stack(np.divmod(ascending, n), -1))
    code = torch.minimum(*edges.unbind(-1)) * n + torch.maximum(*edges.unbind(-1))
    codes = code.sort(-1).values
    return torch.stack((codes // n, codes % n), -1)
