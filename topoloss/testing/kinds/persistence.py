"""The rules for a persistence engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, cast

import torch
from torch import Tensor

from topoloss.engines import CriticalEdges, Persistence
from topoloss.filtrations import ORDERS, Order
from topoloss.testing.checks import Kind, NotApplicable, Subject, on, require
from topoloss.testing.common import devices, instances, purity, transforms
from topoloss.testing.comparing import same
from topoloss.testing.examples import Example
from topoloss.testing.kruskal import by_value_then_indices

__all__ = ["KIND"]

_SIZES = (1, 2, 3, 17, 40)
_DTYPES = (torch.float64, torch.float32)
_FEATURES = 3


def orders(subject: Subject) -> None:
    """The engine names only orders that exist."""
    engine = subject.make()
    require(
        set(engine.orders) <= set(ORDERS),
        expected=f"a subset of {', '.join(ORDERS)}",
        received=engine.orders,
        mend="name only the orders for which from_features works",
    )


def edges_of_vertices(subject: Subject) -> None:
    """Edges are int64 pairs of two vertices, of shape (points, 2), in every dimension."""
    engine = subject.make()
    for search in _searches(engine, subject.seed):
        with on(search.name):
            critical = search.find()
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
                _require_edges(edges, len(search.key))


def points(subject: Subject) -> None:
    """Dimension 0 has n - 1 deaths, zeros included."""
    engine = subject.make()
    for search in _searches(engine, subject.seed):
        with on(search.name):
            edges = search.find()[0].death_edges
            require(
                len(edges) == len(search.key) - 1,
                expected=f"{len(search.key) - 1} edges for {len(search.key)} vertices",
                received=f"{len(edges)} edges",
                mend="keep the edges of value 0: they merge equal vertices",
            )


def spanning_tree(subject: Subject) -> None:
    """The edges of dimension 0 close no cycle, and so connect all vertices."""
    engine = subject.make()
    for search in _searches(engine, subject.seed):
        with on(search.name):
            edges = search.find()[0].death_edges
            in_tree = torch.ones(len(search.key), len(search.key))
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
    for search in _searches(engine, subject.seed):
        with on(search.name):
            received = search.find()[0].death_edges.sort(-1).values.tolist()
            expected = by_value_then_indices(search.key).tolist()
            wrong = [edge for edge in sorted(received) if edge not in expected]
            absent = [edge for edge in expected if edge not in received]
            require(
                not wrong and not absent,
                expected=f"the edges {absent[:3]} among those of the tree",
                received=f"{wrong[:3]} in their place",
                mend="order edges by (key, lower index, higher index), and look for an index that "
                "is off by one",
            )


def weight(subject: Subject) -> None:
    """On real data the tree is as light as the tree of float64, up to rounding.

    A key of d features is off by at most 4 d eps times the largest squared norm. So each
    of the n - 1 edges adds at most twice that to the weight of the lightest tree.
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
        banded = _Search(
            "from_matrix, in [1, 1.1],", partial(engine.from_matrix, narrow), narrow.double()
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
    """The entries on the diagonal of a matrix make no difference."""
    engine = subject.make()
    values = _key("sq_dist_ascending", _integers(17, subject.seed))
    with on(f"squared distances of 17 vertices of small integers, seed={subject.seed}"):
        plain = _edge_tensors(engine.from_matrix(values))
        for last in (-9.0, 1e9):
            entries = torch.linspace(-1, last, len(values), dtype=values.dtype)
            other = _edge_tensors(engine.from_matrix(torch.diagonal_scatter(values, entries)))
            require(
                len(plain) == len(other) and same(plain, other),
                expected=f"the edges {plain} also with -1 to {last} on the diagonal",
                received=other,
                mend="read only the entries above the diagonal",
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
    """An engine with `vmappable = True` gives under `torch.vmap` what a loop gives."""
    _skip_unless_vmappable(subject)
    transforms.vmap(subject)


def compilation(subject: Subject) -> None:
    """An engine of torch operations compiles into one graph that gives the eager edges."""
    _skip_unless_vmappable(subject)
    transforms.compilation(subject)


def _generic(engine: Persistence, seed: int) -> Example:
    v = _integers(9, seed).double()
    return Example(
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
        instances.construction,
        orders,
        edges_of_vertices,
        points,
        purity.input_unchanged,
        purity.determinism,
        purity.random_state,
        purity.module_state,
        spanning_tree,
        reference,
        weight,
        diagonal,
        higher_dimensions,
        vmap,
        compilation,
        instances.pickling,
        instances.deepcopy,
        instances.state_dict,
        devices.cuda,
    ),
)


class _Search(NamedTuple):
    """One call of the engine, and the keys by which its tree should be lightest.

    Attributes
    ----------
    name : str
    find : callable
        Asks the engine for critical edges.
    key : Tensor of float64, shape (n, n)
    """

    name: str
    find: Callable[[], Sequence[CriticalEdges]]
    key: Tensor


def _searches(engine: Persistence, seed: int) -> Iterator[_Search]:
    """Yield searches over small integers, where keys are exact and many of them tie."""
    for n in _SIZES:
        for dtype in _DTYPES:
            for search in _operators(engine, _integers(n, seed).to(dtype)):
                name = f"{search.name} of {n} vertices of small integers, seed={seed}, {dtype}"
                yield search._replace(name=name)
    equal = torch.zeros(5, _FEATURES, dtype=torch.float64)
    for search in _operators(engine, equal):
        yield search._replace(name=f"{search.name} of 5 equal vertices")


def _operators(engine: Persistence, v: Tensor) -> Iterator[_Search]:
    """Yield a search over the same vertices for each operator that the engine has."""
    squared = _key("sq_dist_ascending", v.double())
    yield _Search("from_matrix", partial(engine.from_matrix, squared.to(v.dtype)), squared)
    for order in sorted(engine.orders):
        find = partial(engine.from_features, v, cast(Order, order))
        yield _Search(f"from_features, {order},", find, _key(order, v.double()))


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


def _require_edges(edges: Tensor, n: int) -> None:
    require(
        edges.dtype == torch.int64 and edges.ndim == 2 and edges.shape[1] == 2,
        expected="int64 of shape (points, 2)",
        received=f"{edges.dtype} of shape {tuple(edges.shape)}",
        mend="return pairs of indices, in a tensor even where there is no edge",
    )
    require(
        ((edges >= 0) & (edges < n)).all() and (edges[:, 0] != edges[:, 1]).all(),
        expected=f"pairs of two of the vertices 0 to {n - 1}",
        received=edges.tolist(),
        mend="count vertices from 0",
    )


def _skip_unless_vmappable(subject: Subject) -> None:
    if not subject.make().vmappable:
        raise NotApplicable("vmappable is False: the library loops over batches outside the graph")
