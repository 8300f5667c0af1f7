"""The Euclidean filtration, ``euclidean``."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

import topoloss
from topoloss_plugins.scales import power_of_two


class Euclidean(topoloss.Filtration):
    """Euclidean distance between the activation vectors of neurons.

    Notes
    -----
    The distance has a kink where two vertices are equal; its derivatives of every order are 0
    there. Half-precision activations are promoted to float32.

    Examples
    --------
    >>> import torch, topoloss
    >>> reg = topoloss.pipeline("euclidean", "mst", "total-persistence")
    >>> reg(torch.tensor([[0.0, 3.0], [0.0, 4.0]]))
    tensor(5.)
    """

    order = "sq_dist_ascending"

    def vertices(self, x: Float[Tensor, "samples n"]) -> Float[Tensor, "n d"]:
        """Return the neurons' activation vectors, shape (n, samples)."""
        return x.T.to(torch.promote_types(x.dtype, torch.float32)).contiguous()

    def edge_values(
        self, v: Float[Tensor, "n d"], i: Int[Tensor, " e"], j: Int[Tensor, " e"]
    ) -> Float[Tensor, " e"]:
        difference = v.index_select(0, i) - v.index_select(0, j)
        # Scaled by the largest difference, so that squares neither under- nor overflow.
        largest = difference.detach().abs().amax(-1)
        same = largest == 0
        scale = power_of_two(largest)
        squares = (difference / scale[:, None]).square().sum(-1)
        return torch.where(same, 0, torch.where(same, 1, squares).sqrt() * scale)

    @torch.no_grad()
    def pairwise(self, v: Float[Tensor, "n d"]) -> Float[Tensor, "n n"]:
        # Scaled by the largest entry, so that squares do not overflow.
        scale = power_of_two(v.abs().amax())
        rows = v / scale
        # Differences, not a product: products lose half of the digits between close vertices.
        return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist") * scale


@topoloss.hookimpl
def topoloss_filtrations() -> dict[str, type[topoloss.Filtration]]:
    return {"euclidean": Euclidean}
