"""The rules for the edges, edge values and edge weights of a filtration."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from topoloss.filtrations import ORDERS, Filtration
from topoloss.testing import examples
from topoloss.testing.checks import (
    NotApplicable,
    Subject,
    builds_on,
    foundation,
    on,
    require,
)
from topoloss.testing.examples import Example
from topoloss.testing.kinds import activations
from topoloss.testing.kinds.graphs import Graph, all_pairs, each, graph_of, skip_listed

__all__ = [
    "cost",
    "edge_weights",
    "edges_alone",
    "listed_edges",
    "locality",
    "order_hint",
    "pairwise",
    "symmetry",
]

# Two ways to compute the same number may differ by this many times the dtype's epsilon, relative
# to the largest value.
_EPSILONS = 4096
_DTYPES = (torch.float64, torch.float32)
_BLOCK = 32
_TRIED_ALONE = 40
# One vertex more than full blocks of 256, 512 or 1,024 vertices hold.
_MOST = 1025
_ONE_EDGE = "component.edge_values(v, torch.tensor([{i}]), torch.tensor([{j}]))"


@foundation
def listed_edges(subject: Subject) -> None:
    """The edges of a listed graph are int64 pairs of two different vertices, in range."""
    filtration = subject.make()
    for neurons in (1, 2, 3, 20):
        example = examples.many(neurons, seed=subject.seed)
        with on(example.name):
            graph = graph_of(filtration, *example.tensors)
            if not graph.listed:
                raise NotApplicable("it lists no edges: its graph is the clique")
            for wrong, what in (
                ((graph.i < 0) | (graph.j < 0), "a vertex below 0"),
                ((graph.i >= graph.n) | (graph.j >= graph.n), "a vertex that does not exist"),
                (graph.i == graph.j, "an edge from a vertex to itself"),
            ):
                k = int(wrong.nonzero()[0]) if wrong.any() else 0
                require(
                    not wrong.any(),
                    expected=f"pairs of two different vertices from 0 to {graph.n - 1}",
                    received=f"{what}: edges[{k}] = {_ends(graph, k)}"
                    if wrong.any()
                    else "no such edge",
                    mend="number vertices from 0 to n - 1",
                    calls=_calls(filtration, example, torch.float64, "component.edges(v)"),
                )


@builds_on("listed_edges")
def edges_alone(subject: Subject) -> None:
    """The value of an edge does not depend on the other edges of the same call."""
    for setting in _settings(subject):
        with on(setting.name):
            together = setting.values
            step = max(1, len(together) // _TRIED_ALONE)
            for k in range(0, len(together), step):
                setting.require_close(
                    k,
                    setting.alone(k),
                    together[k].item(),
                    "the value of the edge alone",
                    "compute each value from its own ends i[k] and j[k]: take no maximum or mean "
                    "over the edges",
                    "component.edge_values(v, i, j)[{k}]",
                )


@builds_on("edges_alone")
def locality(subject: Subject) -> None:
    """The value of an edge depends on the vertices at its two ends, and on no other vertex."""
    for setting in _settings(subject):
        graph, filtration = setting.graph, setting.filtration
        skip_listed(graph)
        with on(setting.name):
            expected = torch.empty(graph.n, graph.n, dtype=graph.v.dtype)
            # The filtration sees few vertices at a time: two, or two blocks of a large clique.
            block = 1 if graph.n <= 16 else _BLOCK
            for few in _pairs_of_blocks(graph.n, block):
                i, j = all_pairs(len(few)).unbind(1)
                values = filtration.edge_values(graph.v[few], i, j)
                expected[few[i], few[j]] = values.detach()
            alone = expected[graph.i, graph.j]
            k = _worst(alone, setting.values)
            if k is None:
                continue
            # Decide by calls that the author can repeat, not by the calls that found the edge.
            ends = graph.v[list(_ends(graph, k))]
            two = filtration.edge_values(ends, torch.tensor([0]), torch.tensor([1]))
            setting.require_close(
                k,
                two.item(),
                setting.alone(k),
                "the value of v[i] and v[j] without other vertices",
                "index v with i and j as they are given; in vertices(x) compute what depends on "
                "all neurons",
                _ONE_EDGE,
            )


@builds_on("edges_alone", "locality")
def symmetry(subject: Subject) -> None:
    """The value of an edge does not depend on which end comes first."""
    for setting in _settings(subject):
        skip_listed(setting.graph)
        with on(setting.name):
            k = _worst(setting.values, setting.swapped_values)
            if k is None:
                continue
            setting.require_close(
                k,
                setting.alone(k),
                setting.alone(k, swapped=True),
                "the same value for (i, j) and (j, i)",
                "treat both ends alike, for example by a dot product or a distance",
                "component.edge_values(v, torch.tensor([{j}]), torch.tensor([{i}]))",
            )


@builds_on("edges_alone", "symmetry", "locality")
def pairwise(subject: Subject) -> None:
    """`pairwise` returns the matrix of all edge values, without an autograd graph."""
    most = examples.many(_MOST, seed=subject.seed)
    for setting in (*_settings(subject), _Setting(subject.make(), most, torch.float32)):
        graph, filtration = setting.graph, setting.filtration
        skip_listed(graph)
        strided = torch.stack((graph.v, graph.v + 1), -1)[..., 0]
        for v, how in ((graph.v, ""), (strided, ", v not contiguous")):
            v = v.detach().requires_grad_()
            with on(setting.name + how):
                matrix = filtration.pairwise(v)
                require(
                    matrix.shape == (graph.n, graph.n),
                    expected=f"pairwise(v) of shape {(graph.n, graph.n)}",
                    received=f"shape {tuple(matrix.shape)}",
                    mend="return one row for each vertex",
                )
                require(
                    not matrix.requires_grad,
                    expected="a matrix without an autograd graph",
                    received="a matrix with an autograd graph of n^2 edge values",
                    mend="decorate pairwise with @torch.no_grad()",
                )
                for entries, call in (
                    (matrix[graph.i, graph.j], "component.pairwise(v)[{i}, {j}]"),
                    (matrix[graph.j, graph.i], "component.pairwise(v)[{j}, {i}]"),
                ):
                    k = _worst(setting.values, entries)
                    if k is not None:
                        setting.require_close(
                            k,
                            setting.alone(k),
                            entries[k].item(),
                            "the edge value",
                            "use the same formula in pairwise as in edge_values",
                            call,
                            half_of_the_digits=True,
                        )


@builds_on("finite", "edges_alone", "symmetry", "locality")
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
    for example in (
        examples.generic(32, 16, subject.seed),
        examples.two_clusters(),
        examples.constant_column(),
        _orthogonal_and_constant(),
        *activations.large(subject.seed),
    ):
        setting = _Setting(filtration, example, torch.float64)
        skip_listed(setting.graph)
        with on(example.name):
            _require_order(order, setting)


def _orthogonal_and_constant() -> Example:
    """Return neurons whose dot products are all 0, also for filtrations that centre them."""
    name = "torch.cat((topoloss.testing.examples.orthogonal().activations, torch.zeros(8, 1)), 1)"
    return Example(name, (torch.cat((examples.orthogonal().activations, torch.zeros(8, 1)), 1),))


def edge_weights(subject: Subject) -> None:
    """Edge weights are finite, at least 0, and depend only on the two ends, in either order."""
    filtration = subject.make()
    for example in (
        examples.generic(32, 16, subject.seed),
        examples.many(),
        _orthogonal_and_constant(),
        *activations.special(),
    ):
        for dtype in _DTYPES:
            setting = _Setting(filtration, example, dtype)
            graph = setting.graph
            calls = _calls(
                filtration, example, dtype, setting.all_edges, "component.edge_weights(v, i, j)"
            )
            with on(setting.name):
                found = filtration.edge_weights(graph.v, graph.i, graph.j)
                require(
                    found.dtype in (torch.float32, torch.float64),
                    expected="weights of float32 or float64, which multiply deaths",
                    received=f"weights of {found.dtype}",
                    mend="convert them with weights.to(v.dtype)",
                    calls=calls,
                )
                bad = (~(torch.isfinite(found) & (found >= 0))).nonzero().flatten().tolist()
                require(
                    not bad,
                    expected="finite weights of at least 0",
                    received=f"{found[bad[0]].item()} for the edge {_ends(graph, bad[0])}"
                    if bad
                    else "",
                    mend="give weight 0 to an edge that should not count, and guard divisions by 0",
                    calls=calls,
                )
                for one in range(0, len(found), max(1, len(found) // _TRIED_ALONE)):
                    setting.require_close(
                        one,
                        setting.weight_alone(one),
                        found[one].item(),
                        "the weight of the edge without other edges"
                        + ("" if graph.listed else " and vertices"),
                        "compute each weight from its own ends v[i[k]] and v[j[k]]; compute "
                        "whatever depends on all neurons in vertices(x)",
                        "component.edge_weights(v, i, j)[{k}]",
                        relative_to=found.amax().item(),
                    )
                if graph.listed:
                    continue
                back = filtration.edge_weights(graph.v, graph.j, graph.i)
                k = _worst(found, back)
                if k is not None:
                    setting.require_close(
                        k,
                        found[k].item(),
                        back[k].item(),
                        "the same weight for (i, j) and (j, i)",
                        "treat both ends alike",
                        "component.edge_weights(v, torch.tensor([{j}]), torch.tensor([{i}]))",
                        relative_to=found.amax().item(),
                    )


@builds_on("edges_alone")
def cost(subject: Subject) -> None:
    """`edge_values` of n - 1 edges takes O(n) work and memory, and `pairwise` O(n^2) work.

    With four times as many neurons, the edges of a tree may take 6 times as many saved numbers and
    operations, and the matrix 24 times as many operations. If the vertices have more features
    then, the limits rise in proportion. Torch's operations are counted; nothing is timed.
    """
    filtration = subject.make()
    small, large = (
        _Setting(filtration, examples.many(n, seed=subject.seed), torch.float32)
        for n in (_COUNTED, 4 * _COUNTED)
    )
    skip_listed(small.graph)
    # The number of features may grow with that of neurons, as for partial correlation.
    features = max(1, large.graph.v.numel() / (4 * small.graph.v.numel()))
    mend = "index the two ends first, v[i] and v[j], and make no matrix of all pairs"
    with on(f"{small.example.name} and {large.example.name}"):
        for what, count, most in (
            ("numbers that edge_values saves for its gradient", _saved, 6),
            ("operations of edge_values", _operations, 6),
            ("operations of pairwise", _operations_of_pairwise, 24),
        ):
            few, many = count(small), count(large)
            require(
                many <= most * features * few,
                expected=f"at most {most * features:.3g} times as many {what} for 4 times as many "
                "neurons",
                received=f"{many / max(few, 1):.3g} times as many: {many} for "
                f"{large.graph.n} neurons and {few} for {small.graph.n}",
                mend=mend if most == 6 else "compute each pair once, as in one matrix product",
            )


_COUNTED = 128


def _saved(setting: _Setting) -> int:
    """Count the numbers in tensors that edge_values saves for its backward pass."""
    count = 0

    def pack(x: Tensor) -> Tensor:
        nonlocal count
        count += x.numel()
        return x

    graph, edges = setting.graph, slice(setting.graph.n - 1)
    v = each(lambda y: y.detach().requires_grad_(), graph.v)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        setting.filtration.edge_values(v, graph.i[edges], graph.j[edges])
    return count


def _operations(setting: _Setting) -> int:
    graph, edges = setting.graph, slice(setting.graph.n - 1)
    counter = _Counter()  # type: ignore[no-untyped-call]
    with counter, torch.no_grad():
        setting.filtration.edge_values(graph.v, graph.i[edges], graph.j[edges])
    return counter.count


def _operations_of_pairwise(setting: _Setting) -> int:
    counter = _Counter()  # type: ignore[no-untyped-call]
    with counter:
        setting.filtration.pairwise(setting.graph.v.detach())
    return counter.count


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the numbers that operations read and write, and the operations of matrix products."""

    count: int = 0

    def __torch_dispatch__(
        self, operation: Any, types: object, args: Any = (), kwargs: Any = None
    ) -> Any:
        made = operation(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, made)) if isinstance(x, Tensor)]
        if not operation.is_view:
            self.count += sum(x.numel() for x in tensors)
        products = flop_registry.get(operation.overloadpacket)
        if products is not None:
            self.count += products(*args, **(kwargs or {}), out_val=made)
        if "linalg" in str(operation):
            self.count += sum(x.numel() * x.shape[-1] for x in tensors if x.ndim)
        return made


