"""Join samples at a chosen distance: ``beta-connectivity`` and ``densification``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor

import topoloss


class BetaDeviation(topoloss.Loss):
    r"""How far deaths are from beta, :math:`\sum_{d \in D} |d - \beta|` in dimension 0.

    Parameters
    ----------
    beta : float
        The desired death, at least 0.

    Notes
    -----
    Where a death equals beta, its gradient is 0. Where edges tie, the gradient is that of the tree
    that the engine's tie rule picks.

    References
    ----------
    Hofer, Kwitt, Dixit, Niethammer, "Connectivity-optimized representation learning via
    persistent homology", PMLR 97 (2019), where beta is called eta.

    Examples
    --------
    >>> import torch, topoloss
    >>> loss = topoloss.loss("beta-connectivity", beta=3.0)
    >>> reg = topoloss.pipeline("euclidean", "mst", loss)
    >>> reg(torch.tensor([[0.0, 1.0, 5.0]]))  # |1 - 3| + |4 - 3|
    tensor(3.)
    """

    def __init__(self, *, beta: float = 1.0) -> None:
        super().__init__()
        topoloss.check_number("beta", beta, least=0)
        self.beta = beta

    def forward(self, diagrams: Sequence[topoloss.Diagram]) -> Tensor:
        d = diagrams[0]
        return (d.weights * (d.deaths - self.beta).abs()).sum()

    def extra_repr(self) -> str:
        return f"beta={self.beta}"


class BetaConnectivity(topoloss.Regulariser):
    r"""Joins the *samples* of a batch at distances near beta, :math:`\sum_{d \in D} |d - \beta|`.

    The samples are the vertices, D the deaths in dimension 0 of the distances between their
    activations. Minimising the sum makes all samples one component at a scale near beta, with few
    of them nearer to each other.

    Parameters
    ----------
    beta : float
        The desired death, at least 0, in the units of the activations.
    filtration, persistence
        Names or instances: the distance between two samples, and what finds the tree.
    on_nonfinite, check_finite
        See :class:`topoloss.Regulariser`.

    Notes
    -----
    The sum has one term fewer than there are samples, so its useful weight depends on the size of
    the batch. One sample has no deaths: the value is 0. Gradients and ties are as for the loss of
    this name.

    References
    ----------
    Hofer, Kwitt, Dixit, Niethammer, "Connectivity-optimized representation learning via
    persistent homology", PMLR 97 (2019), where beta is called eta.

    Examples
    --------
    >>> import torch, topoloss
    >>> reg = topoloss.regulariser("beta-connectivity", beta=3.0)
    >>> reg(torch.tensor([[0.0], [1.0], [5.0]]))  # three samples of one neuron: |1 - 3| + |4 - 3|
    tensor(3.)
    """

    def __init__(
        self,
        *,
        beta: float = 1.0,
        filtration: str | topoloss.Filtration = "euclidean",
        persistence: str | topoloss.Persistence = "mst",
        on_nonfinite: Literal["raise", "skip"] = "raise",
        check_finite: bool | None = None,
    ) -> None:
        super().__init__(on_nonfinite=on_nonfinite, check_finite=check_finite)
        loss = topoloss.loss("beta-connectivity", beta=beta)
        self.pipeline = topoloss.pipeline(filtration, persistence, loss)

    @property
    def vmappable(self) -> bool:
        vmappable: bool = self.pipeline.vmappable
        return vmappable

    def compute(self, x: Float[Tensor, "samples n"]) -> Float[Tensor, ""]:
        value: Tensor = self.pipeline.compute(x.mT)
        return value


class Densification(BetaConnectivity):
    r"""`beta-connectivity` within each class of samples.

    Pass a list with one tensor (samples, neurons) for each class. The result has one value for each
    class; their sum is the penalty.

    Parameters
    ----------
    beta : float
        The desired death, at least 0, in the units of the activations.
    filtration, persistence
        Names or instances: the distance between two samples, and what finds the tree.
    on_nonfinite, check_finite
        See :class:`topoloss.Regulariser`.

    Notes
    -----
    :func:`topoloss.attach` has no labels and refuses this regulariser; take the activations from
    :func:`topoloss.observe`. Gradients and ties are as for the loss `beta-connectivity`.

    References
    ----------
    Hofer, Graf, Niethammer, Kwitt, "Topologically densified distributions", PMLR 119 (2020).

    Examples
    --------
    >>> import torch, topoloss
    >>> z = torch.tensor([[0.0], [7.0], [1.0], [9.0]])
    >>> labels = torch.tensor([0, 1, 0, 1])
    >>> of_classes = [z[labels == label] for label in labels.unique()]
    >>> topoloss.regulariser("densification", beta=3.0)(of_classes)  # |1 - 3|, |2 - 3|
    tensor([2., 1.])
    """

    labels = True


@topoloss.hookimpl
def topoloss_losses() -> dict[str, type[topoloss.Loss]]:
    return {"beta-connectivity": BetaDeviation}


@topoloss.hookimpl
def topoloss_regularisers() -> dict[str, type[topoloss.Regulariser]]:
    return {"beta-connectivity": BetaConnectivity, "densification": Densification}
