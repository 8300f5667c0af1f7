"""The loss stage: persistence diagrams to one number."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from topoloss.diagrams import Diagram

__all__ = ["Loss"]


class Loss(nn.Module):
    """Turn the persistence diagrams of one element of a batch into one number.

    Subclasses implement ``forward``, which sees no batch: the core maps it over the elements with
    :func:`torch.vmap`, so it must not branch on the values of tensors.

    Attributes
    ----------
    surrogate_gradient : bool
        As for :class:`Filtration`.

    Notes
    -----
    ``diagram.weights`` says how much each point counts (1, or 0 for points that the
    filtration excludes). A loss that ignores it ignores the exclusion.

    Examples
    --------
    >>> import torch, topoloss
    >>> class SquaredLives(topoloss.Loss):
    ...     def forward(self, diagrams):
    ...         d = diagrams[0]
    ...         return (d.weights * d.lifetimes.square()).sum()
    >>> reg = topoloss.pipeline("euclidean", "mst", SquaredLives())
    >>> reg(torch.tensor([[0.0, 1.0, 5.0]]))
    tensor(17.)
    """

    surrogate_gradient: bool = False

    # The signature of nn.Module takes any arguments; a stage has only those that its class adds.
    def __init__(self) -> None:
        super().__init__()

    def forward(self, diagrams: Sequence[Diagram]) -> Tensor:
        """Value the diagrams, one for each homology dimension, lowest first.

        Parameters
        ----------
        diagrams : sequence of Diagram
            Diagrams of one element of a batch: ``deaths`` has shape (points,).

        Returns
        -------
        Tensor, shape ()
        """
        raise NotImplementedError(f"{type(self).__name__} must implement forward(diagrams)")