class _Setting:
    """A filtration, and the graph that it makes of an example in one dtype."""

    def __init__(self, filtration: Filtration, example: Example, dtype: torch.dtype) -> None:
        self.filtration, self.example, self.dtype = filtration, example, dtype
        graph = graph_of(filtration, example.tensors[0].to(dtype))
        if not graph.listed:
            i, j = all_pairs(graph.n).unbind(1)
            graph = graph._replace(i=i, j=j)
        self.graph = graph._replace(v=each(Tensor.detach, graph.v))

    @property
    def name(self) -> str:
        return f"{self.example.name} in {self.dtype}"

    @property
    def all_edges(self) -> str:
        """Python code that makes the end points of all edges."""
        clique = "i, j = torch.triu_indices(len(v), len(v), 1)"
        return "i, j = component.edges(v)[1].unbind(1)" if self.graph.listed else clique

    @cached_property
    def values(self) -> Tensor:
        """The values of all edges, from one call."""
        v, _, i, j, _ = self.graph
        return self.filtration.edge_values(v, i, j).detach()

    @cached_property
    def largest(self) -> float:
        return float(self.values.abs().nan_to_num(0, 0, 0).amax())

    @cached_property
    def swapped_values(self) -> Tensor:
        """The values of all edges with their ends swapped, from one call."""
        v, _, i, j, _ = self.graph
        return self.filtration.edge_values(v, j, i).detach()

    def alone(self, k: int, swapped: bool = False) -> float:
        """Return the value of one edge, from a call of its own."""
        i, j = _ends(self.graph, k)
        i, j = (j, i) if swapped else (i, j)
        of_one = self.filtration.edge_values(self.graph.v, torch.tensor([i]), torch.tensor([j]))
        return of_one.item()

    def weight_alone(self, k: int) -> float:
        """Return the weight of one edge; in a clique, the filtration sees only its two ends."""
        v, _, i, j, listed = self.graph
        if not listed:
            v, i, j = v[list(_ends(self.graph, k))], torch.tensor([0]), torch.tensor([1])
            return self.filtration.edge_weights(v, i, j).item()
        return self.filtration.edge_weights(v, i[k : k + 1], j[k : k + 1]).item()

    def calls_of(self, *edges: int) -> list[str]:
        """Return Python code that computes the value of each given edge alone."""
        ends = (_ends(self.graph, k) for k in edges)
        of_each = (_ONE_EDGE.format(i=i, j=j) for i, j in ends)
        return _calls(self.filtration, self.example, self.dtype, *of_each)

    def require_close(
        self,
        k: int,
        first: float,
        second: float,
        expected: str,
        mend: str,
        call: str,
        *,
        half_of_the_digits: bool = False,
        relative_to: float | None = None,
    ) -> None:
        """Require two numbers of edge `k` to agree, and show the calls that give the second."""
        eps = torch.finfo(self.dtype).eps
        bound = eps**0.5 if half_of_the_digits else _EPSILONS * eps
        bound *= self.largest if relative_to is None else relative_to
        i, j = _ends(self.graph, k)
        require(
            abs(first - second) <= bound,
            expected=f"{expected}, {first:.17g} for the edge ({i}, {j}), up to {bound:.2g}",
            received=f"{second:.17g}",
            mend=mend,
            calls=_calls(
                self.filtration,
                self.example,
                self.dtype,
                *([self.all_edges] if "(v, i, j)" in call else []),
                call.format(i=i, j=j, k=k),
            ),
        )


