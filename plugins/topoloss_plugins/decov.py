"""The regulariser of "Reducing overfitting ... by decorrelating representations": ``decov``."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

import topoloss
from topoloss_plugins.covariances import LayerByLayer, covariances, off_diagonal_squares


class DeCov(LayerByLayer):
    r"""Half the sum of squared covariances of distinct neurons of a layer.

    For N samples with activations :math:`h^n` and their mean :math:`\mu`,

    .. math::
        C_{ij} = \frac1N \sum_n (h^n_i - \mu_i)(h^n_j - \mu_j), \qquad
        \mathcal{L}_{DeCov} = \tfrac12 (\|C\|_F^2 - \|\mathrm{diag}(C)\|_2^2)

    which are equations (1) and (2) of the paper. For a network, the value is the sum over its
    layers.

    Parameters
    ----------
    on_nonfinite, check_finite
        See :class:`topoloss.Regulariser`.

    Notes
    -----
    It grows as the fourth power of the activations, so it also shrinks them: compare it with
    ``variance``, which does nothing else. The gradient passes through the mean as well, as
    in the paper's equation (3). It takes O(samples n^2) time and O(n^2) memory in each layer.

    References
    ----------
    Cogswell, Ahmed, Girshick, Zitnick, Batra, "Reducing overfitting in deep networks by
    decorrelating representations", ICLR 2016, arXiv 1511.06068.

    Examples
    --------
    >>> import torch, topoloss
    >>> x = torch.tensor([[1.0, 2.0], [-1.0, -2.0]])  # variances 1 and 4, covariance 2
    >>> topoloss.regulariser("decov")(x)
    tensor(4.)
    """

    def compute(self, x: Float[Tensor, "samples n"]) -> Float[Tensor, ""]:
        return off_diagonal_squares(covariances(x)) / 2


@topoloss.hookimpl
def topoloss_regularisers() -> dict[str, type[topoloss.Regulariser]]:
    return {"decov": DeCov}
