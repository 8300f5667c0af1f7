"""Measure how alike the neurons of a network are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from topoloss import components
from topoloss.attaching import observe
from topoloss.compare.records import DEATH_BINS, Neurons, Protocol
from topoloss.errors import InputError
from topoloss.regularisers import side_by_side

__all__ = ["AT_ONCE", "measure"]

# Number of samples that a network evaluates in one pass.
AT_ONCE = 1024


@torch.no_grad()
def measure(model: nn.Module, x: Tensor, protocol: Protocol) -> Neurons:
    """Measure the neurons that a protocol's regulariser sees, in evaluation mode.

    Parameters
    ----------
    model : Module
        Left in evaluation mode.
    x : Tensor, shape (samples, ...)
        Inputs; the first 1024 are used.
    protocol : Protocol
        Its ``layers`` and ``fraction`` choose the neurons.

    Raises
    ------
    InputError
        If only one neuron is chosen.

    Examples
    --------
    >>> import torch
    >>> from topoloss.compare.neurons import measure
    >>> from topoloss.compare.records import Protocol
    >>> twins = torch.nn.Linear(1, 2)
    >>> measure(twins, torch.rand(8, 1), Protocol()).median < 1e-6
    True
    """
    model.eval()
    with observe(
        model, layers=protocol.layers, sampler="importance", fraction=protocol.fraction
    ) as seen:
        model(x[:AT_ONCE])
        activations = side_by_side(seen.activations())
    if activations.shape[1] < 2:
        raise InputError("the network has one neuron to measure, and no other to compare it with.")
    deaths: Tensor = components.regulariser("t1").diagrams(activations)[0].deaths
    vectors: Tensor = components.filtration("correlation").vertices(activations)
    return Neurons(
        deaths=tuple(int(n) for n in deaths.float().histc(DEATH_BINS, 0, 1)),
        lowest=deaths.min().item(),
        median=deaths.median().item(),
        highest=deaths.max().item(),
        correlation=components.regulariser("naive")(activations).item(),
        constant=int((vectors == 0).all(1).sum()),
    )
