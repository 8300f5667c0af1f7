"""The heaviest edges on paths of a tree, from the rounds of Boruvka's algorithm.

Let Boruvka's algorithm run on a tree, and join two vertices u and w in round L. The heaviest edge
on the tree's path between them is then the heavier one of max(u) and max(w), where max(u) is the
heaviest of the L edges that the components of u chose in rounds 1 to L (King, "A simpler minimum
spanning tree verification algorithm", 1997).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from topoloss_mst.backends.triton_backend.components import Components
from topoloss_mst.backends.triton_backend.forest import all_listed, grow
from topoloss_mst.backends.triton_backend.kernels import hierarchy as kernels

# Rounds that are remembered, a power of two. Pairs that more rounds keep apart are judged by the
# heaviest edges of all rounds, so that some of them are needlessly light.
_LEVELS = 8


class Hierarchy(NamedTuple):
    """Levels, one for each remembered round: its components, and what light pairs must reach.

    The level of two vertices is that of the last remembered round before which they are apart.

    Attributes
    ----------
    labels : Tensor of int32, shape (batch, levels, n)
        The components before each round.
    need : Tensor of float32, shape (batch, levels, n)
        Two vertices are connected by lighter edges if their similarity is below the needs of both
        on their level.
    """

    labels: Int[Tensor, "batch levels n"]
    need: Float[Tensor, "batch levels n"]

    @property
    def levels(self) -> int:
        return self.labels.shape[1]

    def at(self, index: Int[Tensor, "batch positions"]) -> Hierarchy:
        index = index[:, None].expand(-1, _LEVELS, -1)
        return Hierarchy(*(x.gather(2, index) for x in self))

    def side_by_side(self) -> Int[Tensor, "batch n"]:
        """The vertices in an order that keeps those of each component together, on every level."""
        batch, _, n = self.labels.shape
        vertex = torch.arange(n, device=self.labels.device).expand(batch, n)
        for level in range(1, _LEVELS, 2):
            # Stable sorts, by two levels at a time, from the finest to the coarsest.
            label = self.labels[:, level].long()
            if level + 1 < _LEVELS:
                label = label + n * self.labels[:, level + 1].long()
            vertex = vertex.gather(1, label.gather(1, vertex).argsort(dim=1, stable=True))
        return vertex


def hierarchy_of(v: Tensor, order: str, trees: Tensor) -> Hierarchy:
    """The hierarchies of spanning trees of the vertices `v`, given as codes (batch, n - 1)."""
    batch, n, _ = v.shape
    forest = Components(batch, n, v.device)
    heaviest = torch.full((batch, n), -(2**63), dtype=torch.int64, device=v.device)
    # If there are fewer rounds, all vertices are one component on the last levels.
    labels = torch.zeros(batch, _LEVELS, n, dtype=torch.int32, device=v.device)
    need = torch.zeros(batch, _LEVELS, n, device=v.device)

    def remember(round: int) -> None:
        forest.run(
            kernels.remember_round, forest.component, forest.lightest_key, heaviest, labels, need,
            round, order == "sq_dist_ascending", _LEVELS,
        )  # fmt: skip

    grow(forest, [all_listed(v, order, trees)], remember)
    return Hierarchy(labels, need)
