"""The rules for a persistence engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from topoloss.engines import CriticalEdges, Persistence
from topoloss.errors import TopolossError
from topoloss.filtrations import ORDERS
from topoloss.testing.checks import (
    Kind,
    NotApplicable,
    Rule,
    Subject,
    builds_on,
    foundation,
    on,
    require,
)
from topoloss.testing.common import devices, instances, numbers, purity, transforms
from topoloss.testing.comparing import difference, same
from topoloss.testing.examples import Example
from topoloss.testing.kinds import homology, listed_graphs
from topoloss.testing.kinds.searches import (
    Search,
    at_most,
    dtypes_of,
    edge_tensors,
    has,
    integers,
    key_of,
    random_walk,
    require_tree,
    searches_of_features,
    searches_of_matrix,
    searches_of_vertices,
    shuffled_pairs,
)
from topoloss.testing.kruskal import by_value_then_indices

__all__ = ["KIND"]

_OPERATORS = ("from_features", "from_matrix", "from_edges")
_SMALL = (1, 2, 3, 17, 40)
# Odd and even, around the borders of blocks of 64 to 1,024, and between them.
_LARGE = (41, 64, 65, 101, 128, 129, 256, 257, 301, 1024, 1025)
_FEATURES = (1, 2, 16, 33, 64, 130)
# Integers near these numbers change if float64 is rounded to the 24 bits of float32, or float32 to
# the 11 bits of TF32. Yet their squares, and sums of two squares, are exact.
_NEEDS_ALL_DIGITS = {torch.float64: 2**24 + 1, torch.float32: 2**11 + 1}
# Powers of two of about 1e30 and 1e150.
_EXPONENT = {torch.float64: 498, torch.float32: 100}


@foundation
def operators(subject: Subject) -> None:
    """The engine has an operator, and declares its orders, max_vertices and dtypes correctly."""
    engine = subject.make()
    require(
        any(has(engine, operator) for operator in _OPERATORS),
        expected=f"at least one of {', '.join(_OPERATORS)}",
        received=f"none in {type(engine).__name__}",
        mend="implement from_matrix(values), which serves every filtration that lists no edges",
    )
    require(
        set(engine.orders) <= set(ORDERS),
        expected=f"a subset of {', '.join(ORDERS)}",
        received=engine.orders,
        mend="name only the orders for which from_features works",
    )
    require(
        bool(engine.orders) == has(engine, "from_features"),
        expected="from_features and the orders for which it works, or neither",
        received=f"orders {set(engine.orders)}, and "
        f"{'a' if has(engine, 'from_features') else 'no'} from_features",
        mend="implement from_features and declare its orders; it is called for no other",
    )
    most = engine.max_vertices
    require(
        most is None or (type(most) is int and most > 0),
        expected="max_vertices an integer, or None for no limit",
        received=repr(most),
        mend="state the largest n that the engine takes",
    )
    require(
        len(dtypes_of(engine)) > 0,
        expected="torch.float32 or torch.float64 among dtypes, or None for both",
        received=engine.dtypes,
        mend="declare at least one of these, or None: an engine is given no other dtype",
    )


@foundation
def edges_of_vertices(subject: Subject) -> None:
    """Edges are int64 pairs of different vertices, of shape (points, 2), in every dimension."""
    engine = subject.make()
    for search in _small_searches(engine, subject.seed):
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
            for edges in edge_tensors(critical):
                _require_edges(edges, len(search.key))


@foundation
def points(subject: Subject) -> None:
    """Dimension 0 of a clique has n - 1 deaths, zeros included."""
    engine = subject.make()
    for search in _small_searches(engine, subject.seed):
        with on(search.name):
            edges = search.find()[0].death_edges
            require(
                len(edges) == len(search.key) - 1,
                expected=f"{len(search.key) - 1} edges for {len(search.key)} vertices",
                received=f"{len(edges)} edges",
                mend="keep the edges of value 0: they merge equal vertices",
            )


@foundation
def memory(subject: Subject) -> None:
    """The result of an operator does not depend on earlier calls."""
    engine = subject.make()
    example = subject.kind.generic(engine, subject.seed)
    # One operator at a time: a call of another in between might empty a cache of the last input.
    for k in range(len(_calls(engine, *example.tensors))):
        purity.memory(_with_calls(subject, [k]))


def spanning_tree(subject: Subject) -> None:
    """The edges of dimension 0 close no cycle, and so connect all vertices."""
    engine = subject.make()
    for search in _small_searches(engine, subject.seed):
        with on(search.name):
            edges = search.find()[0].death_edges
            in_tree = torch.ones(len(search.key), len(search.key))
            in_tree[edges[:, 0], edges[:, 1]] = in_tree[edges[:, 1], edges[:, 0]] = 0
            connecting = by_value_then_indices(in_tree)
            missing = [edge for edge in connecting.tolist() if in_tree[tuple(edge)] == 1]
            require(
                not missing,
                expected="edges that connect all vertices",
                received=f"{edges.tolist()}, to which for example {missing[:3]} must be added",
                mend="add an edge only where its ends are not connected yet",
            )


@builds_on("spanning_tree")
def reference(subject: Subject) -> None:
    """On small integers Kruskal's algorithm by (key, lower, higher) finds the same tree."""
    engine = subject.make()
    for search in _small_searches(engine, subject.seed):
        with on(search.name):
            require_tree(
                search,
                search.find(),
                "order edges by (key, lower index, higher index), and look for an index that is "
                "off by one",
            )


