"""What the authors' code does in degenerate batches, as a switch of the experiment."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from topoloss.regularisers import Activations, Pipeline, Regulariser

__all__ = ["OffWhenDegenerate"]


class OffWhenDegenerate(Regulariser):
    """A regulariser that is zero, without a gradient, in every degenerate batch.

    A batch is degenerate if a neuron is constant in it or, for a regulariser that has
    diagrams, if two neurons have no positive distance. The authors' code then replaces a NaN
    gradient, or a diagram that lacks a death, by zero.

    Parameters
    ----------
    regulariser : Regulariser
        One of activations.

    Attributes
    ----------
    batches, off : int
        Batches seen so far, and degenerate ones among them.

    Examples
    --------
    >>> import torch, topoloss
    >>> from topoloss.compare.degenerate import OffWhenDegenerate
    >>> faithful = OffWhenDegenerate(topoloss.regulariser("t1"))
    >>> x = torch.eye(4)
    >>> x[:, 2] = 0  # a dead neuron
    >>> float(faithful(x)), faithful.off
    (0.0, 1)
    """

    def __init__(self, regulariser: Regulariser) -> None:
        super().__init__()
        self.regulariser = regulariser
        self.batches = self.off = 0

    @property
    def vmappable(self) -> bool:
        return False

    def compute(self, x: Float[Tensor, "samples n"]) -> Float[Tensor, ""]:
        self.batches += 1
        if self._degenerate(x.detach()):
            self.off += 1
            return x.new_zeros(())
        value: Tensor = self.regulariser(x)
        return value

    def diagrams(self, given: Activations) -> Any:
        return self.regulariser.diagrams(given)

    def _degenerate(self, x: Float[Tensor, "samples n"]) -> bool:
        if (x == x[0]).all(0).any():
            return True
        if not isinstance(self.regulariser, Pipeline):
            return False
        # The least distance of all is an edge of the spanning tree.
        return bool((self.regulariser.diagrams(x)[0].deaths <= 0).any())
