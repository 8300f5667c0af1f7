"""The rules for a filtration."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from topoloss.diagrams import evaluate
from topoloss.engines import CriticalEdges
from topoloss.filtrations import Filtration
from topoloss.testing import examples
from topoloss.testing.checks import (
    Kind,
    NotApplicable,
    Subject,
    builds_on,
    foundation,
    on,
    on_definition,
    require,
)
from topoloss.testing.common import (
    derivatives,
    devices,
    instances,
    numbers,
    purity,
    ties,
    transforms,
)
from topoloss.testing.comparing import first_nonfinite, same, worst_entry
from topoloss.testing.kinds import activations, edge_values
from topoloss.testing.kinds.graphs import all_pairs, each, given, graph_of, skip_listed
from topoloss.testing.kinds.samples import samples
from topoloss.testing.kinds.tree_changes import require_smoothness_across_a_change
from topoloss.testing.kruskal import Kruskal

__all__ = ["KIND"]

_SIZES = (1, 2, 3, 20)


@foundation
def shapes(subject: Subject) -> None:
    """Vertices are (n, d), and each edge has one value and one weight, for any n."""
    filtration = subject.make()
    for neurons in _SIZES:
        example = examples.generic(24, neurons, subject.seed)
        with on(example.name):
            graph = graph_of(filtration, example.activations)
            if not graph.listed:
                columns = graph.v.shape[-1] if graph.v.ndim else 0
                _require_shape("vertices(x)", graph.v, (graph.n, columns))
            for edges in (0, len(graph.i)):
                few, others = graph.i[:edges], graph.j[:edges]
                values = filtration.edge_values(graph.v, few, others)
                _require_shape("edge_values(v, i, j)", values, (edges,))
                weights = filtration.edge_weights(graph.v, few, others)
                _require_shape("edge_weights(v, i, j)", weights, (edges,))


@foundation
def vertices_unchanged(subject: Subject) -> None:
    """`edges`, `edge_values`, `edge_weights` and `pairwise` do not write to the vertices."""
    filtration = subject.make()
    example = examples.generic(seed=subject.seed)
    with on(example.name):
        v, _, i, j, listed = graph_of(filtration, example.activations)
        v = each(Tensor.detach, v)
        before = each(Tensor.clone, v)
        calls = {
            "edges": partial(filtration.edges, v),
            "edge_values": partial(filtration.edge_values, v, i, j),
            "edge_weights": partial(filtration.edge_weights, v, i, j),
        }
        if not listed:
            calls["pairwise"] = partial(filtration.pairwise, v)
        for name, call in calls.items():
            call()
            require(
                same(*(y if isinstance(y, tuple) else (y,) for y in (v, before))),
                expected="the vertices as they were",
                received=f"vertices that {name} wrote to",
                mend="replace in-place operations (v -= m) by new tensors (v - m)",
            )


@builds_on("symmetry", "locality", "precision")
def definition(subject: Subject) -> None:
    """Edge values are those of the definition given as `expected`."""
    if subject.expected is None:
        raise NotApplicable("no definition was given with expected=")
    filtration = subject.make()
    for example in (
        activations.generic(subject.seed),
        *activations.special(),
        examples.many(41, 5, subject.seed),
        examples.many(301, 4, subject.seed),
        examples.many(6, 130, subject.seed),
    ):
        with on(example.name):
            (x,) = example.tensors
            v, n, i, j, listed = graph_of(filtration, x)
            if not listed:
                i, j = all_pairs(n).unbind(1)
            if not len(i):
                continue
            with on_definition(example.name):
                matrix = torch.as_tensor(subject.expected(given(filtration, x)))
                _require_matrix(matrix, n)
            expected = matrix.double()[i, j]
            # A root keeps only half of the digits where its argument cancels.
            bound = torch.finfo(torch.float64).eps ** 0.5 * expected.abs().amax()
            (k,), got, wanted = worst_entry(filtration.edge_values(v, i, j), expected)
            require(
                abs(got - wanted) <= bound,
                expected=f"the value by definition, {wanted:.9g} for the edge "
                f"({int(i[k])}, {int(j[k])})",
                received=f"{got:.9g}",
                mend="compare the formula with the definition, at this edge",
            )


@builds_on("gradient", "precision", "symmetry", "pairwise")
def change_of_tree(subject: Subject) -> None:
    """Where the tree changes, the deaths are continuous, with the right gradient on each side."""
    filtration = subject.make()
    derivatives.skip_where_surrogate(filtration)
    first, last = (examples.generic(seed=subject.seed + k) for k in (0, 1))
    with on(f"the line from {first.name} to {last.name}"):
        skip_listed(graph_of(filtration, first.activations))
        require_smoothness_across_a_change(
            lambda x: _deaths(filtration, x).sum(),
            lambda x: _tree(filtration, x),
            (first.activations, last.activations),
        )


def _apply(filtration: Filtration, x: Tensor) -> list[Tensor]:
    """Compute edge values as a pipeline does for the edges of a tree."""
    v, _, i, j, _ = graph_of(filtration, x)
    return [filtration.edge_values(v, i, j)]


def _beside(filtration: Filtration, x: Tensor) -> list[Tensor]:
    """Return what else a pipeline asks for: edge weights, and the values of `pairwise`."""
    v, _, i, j, listed = graph_of(filtration, x)
    weights = filtration.edge_weights(v, i, j)
    return [weights] if listed else [weights, filtration.pairwise(v.detach())[i, j]]


KIND = Kind(
    base=Filtration,
    generic=lambda filtration, seed: activations.generic(seed),
    special=lambda filtration: activations.special(),
    apply=_apply,
    rules=(
        instances.construction,
        edge_values.listed_edges,
        shapes,
        numbers.finite,
        purity.input_unchanged,
        vertices_unchanged,
        purity.determinism,
        purity.memory,
        purity.random_state,
        purity.module_state,
        purity.leftovers,
        numbers.precision,
        numbers.layout,
        edge_values.edges_alone,
        edge_values.locality,
        edge_values.symmetry,
        edge_values.pairwise,
        edge_values.order_hint,
        edge_values.edge_weights,
        edge_values.cost,
        numbers.scale,
        numbers.tiny,
        samples,
        definition,
        derivatives.graph,
        derivatives.gradient,
        derivatives.second_gradient,
        derivatives.finite_gradients,
        ties.ties,
        derivatives.many,
        change_of_tree,
        transforms.vmap,
        transforms.compilation,
        instances.pickling,
        instances.deepcopy,
        instances.state_dict,
        devices.device,
        devices.cuda,
    ),
    large=lambda filtration, seed: activations.large(seed),
    beside=_beside,
)


def _deaths(filtration: Filtration, x: Tensor) -> Tensor:
    v = filtration.vertices(given(filtration, x))
    return evaluate(filtration, v, _critical_edges(filtration, v))[0].deaths


def _tree(filtration: Filtration, x: Tensor) -> Tensor:
    v = filtration.vertices(given(filtration, x))
    return _critical_edges(filtration, v)[0].death_edges


def _critical_edges(filtration: Filtration, v: Tensor) -> list[CriticalEdges]:
    v = v.detach()
    edges = all_pairs(len(v))
    values = filtration.edge_values(v, *edges.unbind(1)).detach()
    bad = first_nonfinite([values])
    require(
        bad is None,
        expected="finite edge values",
        received=bad,
        mend="guard the argument of the logarithm, root or division with torch.where",
    )
    return Kruskal().from_edges(len(v), edges, values)


def _require_matrix(matrix: Tensor, n: int) -> None:
    require(
        matrix.shape == (n, n),
        expected=f"a matrix of shape {(n, n)} from the definition",
        received=f"shape {tuple(matrix.shape)}",
        mend="fix the definition given as expected=: it must return a value for every two vertices",
    )


def _require_shape(what: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    require(
        tensor.shape == shape,
        expected=f"{what} of shape {shape}",
        received=f"shape {tuple(tensor.shape)}",
        mend="keep one row for each neuron, and one value for each edge",
    )
