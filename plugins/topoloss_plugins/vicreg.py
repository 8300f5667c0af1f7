"""The terms of VICReg that need one view of the data, ``vicreg``."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

import topoloss
from topoloss_plugins.covariances import (
    LayerByLayer,
    covariances,
    off_diagonal_squares,
    variances,
)


class VICReg(LayerByLayer):
    r"""Small covariances, and standard deviations of at least gamma, in each layer.

    For n samples of d neurons the value is :math:`\mu\, v + \nu\, c`, with the variance term of
    equations (1) and (2) and the covariance term of equations (3) and (4) of the paper:

    .. math::
        v = \frac1d \sum_j \max(0, \gamma - \sqrt{\mathrm{Var}_j + \epsilon}), \qquad
        c = \frac1d \sum_{i \neq j} C_{ij}^2

    Variances and covariances C are divided by n - 1. The paper's third term, invariance, is left
    out, as there are no two views of each sample to compare. For a network, the value is the sum
    over its layers.

    Parameters
    ----------
    mu, nu : float
        Weights of the variance term and of the covariance term, at least 0. The paper takes 25 and
        1.
    gamma : float
        The desired least standard deviation, above 0.
    eps : float
        Added to variances, so that the gradient of the root is finite; above 0.
    on_nonfinite, check_finite
        See :class:`topoloss.Regulariser`.

    Notes
    -----
    The variance term has a kink where a standard deviation is gamma; its gradient there is 0.
    It takes O(samples n^2) time and O(n^2) memory in each layer.

    References
    ----------
    Bardes, Ponce, LeCun, "VICReg: variance-invariance-covariance regularization for
    self-supervised learning", ICLR 2022, arXiv 2105.04906.

    Examples
    --------
    >>> import torch, topoloss
    >>> x = torch.tensor([[1.0, 2.0], [-1.0, -2.0]])  # variances 2 and 8, covariance 4
    >>> topoloss.regulariser("vicreg")(x)
    tensor(16.)
    """

    def __init__(
        self,
        *,
        mu: float = 25.0,
        nu: float = 1.0,
        gamma: float = 1.0,
        eps: float = 1e-4,
        on_nonfinite: Literal["raise", "skip"] = "raise",
        check_finite: bool | None = None,
    ) -> None:
        super().__init__(on_nonfinite=on_nonfinite, check_finite=check_finite)
        topoloss.check_number("mu", mu, least=0)
        topoloss.check_number("nu", nu, least=0)
        topoloss.check_number("gamma", gamma, above=0)
        topoloss.check_number("eps", eps, above=0)
        self.mu, self.nu, self.gamma, self.eps = mu, nu, gamma, eps

    def compute(self, x: Float[Tensor, "samples n"]) -> Float[Tensor, ""]:
        c = covariances(x, degrees=1)
        deviations = (variances(x, degrees=1) + self.eps).sqrt()
        variance = (self.gamma - deviations).relu().mean()
        covariance = off_diagonal_squares(c) / len(c)
        return self.mu * variance + self.nu * covariance

    def extra_repr(self) -> str:
        return f"mu={self.mu}, nu={self.nu}, gamma={self.gamma}, eps={self.eps}"


@topoloss.hookimpl
def topoloss_regularisers() -> dict[str, type[topoloss.Regulariser]]:
    return {"vicreg": VICReg}
