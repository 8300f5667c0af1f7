"""The filtration by the Hilbert-Schmidt independence criterion, ``hsic``."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

import topoloss
from topoloss_plugins.correlation import OneMinusDot


class HSIC(OneMinusDot):
    r"""One minus normalised HSIC of neurons with Gaussian kernels, in [0, 1].

    Each neuron has a matrix K of kernels between its samples k and l,
    :math:`\exp(-(x_k - x_l)^2 / 2 (\sigma s)^2)`, where s is the neuron's standard deviation. It is
    centred by rows and columns. The normalised HSIC of two neurons with the matrices K and L is the
    cosine of the angle between the centred matrices,

    .. math:: \frac{\langle HKH, HLH \rangle}{\|HKH\| \|HLH\|}, \qquad H = I - \tfrac1n 1 1^T

    Pearson's correlation measures linear dependence; HSIC detects any dependence.

    Parameters
    ----------
    bandwidth : float
        :math:`\sigma`, in units of each neuron's standard deviation.

    Notes
    -----
    **Order.** The features of a neuron are its centred matrix, flattened and scaled to norm 1. The
    dot product of two neurons' features is never negative, because kernels are positive definite.

    **Constants.** A constant neuron, as ``correlation`` defines it, has the zero matrix, HSIC 0
    with everything by definition, and a zero gradient.

    **Invariance.** ``x -> a x + b`` with a non-zero leaves the values unchanged.

    **Complexity.** Memory and time per edge are quadratic in the samples: 1,000 neurons of a batch
    of 256 take 262 MB in float32, and a few times that while they are computed. Use a fraction of
    the neurons of large layers.

    References
    ----------
    Gretton, Bousquet, Smola, Schoelkopf, "Measuring statistical dependence with Hilbert-Schmidt
    norms", ALT (2005). Kornblith, Norouzi, Lee, Hinton, "Similarity of neural network
    representations revisited", PMLR 97 (2019), section 3, where normalised HSIC is called CKA.

    Examples
    --------
    >>> import torch, topoloss
    >>> x = torch.linspace(-1, 1, 11)
    >>> filtration = topoloss.filtration("hsic")
    >>> v = filtration.vertices(torch.stack((x, 2 - 3 * x, x**2), 1))
    >>> filtration.pairwise(v)[0].round(decimals=2)
    tensor([0.0000, 0.0000, 0.6600])
    """

    def __init__(self, *, bandwidth: float = 1.0) -> None:
        super().__init__()
        topoloss.check_number("bandwidth", bandwidth, above=0)
        self.bandwidth = bandwidth
        self.standardised = topoloss.filtration("correlation")

    def vertices(self, x: Float[Tensor, "samples n"]) -> Float[Tensor, "n d"]:
        """Return the centred matrices of kernels, scaled to norm 1; shape (n, samples^2)."""
        # Give the rows standard deviation 1; those of constant neurons are 0.
        rows = self.standardised.vertices(x) * x.shape[0] ** 0.5
        kernels = self._kernels((rows[:, :, None] - rows[:, None, :]).square())
        centred = (
            kernels
            - kernels.mean(1, keepdim=True)
            - kernels.mean(2, keepdim=True)
            + kernels.mean((1, 2), keepdim=True)
        ).flatten(1)
        constant = (rows.detach() == 0).all(1, keepdim=True)
        scaled = torch.where(constant, 1, centred)
        return torch.where(constant, 0, scaled / scaled.norm(dim=1, keepdim=True))

    def _kernels(self, sq_dist: Tensor) -> Tensor:
        """Kernels up to a constant, which centring removes, and a factor, which scaling removes."""
        # Beyond these bounds the kernel is, to the last digit, linear, or 0 for unequal samples.
        eps = torch.finfo(sq_dist.dtype).eps
        rate = min(max(0.5 / self.bandwidth / self.bandwidth, eps**2), eps**-4)
        # expm1 leaves out the constant 1, which would cost the kernels of a wide bandwidth digits.
        return torch.expm1(-rate * sq_dist) / min(rate, 1)

    def extra_repr(self) -> str:
        return f"bandwidth={self.bandwidth}"


@topoloss.hookimpl
def topoloss_filtrations() -> dict[str, type[topoloss.Filtration]]:
    return {"hsic": HSIC}
