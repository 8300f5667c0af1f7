"""Samplers: which neurons of a layer take part in the regulariser."""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Sampler"]


class Sampler(ABC):
    """Choose neurons of one layer. The last layer is always taken whole, without asking.

    Examples
    --------
    >>> import torch, topoloss
    >>> class EveryOther(topoloss.Sampler):
    ...     def select(self, x):
    ...         return torch.arange(0, x.shape[1], 2, device=x.device)
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> penalty = topoloss.attach(model, "t1", sampler=EveryOther())
    >>> _ = model(torch.randn(16, 3))
    >>> penalty.neurons
    {'0': tensor([0, 2, 4, 6]), '2': tensor([0, 1])}
    """

    @abstractmethod
    def select(self, x: Float[Tensor, "samples n"]) -> Int[Tensor, " k"]:
        """Return the indices, ascending, of the chosen neurons.

        Parameters
        ----------
        x : Tensor, shape (samples, n)
            Activations of one layer, without gradients.

        Returns
        -------
        Tensor of int64, shape (k,)
        """
