"""The heaviest edge between two vertices of a tree, from rounds of Boruvka's algorithm."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from topoloss_mst.backends.triton_backend.kernels.ordering import NO_KEY, number


@triton.jit(do_not_specialize=["round"])
def remember_round(
    component, lightest_key, heaviest, labels, need, round,
    DISTANCES: tl.constexpr, LEVELS: tl.constexpr, n, BLOCK: tl.constexpr,
):  # fmt: skip
    """Keep the components before a round, and what the pairs that it joins have to reach.

    ``heaviest[u]`` is the highest key of the edges that the components of u chose so far, and
    ``need[level, u]`` is at most the similarity of an edge of this key. Rounds beyond the last
    level only update `heaviest` and the last level of `need`.
    """
    element = tl.program_id(1).to(tl.int64)
    u = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exists = u < n
    c = tl.load(component + element * n + u, mask=exists, other=0)
    key = tl.load(lightest_key + element * n + c, mask=exists, other=NO_KEY)
    highest = tl.load(heaviest + element * n + u, mask=exists, other=-(2**63))
    highest = tl.where(key == NO_KEY, highest, tl.maximum(key, highest))
    tl.store(heaviest + element * n + u, highest, mask=exists)
    similarity = -number(highest)
    if DISTANCES:
        similarity /= 2
    # Lower it by more than rounding to float32 and underflow can change it.
    least = (similarity - tl.abs(similarity) * 2.0**-22 - 2.0**-120).to(tl.float32)
    level = tl.minimum(round, LEVELS - 1)
    place = (element * LEVELS + level) * n + u
    tl.store(need + place, least, mask=exists)
    if round < LEVELS:
        tl.store(labels + place, c, mask=exists)
