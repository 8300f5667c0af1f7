"""What is kept of a network's neurons at one moment of training."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from topoloss import components
from topoloss.pruning.copies import copies_in

__all__ = ["Group", "Snapshot", "snapshot"]

# A representative and its copies, each with its correlation.
Group = tuple[int, list[tuple[int, float]]]


@dataclass(frozen=True)
class Snapshot:
    """The neurons of a network after one epoch, as plain numbers that JSON can hold.

    A neuron is given by its place among those that are watched.

    Attributes
    ----------
    epoch : int
    notes : dict of str to float or None
        Other numbers to show, such as the validation loss; None where one is not finite.
    deaths : list of float
        Ascending, of the spanning tree on all neurons that are watched.
    edges : list of (int, int)
        The two neurons that each edge of the tree joins.
    correlations : str
        ``|r|`` of each pair of drawn neurons, below the diagonal and row by row: a byte each,
        255 for 1, in base64.
    groups : list of (int, list of (int, float))
        As :func:`topoloss.redundancy` finds them across layers.
    constant : list of int
        Neurons whose output is the same for every sample.
    """

    epoch: int
    notes: dict[str, float | None]
    deaths: list[float]
    edges: list[tuple[int, int]]
    correlations: str
    groups: list[Group]
    constant: list[int]


@torch.no_grad()
def snapshot(
    epoch: int, x: Tensor, drawn: list[int], level: float, notes: Mapping[str, float]
) -> Snapshot:
    """Measure the neurons after one epoch.

    Parameters
    ----------
    epoch : int
    x : Tensor, shape (samples, neurons)
        On the CPU.
    drawn : list of int
        The neurons whose correlations are kept, pair by pair.
    level : float
        As for :func:`topoloss.redundancy`.
    notes : dict of str to float
    """
    filtration = components.filtration("correlation")
    tree = components.pipeline(filtration, "mst", "t1").diagrams(x)[0]
    distances = filtration.pairwise(filtration.vertices(x[:, drawn]))
    below = torch.tril_indices(len(drawn), len(drawn), -1)
    levels = (255 * (1 - distances[below[0], below[1]])).round().to(torch.uint8)
    found = copies_in({"": x}, level, "layer")
    return Snapshot(
        epoch=epoch,
        notes={name: float(n) if isfinite(n) else None for name, n in notes.items()},
        deaths=[round(death, 6) for death in tree.deaths.tolist()],
        edges=[(i, j) for i, j in tree.death_edges.tolist()],
        correlations=base64.b64encode(levels.numpy().tobytes()).decode("ascii"),
        groups=[
            (group.representative[1], [(k, round(r, 4)) for (_, k), r in group.copies.items()])
            for group in found.groups
        ],
        constant=[k for _, k in found.constant],
    )