@builds_on("reference")
def negative_values(subject: Subject) -> None:
    """Edge values below 0 come before those above, and -0.0 is the same as 0.0."""
    engine = subject.make()
    n = at_most(engine, 17)
    values = key_of("dot_descending", integers(n, subject.seed)).fill_diagonal_(0)
    vertex = torch.arange(n)
    values[(values == 0) & ((vertex[:, None] + vertex) % 2 == 0)] = 0.0  # half of those are -0.0
    for dtype in dtypes_of(engine):
        for search in searches_of_matrix(engine, values.to(dtype)):
            what = f"minus the products of {n} vertices of small integers, seed={subject.seed}"
            with on(f"{search.name} of {what}, {dtype}"):
                require_tree(
                    search,
                    search.find(),
                    "compare values with their sign: -1 is lighter than 0, but -0.0 is not",
                )


@builds_on("reference")
def digits(subject: Subject) -> None:
    """Values that differ only in the last digits of their dtype are told apart."""
    engine = subject.make()
    n = at_most(engine, 17)
    squared = key_of("sq_dist_ascending", integers(n, subject.seed))
    found: list[tuple[str, Search]] = []
    for dtype in dtypes_of(engine):
        eps = torch.finfo(dtype).eps
        values = (1 + 4 * eps * squared).to(dtype)
        found += [
            (f"1 to 1 + {4 * eps * squared.max():.2g}, {dtype}", search)
            for search in searches_of_matrix(engine, values)
        ]
        v = integers(n, subject.seed)
        v[:, 0] += _NEEDS_ALL_DIGITS[dtype]
        found += [
            (f"integers, the first of them about {_NEEDS_ALL_DIGITS[dtype]}, {dtype}", search)
            for search in searches_of_vertices(engine, v.to(dtype))
        ]
    for what, search in found:
        with on(f"{search.name} of {n} vertices, {what}, seed={subject.seed}"):
            require_tree(
                search,
                search.find(),
                "compare keys in the dtype of the input, without rounding them to another",
            )


@builds_on("reference")
def features(subject: Subject) -> None:
    """The tree is right for few and many features: odd and even numbers, and block borders."""
    engine = subject.make()
    if not has(engine, "from_features"):
        raise NotApplicable("it has no from_features")
    n = at_most(engine, 17)
    for d in _FEATURES:
        for dtype in dtypes_of(engine):
            for search in searches_of_features(engine, random_walk(n, subject.seed, d).to(dtype)):
                what = f"a random walk of {n} vertices, seed={subject.seed}, {dtype}"
                with on(f"{search.name} of {d} features of {what}"):
                    require_tree(
                        search,
                        search.find(),
                        "check the code for the last features of a block, and for a last block "
                        "that is not full",
                    )


