"""The noise layer, and the noise by which it multiplies activations."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

import topoloss

__all__ = ["StructuredNoise", "correlated"]

# Added to the diagonal of the batch's covariance.
_RIDGE = 1e-3


def correlated(
    x: Float[Tensor, "samples n"],
    shared: Float[Tensor, "draws samples"],
    own: Float[Tensor, "draws n"],
) -> Float[Tensor, "draws n"]:
    r"""Turn independent normal numbers into noise with the covariance of a batch.

    The covariance is :math:`\Sigma = \frac1m \sum_t (x_t - \bar x)(x_t - \bar x)^T + 10^{-3} I` for
    m samples.

    Parameters
    ----------
    x : Tensor, shape (samples, n)
        The batch.
    shared, own : Tensor, shape (draws, samples) and (draws, n)
        Independent numbers of mean 0 and variance 1.

    Returns
    -------
    Tensor, shape (draws, n)
        Each row has mean 0 and the covariance :math:`\Sigma`.

    Notes
    -----
    A sum of the centred samples with random coefficients has the covariance of the batch, so
    neither an n x n matrix nor its square root is needed.

    Examples
    --------
    >>> import torch
    >>> from topoloss_structured_noise import correlated
    >>> x = torch.tensor([[1.0, 5.0], [3.0, 1.0]])  # centred: (-1, 2) and (1, -2)
    >>> correlated(x, torch.tensor([[0.0, 2**0.5]]), torch.zeros(1, 2))
    tensor([[ 1., -2.]])
    """
    draws, samples = len(shared), len(x)
    if shared.shape != (draws, samples) or own.shape != (draws, *x.shape[1:]) or x.ndim != 2:
        raise topoloss.InputError(
            f"tensors of the shapes {tuple(x.shape)}, {tuple(shared.shape)} and {tuple(own.shape)} "
            "were given; expected (samples, n), (draws, samples) and (draws, n)."
        )
    centred = x - x.mean(0)
    # Autocast would multiply in half precision.
    with torch.autocast(x.device.type, enabled=False):
        # Dividing after the sum could overflow.
        noise: Tensor = shared / len(x) ** 0.5 @ centred + _RIDGE**0.5 * own
    return noise


class StructuredNoise(nn.Module):
    r"""Multiply activations by noise, ``x * (1 + sqrt(variance) * noise)``; in training only.

    The noise of each sample is drawn from :math:`N(0, \Sigma)`, where :math:`\Sigma` is the
    covariance of the batch's activations plus :math:`10^{-3} I`. Dropout, in contrast, draws
    noise for each neuron independently.

    Parameters
    ----------
    variance : float
        How strong the noise is, at least 0.

    Notes
    -----
    The noise is a constant to autograd, as a dropout mask is. All axes after the first count as
    neurons. The noise comes from PyTorch's global random generator. NaN and infinity pass through.

    References
    ----------
    Khalfaoui, Boyd, Vert, "Adaptive structured noise injection for shallow and deep neural
    networks", arXiv 1909.09819 (2019).

    Examples
    --------
    >>> import torch
    >>> from topoloss_structured_noise import StructuredNoise
    >>> layer = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), StructuredNoise())
    >>> layer(torch.randn(8, 4)).shape
    torch.Size([8, 3])
    """

    def __init__(self, variance: float = 0.5) -> None:
        super().__init__()
        topoloss.check_number("variance", variance, least=0)
        self.variance = variance

    def forward(self, x: Float[Tensor, "samples *neurons"]) -> Float[Tensor, "samples *neurons"]:
        """Multiply activations by noise in training mode; return them as they are otherwise."""
        if not isinstance(x, Tensor) or x.ndim < 2 or not x.is_floating_point():
            given = (
                f"a tensor of shape {tuple(x.shape)} and {x.dtype}"
                if isinstance(x, Tensor)
                else f"something of type {type(x).__name__}"
            )
            raise topoloss.InputError(
                f"{given} was given; expected floating-point activations (samples, neurons), or "
                "with further axes."
            )
        if not self.training or self.variance == 0:
            return x
        flat = x.detach().flatten(1)
        flat = flat.to(torch.promote_types(x.dtype, torch.float32))
        noise = correlated(flat, flat.new_empty(len(x), len(x)).normal_(), torch.randn_like(flat))
        factor: Tensor = 1 + self.variance**0.5 * noise
        return x * factor.to(x.dtype).reshape(x.shape)

    def extra_repr(self) -> str:
        return f"variance={self.variance}"
