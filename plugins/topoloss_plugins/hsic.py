"""The filtration by the Hilbert-Schmidt independence criterion, ``hsic``."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

import topoloss
from topoloss_plugins.correlation import OneMinusDot


class HSIC(OneMinusDot):
    r"""One minus normalised HSIC of neurons with Gaussian kernels, in [0, 1].

    For each neuron the matrix K of kernels of its samples,
    :math:`\exp(-(x_k - x_l)^2 / 2 (\sigma s)^2)`, is centred by rows and columns; s is the neuron's
    standard deviation. Normalised HSIC of two neurons is the cosine of their matrices,

    .. math:: \frac{\langle HKH, HLH \rangle}{\|HKH\| \|HLH\|}, \qquad H = I - \tfrac1n 1 1^T

    Pearson's correlation sees how far two neurons follow a line; HSIC sees any dependence.

    Parameters
    ----------
    bandwidth : float
        :math:`\sigma`, in standard deviations of each neuron.

    Notes
    -----
    **Order.** The features of a neuron are its centred matrix, flattened, of length 1. Their
    product is never negative, as kernels are positive definite.

    **Constants.** A constant neuron, as ``correlation`` defines it, has the zero matrix, HSIC 0
    with everything by definition, and a zero gradient.

    **Invariance.** Values do not change by ``x -> a x + b`` with a non-zero.

    **Complexity.** Memory and time per edge are quadratic in the samples: 1,000 neurons of a batch
    of 256 take 262 MB in float32, and a few times that while they are computed. Take a
    fraction of large layers.

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
        """Return centred matrices of kernels, of length 1; shape (n, samples^2)."""
        # Rows of length 1 have standard deviation 1 / sqrt(samples), those of constant neurons 0.
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
        """Kernels up to a constant, which centring takes out, and a factor, which the norm does."""
        # Beyond these bounds kernels are a line, or those of an identity, to the last digit.
        eps = torch.finfo(sq_dist.dtype).eps
        rate = min(max(0.5 / self.bandwidth / self.bandwidth, eps**2), eps**-4)
        # Without the constant 1 the kernels of a wide bandwidth keep their digits.
        return torch.expm1(-rate * sq_dist) / min(rate, 1)

    def extra_repr(self) -> str:
        return f"bandwidth={self.bandwidth}"


@topoloss.hookimpl
def topoloss_filtrations() -> dict[str, type[topoloss.Filtration]]:
    return {"hsic": HSIC}