@builds_on("reference")
def sizes(subject: Subject) -> None:
    """The tree is right for many vertices too: odd and even numbers, and block borders."""
    engine = subject.make()
    few = integers(at_most(engine, 3), subject.seed)
    dimensions = max(
        (
            len(search.find())
            for dtype in dtypes_of(engine)
            for search in searches_of_vertices(engine, few.to(dtype))
        ),
        default=0,
    )
    # Above dimension 1 work grows with more than the third power of the number of vertices.
    large = _LARGE if dimensions <= 2 else _LARGE[:3]
    for n in sorted({at_most(engine, n) for n in large}):
        for dtype in dtypes_of(engine):
            for search in searches_of_vertices(engine, random_walk(n, subject.seed).to(dtype)):
                what = f"a random walk of {n} vertices, seed={subject.seed}, {dtype}"
                with on(f"{search.name} of {what}"):
                    require_tree(
                        search,
                        search.find(),
                        "check the code for the last rows of a block, and for a last block that is "
                        "not full; if the engine takes fewer vertices, declare max_vertices",
                    )


@builds_on("reference", "digits")
def weight(subject: Subject) -> None:
    """On real-valued features the tree is as light as the float64 tree, up to rounding.

    A key of d features is off by at most 4 d eps times the largest squared norm. So each
    of the n - 1 edges adds at most twice that to the weight of the lightest tree.
    """
    engine = subject.make()
    n, d = at_most(engine, 100), 5
    generator = torch.Generator().manual_seed(subject.seed)
    v = torch.randn(n, d, dtype=torch.float64, generator=generator)
    for dtype in dtypes_of(engine):
        x = v.to(dtype)
        allowed = 8 * (n - 1) * d * torch.finfo(dtype).eps * x.double().square().sum(-1).amax()
        # In a narrow band, keys rounded to fewer digits tie with many others.
        narrow = (1 + key_of("sq_dist_ascending", x.double()) / 1000).to(dtype)
        banded = (s.of("values in [1, 1.1]") for s in searches_of_matrix(engine, narrow))
        for search in (*searches_of_vertices(engine, x), *banded):
            with on(f"{search.name} of torch.randn({n}, {d}), seed={subject.seed}, {dtype}"):
                key = search.key
                lightest = key[tuple(search.tree.T)].sum()
                received = key[tuple(search.find()[0].death_edges.T)].sum()
                require(
                    received - lightest <= allowed,
                    expected=f"a tree of weight {lightest:.9g}, or at most {allowed:.2g} more",
                    received=f"{received:.9g}",
                    mend="compare keys in the dtype of the input, and take the lightest edges",
                )


@builds_on("reference", "digits", "features", "sizes", "weight")
def scale(subject: Subject) -> None:
    """Scaling features, or edge values, to huge or tiny numbers does not change the tree.

    The squares of such features overflow or vanish. No finite edge value, however large, means
    that an edge is absent.
    """
    engine = subject.make()
    v = random_walk(at_most(engine, 17), subject.seed)
    for dtype in dtypes_of(engine):
        for exponent in (_EXPONENT[dtype], -_EXPONENT[dtype]):
            for search in searches_of_vertices(engine, v.to(dtype)):
                what = f"a random walk of {len(v)} vertices, seed={subject.seed}, {dtype}"
                with on(f"{search.name} of 2**{exponent} times {what}"):
                    *edges, last = search.tensors
                    require_tree(
                        search,
                        search.operator(*edges, last * 2.0**exponent),
                        "divide features by their largest magnitude before you multiply them, and "
                        "mark absent edges by infinity, not by a large number",
                    )


@builds_on("reference")
def diagonal(subject: Subject) -> None:
    """The diagonal of a matrix makes no difference."""
    engine = subject.make()
    if not has(engine, "from_matrix"):
        raise NotApplicable("it has no from_matrix")
    n, dtype = at_most(engine, 17), dtypes_of(engine)[0]
    values = key_of("sq_dist_ascending", integers(n, subject.seed)).to(dtype)
    with on(f"squared distances of {n} vertices of small integers, seed={subject.seed}"):
        plain = edge_tensors(engine.from_matrix(values))
        for last in (-9.0, 1e9):
            entries = torch.linspace(-1, last, len(values), dtype=values.dtype)
            other = edge_tensors(engine.from_matrix(torch.diagonal_scatter(values, entries)))
            require(
                len(other) == len(plain) and same(other, plain),
                expected=f"the same edges with -1 to {last:g} on the diagonal as with 0",
                received=difference(other, plain),
                mend="read only the entries above the diagonal",
            )


