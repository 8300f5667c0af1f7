"""The components of Boruvka's algorithm: how a round joins them by their lightest edges.

One vertex, its root, stands for each component. There `lightest_key` holds the least key of the
component's edges to other components, and `lightest_edge` the first edge of that key, as
``lower * n + higher``. Rounds are launched whether or not there is anything left to join.
``joined[p, round]`` counts the edges that earlier rounds found in element p; a round after one that
found none is idle.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from topoloss_mst.backends.triton_backend.kernels.ordering import NO_EDGE, NO_KEY, lower


@triton.jit
def is_idle(joined, round, n):
    """Whether a round has nothing to do; `joined` is the row of its element."""
    found = tl.load(joined + round)
    before = tl.load(joined + tl.maximum(round, 1) - 1)
    return (found == n - 1) | ((round > 0) & (found == before))


@triton.jit
def forget(lightest_key, lightest_edge, u, exists):
    tl.store(lightest_key + u, NO_KEY, mask=exists)
    tl.store(lightest_edge + u, NO_EDGE, mask=exists)


@triton.jit
def hook(component, lightest_edge, parent, tree, u, exists, n):
    """``parent[c]`` = the component at the other end of c's edge, and ``tree[c]`` = that edge.

    Of two components that chose the same edge, the lower stays a root; a total order of edges
    rules out longer cycles. A component that hooks is never a root again, so each edge of the
    tree has a place of its own in `tree`, and one place stays empty.

    Returns how many of the vertices `u` hook.
    """
    own = tl.load(component + u, mask=exists, other=-1)
    code = tl.load(lightest_edge + u, mask=own == u, other=NO_EDGE, cache_modifier=".cg")
    leaves = code != NO_EDGE
    # The sum of both ends' components, minus this one, is the other one.
    ends = tl.load(component + code // n, mask=leaves, other=0)
    ends += tl.load(component + code % n, mask=leaves, other=0)
    other = tl.where(leaves, ends - u, 0)
    mutual = tl.load(lightest_edge + other, cache_modifier=".cg") == code
    hooks = leaves & ((other < u) | (mutual == 0))
    tl.store(parent + u, tl.where(hooks, other, own), mask=exists)
    tl.store(tree + u, code, mask=hooks)
    return tl.sum(hooks.to(tl.int32), 0)


@triton.jit
def climb(component, parent, u, exists):
    """``component[u]`` = the root above u, by pointer jumping.

    Parents are replaced by grandparents on the way up. Other threads may read either of them, as
    both are above u.
    """
    above = tl.load(parent + u, mask=exists, other=0)
    beyond = tl.load(parent + above)
    while tl.max((above != beyond).to(tl.int32), 0) > 0:
        tl.store(parent + u, beyond, mask=exists)
        above = beyond
        beyond = tl.load(parent + above)
    tl.store(component + u, above, mask=exists)


@triton.jit
def start_components(
    component, lightest_key, lightest_edge, joined, rounds, n, BLOCK: tl.constexpr
):  # fmt: skip
    """``component[u] = u``, and no edges yet."""
    element = tl.program_id(1).to(tl.int64)
    u = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(component + element * n + u, u, mask=u < n)
    forget(lightest_key + element * n, lightest_edge + element * n, u, u < n)
    joined += element * (rounds + 1)
    for round in range(rounds + 1):
        tl.store(joined + round, 0)


@triton.jit(do_not_specialize=["round"])
def hook_components(
    component, lightest_edge, parent, tree, joined, round, rounds, n, BLOCK: tl.constexpr
):  # fmt: skip
    """One program hooks the components among a block of vertices."""
    element = tl.program_id(1).to(tl.int64)
    first = element * n
    joined += element * (rounds + 1)
    found = tl.where(tl.program_id(0) == 0, tl.load(joined + round), 0)
    if not is_idle(joined, round, n):
        u = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        component += first
        found += hook(
            component, lightest_edge + first, parent + first, tree + first, u, u < n, n
        )  # fmt: skip
    tl.atomic_add(joined + round + 1, found, sem="relaxed")


@triton.jit(do_not_specialize=["round"])
def relabel_components(
    component, lightest_key, lightest_edge, parent, joined, round, rounds, n, BLOCK: tl.constexpr
):  # fmt: skip
    """``component[u]`` = the component that u's one was joined to; forget the round's edges."""
    element = tl.program_id(1).to(tl.int64)
    if is_idle(joined + element * (rounds + 1), round, n):
        return
    first = element * n
    u = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    climb(component + first, parent + first, u, u < n)
    forget(lightest_key + first, lightest_edge + first, u, u < n)


@triton.jit
def find_lowest(component, lightest_edge, n, BLOCK: tl.constexpr):
    """``lightest_edge[c]`` = the edge from vertex 0 to the lowest vertex of c."""
    element = tl.program_id(1).to(tl.int64)
    u = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    c = tl.load(component + element * n + u, mask=u < n, other=0)
    lower(lightest_edge + element * n + c, u.to(tl.int64), u < n)


@triton.jit
def connect_lowest(component, lightest_edge, tree, n, BLOCK: tl.constexpr):
    """``tree[c] = lightest_edge[c]`` for each root c but that of vertex 0."""
    element = tl.program_id(1).to(tl.int64)
    u = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    c = tl.load(component + element * n + u, mask=u < n, other=-1)
    other = (c == u) & (c != tl.load(component + element * n))
    edge = tl.load(lightest_edge + element * n + u, mask=other, other=0)
    tl.store(tree + element * n + u, edge, mask=other)


@triton.jit
def collect_edges(component, tree, edges, n, BLOCK: tl.constexpr):
    """``edges[slot] = (code // n, code % n)`` for each code of the tree, in n - 1 slots."""
    element = tl.program_id(1).to(tl.int64)
    u = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    # The last root is the vertex without an edge.
    root = tl.load(component + element * n)
    hooked = (u < n) & (u != root)
    code = tl.load(tree + element * n + u, mask=hooked, other=0)
    edges += (element * (n - 1) + u - (u > root).to(tl.int32)) * 2
    tl.store(edges, code // n, mask=hooked)
    tl.store(edges + 1, code % n, mask=hooked)
