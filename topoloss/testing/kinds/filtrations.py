"""The rules for a filtration."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from topoloss.diagrams import evaluate
from topoloss.engines import CriticalEdges
from topoloss.filtrations import ORDERS, Filtration
from topoloss.testing import examples
from topoloss.testing.checks import Kind, NotApplicable, Subject, on, require
from topoloss.testing.common import derivatives, devices, instances, numbers, purity, transforms
from topoloss.testing.examples import KnownExample
from topoloss.testing.kinds import activations
from topoloss.testing.kinds.tree_changes import require_smoothness_across_a_change
from topoloss.testing.kruskal import Kruskal

__all__ = ["KIND"]

_SIZES = (1, 2, 3, 20)


def shapes(subject: Subject) -> None:
    """Vertices are (n, d), and each edge has one value and one weight, for any n."""
    filtration = subject.make()
    for neurons in _SIZES:
        example = examples.generic(24, neurons, subject.seed)
        i, j = _pairs(neurons)
        with on(example.name):
            v = filtration.vertices(example.activations)
            _require_shape("vertices(x)", v, (neurons, v.shape[-1] if v.ndim else 0))
            for edges in (0, len(i)):
                few, others = i[:edges], j[:edges]
                values = filtration.edge_values(v, few, others)
                _require_shape("edge_values(v, i, j)", values, (edges,))
                weights = filtration.edge_weights(v, few, others)
                _require_shape("edge_weights(v, i, j)", weights, (edges,))


def vertices_unchanged(subject: Subject) -> None:
    """`edge_values`, `edge_weights` and `pairwise` do not write to the vertices."""
    filtration = subject.make()
    example = examples.generic(seed=subject.seed)
    with on(example.name):
        v = filtration.vertices(example.activations).detach()
        before = v.clone()
        i, j = _pairs(len(v))
        calls = {
            "edge_values": partial(filtration.edge_values, v, i, j),
            "edge_weights": partial(filtration.edge_weights, v, i, j),
            "pairwise": partial(filtration.pairwise, v),
        }
        for name, call in calls.items():
            call()
            require(
                torch.equal(v, before),
                expected="the vertices as they were",
                received=f"vertices that {name} wrote to",
                mend="replace operations in place (v -= m) by new tensors (v - m)",
            )


def symmetry(subject: Subject) -> None:
    """The value of an edge does not depend on which end comes first."""
    filtration = subject.make()
    example = _many(subject.seed)
    with on(example.name):
        v = filtration.vertices(example.activations)
        i, j = _pairs(len(v))
        forth, back = filtration.edge_values(v, i, j), filtration.edge_values(v, j, i)
        _require_close_edges(
            (i, j),
            forth,
            back,
            "the same value for (i, j) and (j, i)",
            "treat both ends alike, for example by a dot product or a distance",
        )


def locality(subject: Subject) -> None:
    """The value of an edge depends on the vertices at its two ends, and on no other vertex."""
    filtration = subject.make()
    example = _many(subject.seed)
    with on(example.name):
        v = filtration.vertices(example.activations)
        i, j = _pairs(len(v))
        # The filtration sees each edge alone, between the vertices 0 and 1 of two.
        zero, one = torch.tensor([0]), torch.tensor([1])
        edges = torch.stack((i, j), 1)
        alone = torch.cat([filtration.edge_values(v[edge], zero, one) for edge in edges])
        _require_close_edges(
            (i, j),
            alone,
            filtration.edge_values(v, i, j),
            "the value of v[i] and v[j] alone",
            "index with i and j as they are given; compute in vertices(x) what depends on all "
            "neurons",
        )


def pairwise(subject: Subject) -> None:
    """`pairwise` is the matrix of all edge values, without a graph."""
    filtration = subject.make()
    example = _many(subject.seed)
    with on(example.name):
        v = filtration.vertices(example.activations.requires_grad_())
        i, j = _pairs(len(v))
        matrix = filtration.pairwise(v)
        _require_shape("pairwise(v)", matrix, (len(v), len(v)))
        require(
            not matrix.requires_grad,
            expected="a matrix without a graph",
            received="a matrix with one, of n^2 edge values",
            mend="decorate pairwise with @torch.no_grad()",
        )
        values = filtration.edge_values(v, i, j)
        for entries in (matrix[i, j], matrix[j, i]):
            _require_close_edges(
                (i, j), values, entries, "the edge value", "value edges alike in both methods"
            )


def order_hint(subject: Subject) -> None:
    """Edge values ascend in the declared order of the features."""
    filtration = subject.make()
    order = filtration.order
    if order is None:
        raise NotApplicable("it declares no order")
    require(
        order in ORDERS,
        expected=f"one of {', '.join(ORDERS)}, or None",
        received=order,
        mend="declare one of these orders, or order = None",
    )
    for example in (_many(subject.seed), examples.two_clusters(), examples.constant_column()):
        with on(example.name):
            v = filtration.vertices(example.activations)
            i, j = _pairs(len(v))
            _require_order(order, v, filtration.edge_values(v, i, j), (i, j))


def definition(subject: Subject) -> None:
    """Edge values are those of the definition given as `expected`."""
    if subject.expected is None:
        raise NotApplicable("no definition was given with expected=")
    filtration = subject.make()
    for example in (activations.generic(subject.seed), *activations.special()):
        with on(example.name):
            (x,) = example.tensors
            v = filtration.vertices(x)
            i, j = _pairs(len(v))
            matrix = torch.as_tensor(subject.expected(x), dtype=torch.float64)
            _require_close_edges(
                (i, j),
                matrix[i, j],
                filtration.edge_values(v, i, j),
                "the value by definition",
                "compare the formula with the definition, at this edge",
            )


def change_of_tree(subject: Subject) -> None:
    """Where the tree changes the deaths are continuous, with the right gradient on each side."""
    filtration = subject.make()
    first, last = (examples.generic(seed=subject.seed + k) for k in (0, 1))
    with on(f"the line from {first.name} to {last.name}"):
        require_smoothness_across_a_change(
            lambda x: _deaths(filtration, x).sum(),
            lambda x: _tree(filtration, x),
            (first.activations, last.activations),
        )


def _apply(filtration: Filtration, x: Tensor) -> list[Tensor]:
    """Value all edges, in the same way as a pipeline values the edges of a tree."""
    v = filtration.vertices(x)
    if v.dtype in (torch.float16, torch.bfloat16):
        v = v.float()
    i, j = _pairs(x.shape[1], x.device)
    return [filtration.edge_values(v, i, j)]


KIND = Kind(
    base=Filtration,
    generic=lambda filtration, seed: activations.generic(seed),
    special=lambda filtration: activations.special(),
    apply=_apply,
    rules=(
        instances.construction,
        shapes,
        purity.input_unchanged,
        vertices_unchanged,
        purity.determinism,
        purity.random_state,
        purity.module_state,
        numbers.precision,
        numbers.finite,
        symmetry,
        locality,
        pairwise,
        order_hint,
        definition,
        derivatives.graph,
        derivatives.gradient,
        derivatives.second_gradient,
        derivatives.finite_gradients,
        change_of_tree,
        transforms.vmap,
        transforms.compilation,
        instances.pickling,
        instances.deepcopy,
        instances.state_dict,
        devices.cuda,
    ),
)


def _many(seed: int) -> KnownExample:
    return examples.generic(32, 16, seed)


def _pairs(n: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    i, j = torch.triu_indices(n, n, 1, device=device)
    return i, j


def _deaths(filtration: Filtration, x: Tensor) -> Tensor:
    v = filtration.vertices(x)
    return evaluate(filtration, v, _critical_edges(filtration, v))[0].deaths


def _tree(filtration: Filtration, x: Tensor) -> Tensor:
    v = filtration.vertices(x)
    return _critical_edges(filtration, v)[0].death_edges


def _critical_edges(filtration: Filtration, v: Tensor) -> list[CriticalEdges]:
    return Kruskal().from_matrix(filtration.pairwise(v.detach()))


def _require_shape(what: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    require(
        tensor.shape == shape,
        expected=f"{what} of shape {shape}",
        received=f"shape {tuple(tensor.shape)}",
        mend="keep one row for each neuron, and one value for each edge",
    )


def _require_close_edges(
    edges: tuple[Tensor, Tensor], first: Tensor, second: Tensor, expected: str, mend: str
) -> None:
    """Compare edge values to half of their digits: a root leaves no more where it cancels."""
    if len(first) == 0:
        return
    error = (first - second).abs().nan_to_num(torch.inf)
    worst = int(error.argmax())
    bound = torch.finfo(first.dtype).eps ** 0.5 * first.abs().amax()
    i, j = (int(end[worst]) for end in edges)
    require(
        error[worst] <= bound,
        expected=f"{expected}, {first[worst]:.9g} for the edge ({i}, {j})",
        received=f"{second[worst]:.9g}",
        mend=mend,
    )


def _require_order(order: str, v: Tensor, values: Tensor, edges: tuple[Tensor, Tensor]) -> None:
    """Require that no two edges are ordered by value against their keys, beyond rounding."""
    i, j = edges
    if order == "sq_dist_ascending":
        key = (v[i] - v[j]).square().sum(-1)
    else:
        dot = (v[i] * v[j]).sum(-1)
        key = -dot.abs() if order == "abs_dot_descending" else -dot
    rounding = 64 * v.shape[-1] * torch.finfo(v.dtype).eps * v.square().sum(-1).amax()
    close_by = torch.finfo(v.dtype).eps ** 0.5 * values.abs().amax()
    ahead = key[None] - key[:, None] > rounding
    fall = torch.where(ahead, values[:, None] - values[None], -torch.inf)
    first, second = divmod(int(fall.argmax()), len(key))
    first_edge, second_edge = (f"({int(i[e])}, {int(j[e])})" for e in (first, second))
    require(
        fall[first, second] <= close_by,
        expected=f"{order}: the edge {first_edge} of key {key[first]:.9g} before "
        f"the edge {second_edge} of key {key[second]:.9g}",
        received=f"edge values {values[first]:.9g} and {values[second]:.9g}",
        mend="declare the order that edge values have, or order = None: a wrong order gives a "
        "wrong tree, and no error",
    )