@builds_on("reference", "sizes")
def limits(subject: Subject) -> None:
    """Input beyond the engine's declared limits gives a clear error, or the right tree."""
    engine = subject.make()
    most, dtypes = engine.max_vertices, dtypes_of(engine)
    refused = [dtype for dtype in (torch.float64, torch.float32) if dtype not in dtypes]
    if most is None and not refused:
        raise NotApplicable("it declares no limits")
    beyond: list[tuple[str, Tensor]] = [
        (str(dtype), integers(at_most(engine, 5), subject.seed).to(dtype)) for dtype in refused
    ]
    if most is not None:
        # A pipeline calls check_matrix before it fills the matrix, so no matrix is needed here.
        if has(engine, "from_matrix"):
            with on(f"check_matrix({most + 1}, {dtypes[0]})"):
                error = _error(lambda: engine.check_matrix(most + 1, dtypes[0]))
                _require_clear(error, str(most + 1), "let check_matrix call check_limits")
        if most < _LARGE[-1]:
            v = random_walk(most + 1, subject.seed).to(dtypes[0])
            beyond.append((str(most + 1), v))
    for given, v in beyond:
        for search in searches_of_vertices(engine, v):
            with on(f"{search.name} of {len(v)} vertices in {v.dtype}"):
                found: list[Sequence[CriticalEdges]] = []
                error = _error(lambda: found.append(search.find()))  # noqa: B023
                mend = "begin each operator with self.check_limits(n, dtype)"
                if found:
                    require_tree(search, found[0], mend)
                else:
                    _require_clear(error, given, mend)


def vmap(subject: Subject) -> None:
    """An engine with `vmappable = True` gives the same edges under `torch.vmap` as in a loop."""
    _skip_unless_vmappable(subject)
    transforms.vmap(subject)


@builds_on("vmap")
def compilation(subject: Subject) -> None:
    """An engine of torch operations compiles into one graph that gives the eager edges."""
    _skip_unless_vmappable(subject)
    transforms.compilation(subject)


def device(subject: Subject) -> None:
    """Edges are returned on the device of the input, or devices other than the CPU are refused.

    An operator refuses with a `TopolossError` that names the device. Torch's meta device shows
    whether it does, because the stand-in for a GPU has the type of a CPU.
    """
    _check_where_accepted(devices.device, subject)


@builds_on("device")
def cuda(subject: Subject) -> None:
    """On a CUDA device the edges are as on the CPU, or the device is refused."""
    _check_where_accepted(devices.cuda, subject)


def _generic(engine: Persistence, seed: int) -> Example:
    """Return arguments for each operator: vertices, a matrix and listed edges, in each dtype."""
    n = at_most(engine, 9)
    tensors: list[Tensor] = []
    edges = shuffled_pairs(n).clone()
    for dtype in dtypes_of(engine):
        v = integers(n, seed).to(dtype)
        values = key_of("sq_dist_ascending", v)
        tensors += [v, values, edges, values[edges[:, 0], edges[:, 1]]]
    name = f"{n} vertices of small integers, seed={seed}, and their squared distances"
    return Example(name, tuple(tensors))


def _apply(engine: Persistence, *tensors: Tensor) -> list[Tensor]:
    return _edges(call() for call in _calls(engine, *tensors))


def _calls(engine: Persistence, *tensors: Tensor) -> list[Callable[[], Sequence[CriticalEdges]]]:
    """Return a call for each operator, order and dtype, on detached tensors as in a pipeline."""
    calls: list[Callable[[], Sequence[CriticalEdges]]] = []
    given = [x.detach() for x in tensors]
    for v, values, edges, listed in zip(*(given[k::4] for k in range(4)), strict=True):
        if has(engine, "from_matrix"):
            calls.append(partial(engine.from_matrix, values))
        if has(engine, "from_edges"):
            calls.append(partial(engine.from_edges, len(values), edges, listed))
        calls += [partial(engine.from_features, v, order) for order in sorted(engine.orders)]  # type: ignore[arg-type]
    return calls


