"""Imitate the defects of the authors' code.

`Defects` in a setup says which of them a run imitates. The functions here apply them: one to the
data, one to the regulariser.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from topoloss.compare.data import Dataset
from topoloss.compare.records import Defects
from topoloss.errors import InputError
from topoloss.pipelines import Pipeline
from topoloss.regularisers import Activations, Regulariser

__all__ = ["OffWhenDegenerate", "apply_to_data", "apply_to_regulariser", "fraction_off"]


def apply_to_data(defects: Defects, data: Dataset) -> Dataset:
    """Return the data that the authors' code trains on.

    With ``divide_twice`` pixels are divided by their range a second time.

    Raises
    ------
    InputError
        If pixels are to be divided, but the data are not images.
    """
    if not defects.divide_twice:
        return data
    if data.pixel_range == 1:
        raise InputError(
            "these data are not images, so there are no pixels to divide twice; choose another "
            "protocol, or give the Dataset a pixel_range."
        )
    return replace(data, x=data.x / data.pixel_range)


def apply_to_regulariser(defects: Defects, regulariser: Regulariser) -> Regulariser:
    """Return the regulariser that the authors' code trains with.

    With ``off_when_degenerate`` a regulariser of activations becomes an `OffWhenDegenerate`.
    """
    if defects.off_when_degenerate and regulariser.source == "activations":
        return OffWhenDegenerate(regulariser)
    return regulariser


def fraction_off(regulariser: Regulariser) -> float:
    """The fraction of batches so far in which a regulariser was switched off."""
    if isinstance(regulariser, OffWhenDegenerate) and regulariser.batches:
        return regulariser.off / regulariser.batches
    return 0.0


class OffWhenDegenerate(Regulariser):
    """A regulariser that is zero, without a gradient, in every degenerate batch.

    A batch is degenerate if a neuron is constant in it or, for a regulariser that has
    diagrams, if the distance between two neurons is 0. The authors' code then replaces a NaN
    gradient, or a diagram that lacks a death, by zero.

    Parameters
    ----------
    regulariser : Regulariser
        A regulariser of activations.

    Attributes
    ----------
    batches, off : int
        Batches seen so far, and degenerate ones among them.

    Examples
    --------
    >>> import torch, topoloss
    >>> from topoloss.compare.paper.defects import OffWhenDegenerate
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
        # The smallest of all distances is an edge of the spanning tree.
        return bool((self.regulariser.diagrams(x)[0].deaths <= 0).any())