def _settings(subject: Subject) -> Iterator[_Setting]:
    filtration = subject.make()
    few = examples.generic(32, 16, subject.seed)
    for example in (few, *activations.large(subject.seed)):
        for dtype in _DTYPES:
            yield _Setting(filtration, example, dtype)


def _calls(filtration: Filtration, example: Example, dtype: torch.dtype, *calls: str) -> list[str]:
    """Return Python code that repeats calls of a filtration's methods."""
    is_call = hasattr(examples, example.name.partition("(")[0])
    named = "" if filtration.source == "activations" else '; x = {"0": x, "1": x.flip(0).mT}'
    return [
        f"(x,) = topoloss.testing.examples.{example.name}.tensors"
        if is_call
        else f"x = {example.name}",
        f"x = x.to({dtype}){named}",
        "v = component.vertices(x)",
        *calls,
    ]


def _ends(graph: Graph, k: int) -> tuple[int, int]:
    return int(graph.i[k]), int(graph.j[k])


def _worst(first: Tensor, second: Tensor) -> int | None:
    """Return where two lists of numbers differ most, or None if they are empty."""
    error = (first - second).abs().nan_to_num(torch.inf)
    return int(error.argmax()) if len(error) else None


def _pairs_of_blocks(n: int, block: int) -> Iterator[Tensor]:
    """Yield sets of vertices so that any two vertices are in one of the sets."""
    blocks = torch.split(torch.arange(n), block)
    for k, first in enumerate(blocks):
        for second in blocks[k + 1 :]:
            yield torch.cat((first, second))