def _edges(found: Iterable[Sequence[CriticalEdges]]) -> list[Tensor]:
    return [edges for critical in found for edges in edge_tensors(critical)]


KIND = Kind(
    base=Persistence,
    generic=_generic,
    special=lambda engine: [],
    apply=_apply,
    rules=(
        instances.construction,
        operators,
        edges_of_vertices,
        points,
        purity.input_unchanged,
        purity.determinism,
        memory,
        purity.random_state,
        purity.module_state,
        purity.leftovers,
        numbers.layout,
        spanning_tree,
        reference,
        negative_values,
        digits,
        features,
        sizes,
        weight,
        scale,
        diagonal,
        listed_graphs.components,
        listed_graphs.forest,
        homology.higher_dimensions,
        homology.boundary_reduction,
        limits,
        vmap,
        compilation,
        instances.pickling,
        instances.deepcopy,
        instances.state_dict,
        device,
        cuda,
    ),
)


def _small_searches(engine: Persistence, seed: int) -> Iterator[Search]:
    """Yield searches over small integers, where keys are exact and many of them tie."""
    for n in sorted({at_most(engine, n) for n in _SMALL}):
        for dtype in dtypes_of(engine):
            for search in searches_of_vertices(engine, integers(n, seed).to(dtype)):
                yield search.of(f"{n} vertices of small integers, seed={seed}, {dtype}")
    n = at_most(engine, 5)
    for search in searches_of_vertices(engine, torch.zeros(n, 3, dtype=dtypes_of(engine)[0])):
        yield search.of(f"{n} equal vertices")


def _require_edges(edges: Tensor, n: int) -> None:
    require(
        edges.dtype == torch.int64 and edges.ndim == 2 and edges.shape[1] == 2,
        expected="int64 of shape (points, 2)",
        received=f"{edges.dtype} of shape {tuple(edges.shape)}",
        mend="return pairs of indices; without edges, a tensor of shape (0, 2)",
    )
    require(
        ((edges >= 0) & (edges < n)).all() and (edges[:, 0] != edges[:, 1]).all(),
        expected=f"pairs of different vertices from 0 to {n - 1}",
        received=edges.tolist(),
        mend="number vertices from 0, and return no self-loops",
    )


def _error(call: Callable[[], object]) -> TopolossError | None:
    try:
        call()
    except TopolossError as error:
        return error
    return None


def _require_clear(error: TopolossError | None, given: str, mend: str) -> None:
    require(
        error is not None and given in str(error),
        expected=f"a topoloss.TooLargeError or InputError that names {given}",
        received=f"{type(error).__name__}: {error}" if error else "no error",
        mend=mend,
    )


def _check_where_accepted(rule: Rule, subject: Subject) -> None:
    """Check the operators that do not refuse tensors on devices other than the CPU."""
    engine = subject.make()
    example = subject.kind.generic(engine, subject.seed)
    on_meta = _calls(engine, *(x.to("meta") for x in example.tensors))
    accepted = [k for k, call in enumerate(on_meta) if not _is_refused(call, "meta")]
    if on_meta and not accepted:
        raise NotApplicable("it refuses tensors that are not on the CPU")
    rule(_with_calls(subject, accepted))


def _with_calls(subject: Subject, chosen: Sequence[int]) -> Subject:
    """Return the subject, but let its rules make only the chosen calls."""

    def apply(engine: Persistence, *tensors: Tensor) -> list[Tensor]:
        calls = _calls(engine, *tensors)
        return _edges(calls[k]() for k in chosen)

    return replace(subject, kind=replace(subject.kind, apply=apply))


def _is_refused(call: Callable[[], object], device: str) -> bool:
    try:
        call()
    except TopolossError as error:
        return device in str(error)
    except Exception:  # not a refusal but a defect, which the rule itself reports
        return False
    return False


def _skip_unless_vmappable(subject: Subject) -> None:
    if not subject.make().vmappable:
        raise NotApplicable("vmappable is False: the library loops over batches outside the graph")
