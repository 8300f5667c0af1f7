"""Squared covariances of chosen pairs: ``covariance-tree``, ``random-path``, ``variance``.

The three differ only in the pairs: the edges of T1's tree, a random path through all neurons, and
each neuron with itself. The last two are controls for the first.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

import topoloss
from topoloss_plugins.constants import constant
from topoloss_plugins.covariances import covariances_of


class _SquaredCovariances(topoloss.Regulariser):
    """The sum of squared covariances over the pairs that a subclass chooses."""

    def compute(self, x: Float[Tensor, "samples n"]) -> Float[Tensor, ""]:
        return covariances_of(x, self.pairs(x)).square().sum()

    def pairs(self, x: Float[Tensor, "samples n"]) -> Int[Tensor, "pairs 2"]:
        raise NotImplementedError


class CovarianceTree(_SquaredCovariances):
    r"""Sum of squared covariances along the edges of T1's tree.

    .. math:: \sum_{(i, j) \in \mathrm{MST}} C_{ij}^2

    where MST is the minimum spanning tree of the correlation dissimilarity, which joins the neurons
    by their strongest correlations, and C the covariance, with the number of samples as divisor.

    This regulariser is our own. It applies DeCov's penalty to n - 1 pairs, chosen by topology,
    instead of all n (n - 1) / 2. To show whether that choice matters, compare it with its controls:
    ``variance``, which has no pairs, and ``random-path``, whose pairs are arbitrary. In our own
    comparison it was mostly better than a random path on handwritten digits, but no better than
    ``variance`` there.

    Parameters
    ----------
    filtration, persistence
        Names or instances: what orders the pairs, and what finds the tree.
    on_nonfinite, check_finite
        See :class:`topoloss.Regulariser`.

    Notes
    -----
    The value is not a loss of a diagram: one function of the pairs decides on the tree, and another
    one is summed along its edges. So the value jumps where the tree changes, and the gradient does
    not account for that jump. Unlike T1 the value falls with the scale of the activations, and a
    constant neuron lowers it no more than a very small one does.

    Examples
    --------
    >>> import torch, topoloss
    >>> x = torch.tensor([[1.0, 2.0, 1.0], [-1.0, -2.0, 1.0], [0.0, 0.0, -2.0]])
    >>> topoloss.regulariser("covariance-tree")(x)  # covariances 4/3, and 0 with the third neuron
    tensor(1.7778)
    """

    def __init__(
        self,
        *,
        filtration: str | topoloss.Filtration = "correlation",
        persistence: str | topoloss.Persistence = "mst",
        on_nonfinite: Literal["raise", "skip"] = "raise",
        check_finite: bool | None = None,
    ) -> None:
        super().__init__(on_nonfinite=on_nonfinite, check_finite=check_finite)
        self.pipeline = topoloss.pipeline(filtration, persistence)

    @property
    def vmappable(self) -> bool:
        vmappable: bool = self.pipeline.vmappable
        return vmappable

    def pairs(self, x: Float[Tensor, "samples n"]) -> Int[Tensor, "pairs 2"]:
        features = self.pipeline.vertices(x.detach())
        edges: Tensor = self.pipeline.critical_edges(features)[0].death_edges
        return edges


class RandomPath(_SquaredCovariances):
    r"""Sum of squared covariances along a random path through all neurons: our control.

    It has as many pairs as ``covariance-tree``, but chooses them without looking at the
    activations. What ``covariance-tree`` gains over it shows what the choice of pairs is worth.

    Parameters
    ----------
    seed : int
        Seed of the path, at least 0.
    on_nonfinite, check_finite
        See :class:`topoloss.Regulariser`.

    Notes
    -----
    The seed and the number of neurons fix the path, so the path stays the same throughout a
    training, and the value depends only on the input. The global random states are left alone.

    Examples
    --------
    >>> import torch, topoloss
    >>> x = torch.tensor([[1.0, 2.0], [-1.0, -2.0]])  # one pair, of covariance 2
    >>> topoloss.regulariser("random-path", seed=3)(x)
    tensor(4.)
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        on_nonfinite: Literal["raise", "skip"] = "raise",
        check_finite: bool | None = None,
    ) -> None:
        super().__init__(on_nonfinite=on_nonfinite, check_finite=check_finite)
        topoloss.check_number("seed", seed, whole=True, least=0)
        self.seed = seed

    def pairs(self, x: Float[Tensor, "samples n"]) -> Int[Tensor, "pairs 2"]:
        order = torch.tensor(constant(random_order, x.shape[1], self.seed), device=x.device)
        return torch.stack((order[:-1], order[1:]), 1)

    def extra_repr(self) -> str:
        return f"seed={self.seed}"


def random_order(n: int, seed: int) -> list[int]:
    order: list[Any] = np.random.default_rng(seed).permutation(n).tolist()
    return order


class Variance(_SquaredCovariances):
    r"""Sum of squared variances of the neurons, our control without any pairs.

    .. math:: \sum_i C_{ii}^2

    Regularisers of covariances also shrink the activations; this one does nothing else. What
    another one gains over it shows what the decorrelation is worth.

    Notes
    -----
    Variances have the number of samples as divisor. Time and memory are O(samples n).

    Examples
    --------
    >>> import torch, topoloss
    >>> x = torch.tensor([[1.0, 2.0], [-1.0, -2.0]])  # variances 1 and 4
    >>> topoloss.regulariser("variance")(x)
    tensor(17.)
    """

    def pairs(self, x: Float[Tensor, "samples n"]) -> Int[Tensor, "pairs 2"]:
        return torch.arange(x.shape[1], device=x.device)[:, None].expand(-1, 2)


@topoloss.hookimpl
def topoloss_regularisers() -> dict[str, type[topoloss.Regulariser]]:
    return {"covariance-tree": CovarianceTree, "random-path": RandomPath, "variance": Variance}
