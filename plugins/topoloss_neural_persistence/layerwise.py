"""Neural persistence: each layer as a bipartite graph of its own."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

import topoloss
from topoloss_neural_persistence.matrices import (
    Convolution,
    entries,
    largest_magnitude,
    matrices,
    norm_of_persistence,
    relative_to,
)
from topoloss_neural_persistence.trees import maximum_spanning_tree

__all__ = ["NeuralPersistence", "neural_persistence"]


def neural_persistence(
    weights: Mapping[str, Tensor],
    *,
    p: float = 2.0,
    normalised: bool = True,
    essential: bool = False,
    convolution: Convolution = "raise",
) -> dict[str, Tensor]:
    """Return the neural persistence of each layer, differentiable in the weights.

    Parameters
    ----------
    weights : dict of str to Tensor, shape (outputs, inputs)
        By layer. The weights are divided by the largest magnitude in all layers together.
    p, normalised, essential, convolution
        As for :class:`NeuralPersistence`.

    Returns
    -------
    dict of str to Tensor, shape ()

    Examples
    --------
    >>> import torch
    >>> from topoloss_neural_persistence import neural_persistence
    >>> weights = {"hidden": torch.tensor([[4.0, -2.0], [1.0, 3.0]])}
    >>> neural_persistence(weights, normalised=False)  # the deaths are 1, 3/4 and 1/2
    {'hidden': tensor(0.5590)}
    """
    _check_options(p, normalised, essential, convolution)
    by_layer = matrices(
        weights, convolution, "Pass convolution='patch', or choose other layers with layers=."
    )
    device = next(iter(by_layer.values())).device
    largest = largest_magnitude(
        torch.stack([largest_magnitude(w).to(device) for w in by_layer.values()])
    )
    found = {}
    for name, w in by_layer.items():
        tree = maximum_spanning_tree(w.detach().abs())
        deaths = relative_to(largest.to(w.device), entries(w, *tree).abs())
        found[name] = norm_of_persistence(deaths, float(p), normalised, essential)
    return found


class NeuralPersistence(topoloss.Regulariser):
    r"""Mean normalised neural persistence of the layers, from 0 to 1.

    Weights become :math:`w' = |w| / w_{max}`, with the largest magnitude of the whole network. Each
    layer is a graph between its inputs and its outputs. All vertices enter at 1, and edges follow
    in descending order of w'. Each edge of the maximum spanning tree gives a point (1, w'), and the
    layer's neural persistence is :math:`(\sum (1 - w')^p)^{1/p}`. It is large where few weights
    are much larger than all others.

    Parameters
    ----------
    p : float
        The norm, at least 1.
    normalised : bool
        Divide the value of each layer by :math:`(inputs + outputs - 1)^{1/p}`, its upper bound,
        and take the mean over layers. Otherwise the values of the layers are added up.
    essential : bool
        Count the component that never dies as a point (1, 0). The authors' code counts it,
        their definition does not. It adds 1 under the root, so the value may exceed 1.
    convolution : {"raise", "patch"}
        How convolutions are treated. ``"raise"`` refuses them. ``"patch"`` takes the graph between
        the output channels and the inputs of one patch, which is the layer unrolled for an image of
        the size of the kernel.

    Notes
    -----
    A positive weight of this penalty lowers neural persistence, and a negative one raises it.

    **Gradient.** It is exact wherever the trees and the largest weight are unique. Elsewhere it is
    the gradient of the first one found. Where all w' of a layer are 1 the norm has a kink; its
    gradient there is 0.

    **Zeros.** A weight of 0 is an edge that enters last. If all weights of the network are 0, so
    are all w', and the gradient is 0.

    **Complexity.** The search runs on the CPU. It takes O(inputs outputs) time for each layer, and
    O(inputs + outputs) memory besides the weights.

    References
    ----------
    Rieck, Togninalli, Bock, Moor, Horn, Gumbsch, Borgwardt, "Neural persistence: a complexity
    measure for deep neural networks using algebraic topology", ICLR 2019.

    Examples
    --------
    >>> import torch, topoloss
    >>> reg = topoloss.regulariser("neural-persistence")
    >>> reg.of_layers({"hidden": torch.tensor([[4.0, -2.0], [1.0, 3.0]])})
    tensor(0.3227)
    """

    source = "weights"

    def __init__(
        self,
        *,
        p: float = 2.0,
        normalised: bool = True,
        essential: bool = False,
        convolution: Convolution = "raise",
    ) -> None:
        super().__init__()
        _check_options(p, normalised, essential, convolution)
        self.p = p
        self.normalised = normalised
        self.essential = essential
        self.convolution = convolution

    def compute(self, weights: Mapping[str, Tensor]) -> Tensor:
        by_layer = neural_persistence(
            weights,
            p=self.p,
            normalised=self.normalised,
            essential=self.essential,
            convolution=self.convolution,
        )
        values = list(by_layer.values())
        together = torch.stack([value.to(values[0].device) for value in values])
        return together.mean() if self.normalised else together.sum()

    def extra_repr(self) -> str:
        return (
            f"p={self.p}, normalised={self.normalised}, essential={self.essential}, "
            f"convolution={self.convolution!r}"
        )


def _check_options(p: float, normalised: bool, essential: bool, convolution: Convolution) -> None:
    topoloss.check_number("p", p, least=1)
    topoloss.check_flag("normalised", normalised)
    topoloss.check_flag("essential", essential)
    topoloss.check_choice("convolution", convolution, ("raise", "patch"))