def _require_order(order: str, setting: _Setting) -> None:
    """Require that values order no two edges against their keys, beyond rounding.

    Among edges with the same key an engine may take any, so they must have the same value.
    """
    v, _, i, j, _ = setting.graph
    values = setting.values
    if order == "sq_dist_ascending":
        key = (v[i] - v[j]).square().sum(-1)
    else:
        dot = (v[i] * v[j]).sum(-1)
        key = -dot.abs() if order == "abs_dot_descending" else -dot
    eps = torch.finfo(v.dtype).eps
    rounding = 64 * v.shape[-1] * eps * v.square().sum(-1).amax()
    close_by = eps**0.5 * values.abs().amax()
    # For each edge, find the least value of the edges that come later by more than rounding.
    rank = key.argsort()
    _require_one_value_for_each_key(setting, key, close_by)
    least, place = values[rank].flip(0).cummin(0)
    later = torch.searchsorted(key[rank], key + rounding, right=True)
    has_later = later < len(key)
    at = (len(key) - 1 - later).clamp(min=0)
    fall = torch.where(has_later, values - least[at], -torch.inf)
    first = int(fall.argmax())
    second = int(rank[len(key) - 1 - place[at[first]]])
    (first_edge, second_edge) = (_ends(setting.graph, k) for k in (first, second))
    require(
        fall[first] <= close_by,
        expected=f"by {order}, the edge {first_edge} of key {key[first]:.9g} to have no larger "
        f"value than the edge {second_edge} of key {key[second]:.9g}",
        received=f"edge values {values[first]:.9g} and {values[second]:.9g}",
        mend="declare the order that edge values have, or order = None: a wrong order gives a "
        "wrong tree without an error",
        calls=setting.calls_of(first, second),
    )


def _require_one_value_for_each_key(setting: _Setting, key: Tensor, close_by: Tensor) -> None:
    values = setting.values
    levels, level = torch.unique(key, return_inverse=True)
    least, most = (
        torch.zeros_like(levels).scatter_reduce(0, level, values, how, include_self=False)
        for how in ("amin", "amax")
    )
    worst = int((most - least).argmax())
    of_one_key = (level == worst).nonzero().flatten()
    first, second = (
        int(of_one_key[k]) for k in (values[of_one_key].argmin(), values[of_one_key].argmax())
    )
    require(
        most[worst] - least[worst] <= close_by,
        expected=f"the same value for the edges {_ends(setting.graph, first)} and "
        f"{_ends(setting.graph, second)}, which both have the key {levels[worst]:.9g}",
        received=f"edge values {least[worst]:.9g} and {most[worst]:.9g}",
        mend="declare order = None where edge values depend on more than the key",
        calls=setting.calls_of(first, second),
    )
