"""The filtration by rank correlation, ``spearman``."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

import topoloss
from topoloss_plugins.correlation import Correlation, centred_rows


class Spearman(Correlation):
    r"""Rank correlation dissimilarity ``1 - |r_s|`` of neurons, in [0, 1].

    ``r_s`` is Spearman's correlation: Pearson's correlation of the ranks of two neurons'
    activations over the samples. It is 1 for any two neurons one of which is an increasing function
    of the other. Equal activations share the mean of their ranks.

    Parameters
    ----------
    constant, form
        As for ``correlation``.

    Notes
    -----
    **Gradient.** Ranks are piecewise constant, so their gradient is 0 wherever it exists. It is
    replaced by a surrogate, as ``surrogate_gradient`` declares: the gradient of ranks that are a
    linear function of each neuron's activations, with the slope std(ranks) / std(activations). The
    value itself is exact. A step against the surrogate gradient moves the activations in the
    direction in which their ranks should move.

    **Constant.** The rule of ``correlation`` decides which neurons are constant, from activations:
    where these differ only by rounding, their ranks are still as spread as any. A constant neuron
    gets ``r_s = 0`` with everything and a zero gradient.

    **Complexity.** O(s log s) time for each neuron of s samples to find ranks.

    References
    ----------
    Spearman, "The proof and measurement of association between two things", Am. J. Psychol. 15
    (1904). Bengio, Leonard, Courville, "Estimating or propagating gradients through stochastic
    neurons for conditional computation", arXiv 1308.3432 (2013), for the straight-through gradient.

    Examples
    --------
    >>> import torch, topoloss
    >>> x = torch.tensor([1.0, 2.0, 3.0, 4.0])
    >>> activations = torch.stack((x, x.exp()), 1)
    >>> topoloss.pipeline("spearman").diagrams(activations)[0].deaths.round(decimals=6)
    tensor([0.])
    """

    surrogate_gradient = True

    def vertices(self, x: Float[Tensor, "samples n"]) -> Float[Tensor, "n d"]:
        """Rank each neuron's activations, then centre and normalise; shape (n, samples)."""
        _, _, constant = centred_rows(x.detach())
        return super().vertices(_ranks(x.to(torch.promote_types(x.dtype, torch.float32)), constant))


def _ranks(
    x: Float[Tensor, "samples n"], constant: Bool[Tensor, " n"]
) -> Float[Tensor, "samples n"]:
    """Rank each column from 1, with mean ranks for equal entries and a surrogate gradient.

    Constant columns are 0.
    """
    rows = x.detach().T.contiguous()
    ascending = rows.sort(-1).values
    below, not_above = (
        torch.searchsorted(ascending, rows, side=side) for side in ("left", "right")
    )
    ranks = torch.where(constant, 0, ((below + not_above + 1).to(x.dtype) / 2).T)
    # In units of the largest magnitude, so that squares neither under- nor overflow.
    largest = torch.where(constant, 1, x.detach().abs().amax(0))
    spread = (x.detach() / largest).std(0, correction=0)
    slope = ranks.std(0, correction=0) / torch.where(constant, 1, spread) / largest
    # The slope of a tiny spread may be infinite, and infinity times 0 is NaN.
    slope = slope.clamp(max=torch.finfo(x.dtype).max)
    return ranks + slope * (x - x.detach())


@topoloss.hookimpl
def topoloss_filtrations() -> dict[str, type[topoloss.Filtration]]:
    return {"spearman": Spearman}
