"""Diagrams: the values of critical edges, under autograd."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from topoloss.engines import CriticalEdges
from topoloss.errors import InputError
from topoloss.filtrations import Filtration, checked_edge_values, checked_edge_weights

__all__ = ["Diagram", "evaluate"]


@dataclass(frozen=True, eq=False)
class Diagram:
    """A persistence diagram in one homology dimension, differentiable in its values.

    Points are sorted by death, ascending. In dimension 0 of a clique on n vertices there
    are always n - 1 points, zeros included, and one essential class. In a graph with k
    components, listed or cut off at a threshold, there are n - k points and k essential classes.
    With a batch every tensor has a leading axis. Two diagrams are equal only if they are the same
    object: compare their tensors instead.

    Attributes
    ----------
    dimension : int
    births, deaths : Tensor, shape (points,)
        In the units of the filtration.
    birth_edges : Tensor of int64, shape (points, 2), or None
        None in dimension 0, where every vertex is born at 0.
    death_edges : Tensor of int64, shape (points, 2)
    weights : Tensor, shape (points,)
        How much each point counts in a loss: 1, or 0 for points the filtration excludes.
    essential_births : Tensor, shape (essential,)
        Births of the classes that never die.

    Examples
    --------
    >>> import torch, topoloss
    >>> reg = topoloss.pipeline("euclidean", "mst", "t1")
    >>> diagram = reg.diagrams(torch.tensor([[0.0, 1.0, 5.0]]))[0]
    >>> diagram.deaths
    tensor([1., 4.])
    >>> diagram.to_numpy(essential=True)
    array([[ 0.,  1.],
           [ 0.,  4.],
           [ 0., inf]], dtype=float32)
    """

    dimension: int
    births: Tensor
    deaths: Tensor
    birth_edges: Tensor | None
    death_edges: Tensor
    weights: Tensor
    essential_births: Tensor

    @property
    def lifetimes(self) -> Tensor:
        """Deaths minus births, shape (points,).

        Births and deaths are computed separately: rounding may make a lifetime slightly negative.
        """
        return self.deaths - self.births

    def to_numpy(self, essential: bool = False) -> npt.NDArray[np.floating]:
        """Return rows (birth, death), as persim, ripser and GUDHI plot them.

        Parameters
        ----------
        essential : bool
            Append the classes that never die, with death infinity.

        Returns
        -------
        ndarray, shape (points, 2), or (batch, points, 2)
        """
        rows = torch.stack((self.births, self.deaths), -1)
        if essential:
            births = self.essential_births
            rows = torch.cat((rows, torch.stack((births, births + torch.inf), -1)), -2)
        array: npt.NDArray[np.floating] = rows.detach().cpu().numpy()
        return array

    def to_linkage(self) -> npt.NDArray[np.float64]:
        """Return the single linkage of the vertices, in SciPy's form.

        Returns
        -------
        ndarray of float64, shape (n - 1, 4)
            For ``scipy.cluster.hierarchy.dendrogram``, ``fcluster`` and the like. In each row:
            two clusters, the death at which they join, and how many vertices they then have.

        Raises
        ------
        InputError
            For a dimension other than 0, a batch, or a graph that is not connected.

        Examples
        --------
        >>> import torch, topoloss
        >>> reg = topoloss.pipeline("euclidean", "mst", "t1")
        >>> reg.diagrams(torch.tensor([[0.0, 1.0, 5.0]]))[0].to_linkage()
        array([[0., 1., 1., 2.],
               [2., 3., 4., 3.]])
        """
        if self.dimension != 0 or self.deaths.ndim != 1 or self.essential_births.shape[-1] != 1:
            raise InputError(
                f"a diagram of dimension {self.dimension}, of shape {tuple(self.deaths.shape)} and "
                f"with {self.essential_births.shape[-1]} classes that never die was given; "
                "expected dimension 0 of one connected graph, without a batch."
            )
        n = self.deaths.shape[0] + 1
        rows = np.empty((n - 1, 4))
        cluster, size = list(range(2 * n - 1)), [1] * n
        for k, (edge, death) in enumerate(
            zip(self.death_edges.tolist(), self.deaths.tolist(), strict=True)
        ):
            first, second = sorted(_root(cluster, end) for end in edge)
            cluster[first] = cluster[second] = n + k
            size.append(size[first] + size[second])
            rows[k] = first, second, death, size[-1]
        return rows


def _root(parents: list[int], k: int) -> int:
    """Find the cluster that `k` is in, and shorten the path to it."""
    while parents[k] != k:
        parents[k] = parents[parents[k]]
        k = parents[k]
    return k


def evaluate(
    filtration: Filtration, v: Any, critical: Sequence[CriticalEdges], components: int = 1
) -> list[Diagram]:
    """Value critical edges under autograd, and sort each diagram by its deaths.

    In dimension 0 each of the graph's `components` is an essential class.
    """
    return [_diagram(filtration, v, k, edges, components) for k, edges in enumerate(critical)]


def _diagram(
    filtration: Filtration, v: Any, dimension: int, edges: CriticalEdges, components: int
) -> Diagram:
    unsorted = _values(filtration, v, edges.death_edges)
    # Sorting comes after the re-evaluation: the engine's keys are rounded differently.
    deaths, rank = torch.sort(unsorted, stable=True)
    death_edges = edges.death_edges.index_select(0, rank)
    weights = checked_edge_weights(filtration, v, death_edges[:, 0], death_edges[:, 1])
    if edges.birth_edges is None:
        birth_edges, births = None, torch.zeros_like(deaths)
        essential = deaths.new_zeros(components)
    else:
        birth_edges = edges.birth_edges.index_select(0, rank)
        births = _values(filtration, v, birth_edges)
        # A row with equal birth and death edges is padding for a batch.
        weights = weights * (birth_edges != death_edges).any(-1)
        essential = (
            deaths.new_zeros(0)
            if edges.essential_births is None
            else _values(filtration, v, edges.essential_births)
        )
    return Diagram(dimension, births, deaths, birth_edges, death_edges, weights, essential)


def _values(filtration: Filtration, v: Any, edges: Tensor) -> Tensor:
    return checked_edge_values(filtration, v, edges[:, 0], edges[:, 1])
