"""One minus the distance correlation of neurons, for topoloss."""

from __future__ import annotations

import torch
from torch import Tensor

import topoloss

__all__ = ["DistanceCorrelation", "t1_distance_correlation"]


class DistanceCorrelation(topoloss.Filtration):
    r"""``1 - dCor``, one minus the distance correlation, in [0, 1].

    For each neuron, the matrix of distances ``|x_k - x_l|`` between its samples is centred by
    rows and columns. dCor^2 of two neurons is the cosine between their matrices.

    Notes
    -----
    **Order.** The features of a neuron are its centred matrix, flattened and scaled to length 1.
    The dot product of two neurons is dCor^2, which is never negative. So edge values ascend as
    the dot product descends, and engines work on the features alone.

    **Constants.** The matrix of a constant neuron is 0, so by definition its dCor with every
    other neuron is 0. There its gradient is 0. The gradient is also 0 for any two neurons with
    dCor 0, where the square root has none.

    **Precision.** Half-precision activations are promoted to float32. A dot product below the
    rounding error of its sum counts as 0.

    **Gradient.** Where two samples of a neuron are equal, the absolute value has a kink; its
    gradient there is 0.

    **Complexity.** Memory and time per edge are quadratic in the samples.

    References
    ----------
    Szekely, Rizzo, Bakirov, "Measuring and testing dependence by correlation of
    distances", Ann. Statist. 35 (2007), definitions 4 and 5.

    Examples
    --------
    >>> import torch, topoloss
    >>> x = torch.linspace(-1, 1, 11)
    >>> filtration = topoloss.filtration("distance-correlation")
    >>> v = filtration.vertices(torch.stack((x, 2 - 3 * x, x**2), 1))
    >>> filtration.pairwise(v)[0].round(decimals=2)
    tensor([0.0000, 0.0000, 0.5000])
    """

    order = "dot_descending"

    def vertices(self, x: Tensor) -> Tensor:
        """Return centred distances, shape (n, samples^2); each row has length 1, or is 0."""
        x = x.T.to(torch.promote_types(x.dtype, torch.float32))
        distances = (x[:, :, None] - x[:, None, :]).abs()
        centred = (
            distances
            - distances.mean(1, keepdim=True)
            - distances.mean(2, keepdim=True)
            + distances.mean((1, 2), keepdim=True)
        ).flatten(1)
        # Divide by the largest entry, so that squares neither underflow nor overflow.
        largest = centred.detach().abs().amax(1, keepdim=True)
        constant = largest == 0
        scaled = torch.where(constant, 1, centred) / torch.where(constant, 1, largest)
        return torch.where(constant, 0, scaled / scaled.norm(dim=1, keepdim=True))

    def edge_values(self, v: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return _one_minus_root((v[i] * v[j]).sum(-1), features=v.shape[1])

    @torch.no_grad()
    def pairwise(self, v: Tensor) -> Tensor:
        return _one_minus_root(v @ v.T, features=v.shape[1])


def _one_minus_root(squared: Tensor, features: int) -> Tensor:
    """``1 - sqrt(squared)`` in [0, 1]; 1 with gradient 0 where `squared` is a rounding error."""
    positive = squared > features**0.5 * torch.finfo(squared.dtype).eps
    root = torch.where(positive, torch.where(positive, squared, 1).sqrt(), 0)
    return (1 - root).clamp(min=0)


def t1_distance_correlation() -> topoloss.Pipeline:
    """T1 with distance correlation: a name for `topoloss compare`."""
    return topoloss.pipeline(DistanceCorrelation(), "mst", "t1")


@topoloss.hookimpl
def topoloss_filtrations() -> dict[str, type[DistanceCorrelation]]:
    return {"distance-correlation": DistanceCorrelation}


@topoloss.hookimpl
def topoloss_regularisers() -> dict[str, object]:
    return {"t1-distance-correlation": t1_distance_correlation}
