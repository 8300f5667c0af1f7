"""What is asked of a persistence engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor

from topoloss.engines import CriticalEdges, Persistence
from topoloss.filtrations import ORDERS, Order
from topoloss.testing import common
from topoloss.testing.checks import Given, Kind, NotApplicable, Subject, on, require
from topoloss.testing.kruskal import by_value_then_indices

__all__ = ["KIND"]

_SIZES = (1, 2, 3, 17, 40)
_DTYPES = (torch.float64, torch.float32)
_FEATURES = 3


def orders(subject: Subject) -> None:
    """The orders that the engine names are those that there are."""
    engine = subject.make()
    require(
        set(engine.orders) <= set(ORDERS),
        expected=f"a subset of {', '.join(ORDERS)}",
        received=engine.orders,
        mend="name the orders for which from_features works, and no other",
    )


def edges_of_vertices(subject: Subject) -> None:
    """Edges are int64 pairs of two vertices, of shape (points, 2), in every dimension."""
    engine = subject.make()
    for name, find, key in _problems(engine, subject.seed):
        with on(name):
            critical = find()
            require(
                len(critical) > 0 and all(isinstance(c, CriticalEdges) for c in critical),
                expected="a topoloss.CriticalEdges for each dimension, 0 first",
                received=critical,
                mend="return [topoloss.CriticalEdges(death_edges)]",
            )
            require(
                critical[0].birth_edges is None and critical[0].essential_births is None,
                expected="no birth edges in dimension 0, where vertices are born at 0",
                received=critical[0],
                mend="leave birth_edges and essential_births out in dimension 0",
            )
            for edges in _edge_tensors(critical):
                _check_edges(edges, len(key))


def points(subject: Subject) -> None:
    """Dimension 0 has n - 1 deaths, zeros included."""
    engine = subject.make()
    for name, find, key in _problems(engine, subject.seed):
        with on(name):
            edges = find()[0].death_edges
            require(
                len(edges) == len(key) - 1,
                expected=f"{len(key) - 1} edges for {len(key)} vertices",
                received=f"{len(edges)} edges",
                mend="keep the edges of value 0: equal vertices are merged by edges like others",
            )


def spanning_tree(subject: Subject) -> None:
    """The edges of dimension 0 close no cycle, and so connect all vertices."""
    engine = subject.make()
    for name, find, key in _problems(engine, subject.seed):
        with on(name):
            edges = find()[0].death_edges
            in_tree = torch.ones(len(key), len(key))
            in_tree[edges[:, 0], edges[:, 1]] = in_tree[edges[:, 1], edges[:, 0]] = 0
            connecting = by_value_then_indices(in_tree)
            missing = [edge for edge in connecting.tolist() if in_tree[tuple(edge)] == 1]
            require(
                not missing,
                expected="edges that connect all vertices",
                received=f"{edges.tolist()}, which leave {missing[:3]} to be added",
                mend="add an edge only where its ends are not connected yet",
            )


def reference(subject: Subject) -> None:
    """On small integers the tree is that of Kruskal by (key, lower, higher), edge for edge."""
    engine = subject.make()
    for name, find, key in _problems(engine, subject.seed):
        with on(name):
            received = find()[0].death_edges.sort(-1).values.tolist()
            expected = by_value_then_indices(key).tolist()
            wrong = [edge for edge in sorted(received) if edge not in expected]
            absent = [edge for edge in expected if edge not in received]
            require(
                not wrong and not absent,
                expected=f"the edges {absent[:3]} among those of the tree",
                received=f"{wrong[:3]} in their place",
                mend="order edges by (key, lower index, higher index); see the pairs of indices "
                "for one that is off",
            )


def weight(subject: Subject) -> None:
    """On real data the tree weighs what the tree of float64 weighs, up to rounding.

    A key of d features is off by at most 4 d eps times the largest squared norm, and so
    the tree weighs at most n - 1 times twice that more than the lightest.
    """
    engine = subject.make()
    n, d = 100, 5
    generator = torch.Generator().manual_seed(subject.seed)
    v = torch.randn(n, d, dtype=torch.float64, generator=generator)
    for dtype in _DTYPES:
        x = v.to(dtype)
        allowed = 8 * (n - 1) * d * torch.finfo(dtype).eps * x.double().square().sum(-1).amax()
        # In a narrow band a key that was rounded to fewer digits ties with many others.
        narrow = (1 + _key("sq_dist_ascending", x.double()) / 1000).to(dtype)
        banded: _Found = (
            "from_matrix, in [1, 1.1],",
            partial(engine.from_matrix, narrow),
            narrow.double(),
        )
        for name, find, key in (*_operators(engine, x), banded):
            with on(f"{name} of torch.randn({n}, {d}), seed={subject.seed}, {dtype}"):
                lightest = key[tuple(by_value_then_indices(key).T)].sum()
                received = key[tuple(find()[0].death_edges.T)].sum()
                require(
                    received - lightest <= allowed,
                    expected=f"a tree of weight {lightest:.9g} up to {allowed:.2g}",
                    received=f"{received:.9g}",
                    mend="compare keys in the dtype of the input, and take the lightest edge",
                )


def diagonal(subject: Subject) -> None:
    """What stands on the diagonal of a matrix counts for nothing."""
    engine = subject.make()
    values = _key("sq_dist_ascending", _integers(17, subject.seed))
    with on(f"squared distances of 17 vertices of small integers, seed={subject.seed}"):
        plain = _edge_tensors(engine.from_matrix(values))
        for last in (-9.0, 1e9):
            entries = torch.linspace(-1, last, len(values), dtype=values.dtype)
            other = _edge_tensors(engine.from_matrix(torch.diagonal_scatter(values, entries)))
            require(
                len(plain) == len(other) and common.same(plain, other),
                expected=f"the edges {plain} also with -1 to {last} on the diagonal",
                received=other,
                mend="look at the entries above the diagonal alone",
            )


def higher_dimensions(subject: Subject) -> None:
    """Above dimension 0 no class dies before it is born."""
    engine = subject.make()
    generator = torch.Generator().manual_seed(subject.seed)
    v = torch.randn(12, _FEATURES, dtype=torch.float64, generator=generator)
    values = _key("sq_dist_ascending", v)
    with on(f"squared distances of torch.randn(12, {_FEATURES}), seed={subject.seed}"):
        higher = engine.from_matrix(values)[1:]
        if not higher:
            raise NotApplicable("it finds dimension 0 alone")
        for dimension, edges in enumerate(higher, start=1):
            births, deaths = edges.birth_edges, edges.death_edges
            require(
                births is not None and births.shape == deaths.shape,
                expected=f"a birth edge for each death edge in dimension {dimension}",
                received=births,
                mend="return both edges of every point",
            )
            require(
                (values[tuple(births.T)] <= values[tuple(deaths.T)]).all(),
                expected=f"births at most deaths in dimension {dimension}",
                received=f"births {births.tolist()}, deaths {deaths.tolist()}",
                mend="take the longest edge of the simplex that creates, or destroys, the class",
            )


def vmap(subject: Subject) -> None:
    """An engine that says so gives under `torch.vmap` what a loop gives."""
    _skip_unless_vmappable(subject)
    common.vmap(subject)


def compilation(subject: Subject) -> None:
    """An engine of torch operations compiles into one graph that gives the eager edges."""
    _skip_unless_vmappable(subject)
    common.compilation(subject)


def _generic(engine: Persistence, seed: int) -> Given:
    v = _integers(9, seed).double()
    return Given(
        f"9 vertices of small integers, seed={seed}, and their squared distances",
        (v, _key("sq_dist_ascending", v)),
    )


def _apply(engine: Persistence, v: Tensor, values: Tensor) -> list[Tensor]:
    found = [engine.from_matrix(values)]
    found += [engine.from_features(v, cast(Order, order)) for order in sorted(engine.orders)]
    return [edges for critical in found for edges in _edge_tensors(critical)]


KIND = Kind(
    base=Persistence,
    generic=_generic,
    special=lambda engine: [],
    apply=_apply,
    rules=(
        common.construction,
        orders,
        edges_of_vertices,
        points,
        common.input_unchanged,
        common.determinism,
        common.random_state,
        common.module_state,
        spanning_tree,
        reference,
        weight,
        diagonal,
        higher_dimensions,
        vmap,
        compilation,
        common.pickling,
        common.deepcopy,
        common.state_dict,
        common.cuda,
    ),
)

_Found = tuple[str, Callable[[], Sequence[CriticalEdges]], Tensor]


def _problems(engine: Persistence, seed: int) -> Iterator[_Found]:
    """Small integers, so that keys are exact and tie in masses, by every operator."""
    for n in _SIZES:
        for dtype in _DTYPES:
            for name, find, key in _operators(engine, _integers(n, seed).to(dtype)):
                yield f"{name} of {n} vertices of small integers, seed={seed}, {dtype}", find, key
    equal = torch.zeros(5, _FEATURES, dtype=torch.float64)
    for name, find, key in _operators(engine, equal):
        yield f"{name} of 5 equal vertices", find, key


def _operators(engine: Persistence, v: Tensor) -> Iterator[_Found]:
    """The ways to ask for the tree of vertices, each with its keys in float64."""
    squared = _key("sq_dist_ascending", v.double())
    yield "from_matrix", partial(engine.from_matrix, squared.to(v.dtype)), squared
    for order in sorted(engine.orders):
        named = cast(Order, order)
        key = _key(order, v.double())
        yield f"from_features, {order},", partial(engine.from_features, v, named), key


def _integers(n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-1, 2, (n, _FEATURES), generator=generator).double()


def _key(order: str, v: Tensor) -> Tensor:
    if order == "sq_dist_ascending":
        return (v[:, None] - v[None]).square().sum(-1)
    dot = (v[:, None] * v[None]).sum(-1)
    return -dot.abs() if order == "abs_dot_descending" else -dot


def _edge_tensors(critical: Sequence[CriticalEdges]) -> list[Tensor]:
    return [edges for dimension in critical for edges in dimension if edges is not None]


def _check_edges(edges: Tensor, n: int) -> None:
    require(
        edges.dtype == torch.int64 and edges.ndim == 2 and edges.shape[1] == 2,
        expected="int64 of shape (points, 2)",
        received=f"{edges.dtype} of shape {tuple(edges.shape)}",
        mend="return pairs of indices, as a tensor also where there is no edge",
    )
    require(
        ((edges >= 0) & (edges < n)).all() and (edges[:, 0] != edges[:, 1]).all(),
        expected=f"pairs of two of the vertices 0 to {n - 1}",
        received=edges.tolist(),
        mend="count vertices from 0",
    )


def _skip_unless_vmappable(subject: Subject) -> None:
    if not subject.make().vmappable:
        raise NotApplicable("vmappable is False, so that batches are a loop outside the graph")
