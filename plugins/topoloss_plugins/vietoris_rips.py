"""Persistence in dimension 0 and above by ripser.py, ``ripser``."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

import topoloss

# Ripser works in float32, which holds every integer up to this one.
_MOST_EDGES = 1 << 24
# Ripser numbers the simplices of each dimension, and ends the process above this number.
_MOST_SIMPLICES = (1 << 55) - 1
# ripser.py never returns for a larger prime.
_LARGEST_FIELD = 127

_Integers: TypeAlias = npt.NDArray[np.int64]


class Ripser(topoloss.Persistence):
    """The Vietoris-Rips complex: components, loops, cavities, by ripser.py.

    Parameters
    ----------
    dim : {1, 0, 2}
        The highest homology dimension: 0 for components, 1 for loops as well, 2 for cavities too.
    threshold : float, optional
        Edges with a larger value are left out. Classes that are still alive at `threshold` are
        therefore essential; in dimension 0 they are the components of the graph of the remaining
        edges. By default every edge counts.
    coeff : int
        The number of elements of the field of coefficients, a prime up to 127.

    Notes
    -----
    **How edges are identified.** Ripser returns values, not simplices. Instead of its value, each
    edge is therefore given its *rank* by (value, lower index, higher index). No two ranks are
    equal, so each birth and each death is the rank of one edge, even where values tie. Ripser
    computes in float32, which holds ranks exactly for up to 5,793 vertices, or 16,777,216 listed
    edges; more are an error.

    **Points of lifetime 0.** A class that the same edge creates and fills is not a point. A class
    that two different edges of equal value create and fill is a point, with lifetime 0 (ripser.py
    itself leaves such points out).

    **Gradient.** Births and deaths are values of single edges, so both have the gradient of the
    filtration. Where values tie, it is the gradient of the edges that the order above picks.

    **Complexity.** Dimension 1 has O(n^3) triangles and dimension 2 O(n^4) tetrahedra, most of
    which ripser never constructs. Time and memory grow quickly with `dim`; `threshold` keeps them
    down. All work is on the CPU, to which values are copied.

    **torch.vmap.** The elements of a batch may have differing numbers of loops and cavities. Those
    with fewer are padded with points of lifetime 0 and weight 0.

    **Diagonal.** Vertices are born before all edges; the diagonal of a matrix is not read.

    References
    ----------
    Bauer, "Ripser: efficient computation of Vietoris-Rips persistence barcodes", J. Appl.
    Comput. Topol. 5 (2021). Tralie, Saul, Bar-On, "Ripser.py: A lean persistent homology library
    for Python", J. Open Source Softw. 3 (2018).

    Examples
    --------
    >>> import torch, topoloss
    >>> corners = torch.tensor([[0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    >>> reg = topoloss.pipeline("euclidean", "ripser", "total-persistence")
    >>> reg.diagrams(corners)[1].to_numpy().round(3)  # born with the sides, filled by a diagonal
    array([[1.   , 1.414]], dtype=float32)
    """

    max_vertices = 5_793

    def __init__(self, *, dim: int = 1, threshold: float | None = None, coeff: int = 2) -> None:
        super().__init__()
        topoloss.check_number("dim", dim, whole=True, least=0, most=2)
        if threshold is not None:
            topoloss.check_number("threshold", threshold, instead="None")
        topoloss.check_number("coeff", coeff, whole=True, least=2, most=_LARGEST_FIELD)
        if any(coeff % divisor == 0 for divisor in range(2, coeff)):
            raise topoloss.OptionError(
                f"coeff={coeff} was given; expected a prime, as coefficients must form a field. "
                "Over the integers there is no diagram."
            )
        self.dim = dim
        self.threshold = threshold
        self.coeff = coeff
        _ripser()

    def from_matrix(self, values: Float[Tensor, "n n"]) -> list[topoloss.CriticalEdges]:
        n = len(values)
        self.check_limits(n, values.dtype)
        ends = np.triu_indices(n, 1)
        listed = values.cpu().numpy()[ends]
        order = listed.argsort(kind="stable")  # stable: `ends` are already sorted
        ranks = _ranks(order)
        matrix = np.zeros((n, n), dtype=np.float32)
        matrix[ends] = ranks
        ordered = np.stack(ends, 1)[order]
        return self._critical_edges(matrix + matrix.T, ordered, listed, values.device)

    def from_edges(
        self, n: int, edges: Int[Tensor, "e 2"], values: Float[Tensor, " e"]
    ) -> list[topoloss.CriticalEdges]:
        from scipy.sparse import coo_matrix  # ripser.py depends on scipy

        listed, rows = edges.cpu().numpy(), values.cpu().numpy()
        order = _entering(listed, rows)
        self._check_graph(n, len(order))
        ordered = listed[order]
        lower, higher = ordered.min(1), ordered.max(1)
        ranks = _ranks(np.arange(len(order)))
        matrix = coo_matrix((ranks, (lower, higher)), shape=(n, n))
        return self._critical_edges(matrix, ordered, rows[order], values.device)

    def _check_graph(self, n: int, edges: int) -> None:
        if edges > _MOST_EDGES or math.comb(n, self.dim + 2) > _MOST_SIMPLICES:
            raise topoloss.TooLargeError(
                f"{edges} edges on {n} vertices were given to Ripser(dim={self.dim}), which takes "
                f"at most {_MOST_EDGES} edges, and {_MOST_SIMPLICES} possible sets of "
                f"{self.dim + 2} vertices; lower dim, or take another engine."
            )

    def _critical_edges(
        self, ranks: Any, ordered: _Integers, values: npt.NDArray[Any], device: torch.device
    ) -> list[topoloss.CriticalEdges]:
        """Run ripser on ranks, counted from 1, and look up the edges of the points."""
        most = np.inf if self.threshold is None else self._below_threshold(values)
        points = _ripser()(
            ranks, distance_matrix=True, maxdim=self.dim, thresh=float(most), coeff=self.coeff
        )["dgms"]

        def edges(ranks: npt.NDArray[np.float64]) -> Tensor:
            return torch.from_numpy(ordered[ranks.astype(np.int64) - 1]).to(device)

        found = []
        for dimension, (births, deaths) in enumerate(rows.T for rows in points):
            dies = np.isfinite(deaths)
            if dimension == 0:
                found.append(topoloss.CriticalEdges(edges(deaths[dies])))
            else:
                found.append(
                    topoloss.CriticalEdges(
                        edges(deaths[dies]), edges(births[dies]), edges(births[~dies])
                    )
                )
        return found

    def _below_threshold(self, values: npt.NDArray[Any]) -> int:
        """Count the values up to the threshold, which is rounded to their dtype."""
        # A threshold that is too large for the dtype becomes infinite.
        with np.errstate(over="ignore"):
            return int(np.count_nonzero(values <= self.threshold))

    def extra_repr(self) -> str:
        given = (("dim", self.dim), ("threshold", self.threshold), ("coeff", self.coeff))
        return ", ".join(f"{option}={value}" for option, value in given)


def _ranks(order: _Integers) -> npt.NDArray[np.float32]:
    """The rank of each edge, counted from 1, where `order` lists the edges by rank."""
    ranks = np.empty(len(order), dtype=np.float32)
    ranks[order] = np.arange(1, len(order) + 1)
    return ranks


def _entering(edges: _Integers, values: npt.NDArray[Any]) -> _Integers:
    """Order rows by (value, lower, higher, row), without edges that join nothing new.

    Those are self-loops, and all but the first of the edges between the same two vertices.
    """
    lower, higher = edges.min(1), edges.max(1)
    order: _Integers = np.lexsort((higher, lower, values))  # stable; the last key is primary
    order = order[lower[order] != higher[order]]
    ends = np.stack((lower[order], higher[order]), 1)
    first = np.unique(ends, axis=0, return_index=True)[1]
    return order[np.sort(first)]


def _ripser() -> Callable[..., Any]:
    with topoloss.needs_extra("ripser"):
        found: Callable[..., Any] = import_module("ripser").ripser
    return found


@topoloss.hookimpl
def topoloss_persistence() -> dict[str, type[topoloss.Persistence]]:
    return {"ripser": Ripser}
