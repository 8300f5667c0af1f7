"""Deep graph persistence: the network as one bipartite graph of its inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate, pairwise

import torch
from jaxtyping import Float
from topoloss_plugins.scales import power_of_two
from torch import Tensor

import topoloss
from topoloss_neural_persistence.matrices import (
    entries,
    largest_magnitude,
    matrices,
    norm_of_persistence,
    relative_to,
)
from topoloss_neural_persistence.products import max_min_product
from topoloss_neural_persistence.trees import maximum_spanning_tree

__all__ = ["DeepGraphPersistence", "deep_graph_persistence"]


def deep_graph_persistence(
    weights: Mapping[str, Tensor],
    *,
    p: float = 2.0,
    normalised: bool = True,
    essential: bool = False,
    rescale: bool = False,
) -> Tensor:
    """Return the deep graph persistence of a chain of layers, differentiable in the weights.

    Parameters
    ----------
    weights : dict of str to Tensor, shape (outputs, inputs)
        By layer, in the order in which the layers follow one another.
    p, normalised, essential, rescale
        As for :class:`DeepGraphPersistence`.

    Returns
    -------
    Tensor, shape ()

    Examples
    --------
    >>> import torch
    >>> from topoloss_neural_persistence import deep_graph_persistence
    >>> weights = {"a": torch.tensor([[3.0, 1.0], [1.0, -1.0]]), "b": torch.tensor([[2.0, 0.0]])}
    >>> deep_graph_persistence(weights)
    tensor(0.2929)
    """
    _check_options(p, normalised, essential, rescale)
    layers = matrices(weights, "raise", "Choose fully connected layers alone with layers=.")
    _check_chain(layers)
    device = next(iter(layers.values())).device
    scores = [_standard_scores(w.to(device)) for w in layers.values()]
    where = topoloss.outside(_bottlenecks, *(z.detach() for z in scores))
    # From here on only the bottlenecks are evaluated, under autograd.
    deaths = torch.zeros_like(where[0], dtype=scores[0].dtype)
    for layer, z in enumerate(scores):
        here = where[0] == layer
        row, column = (torch.where(here, index, 0) for index in where[1:])
        deaths = torch.where(here, entries(z, column, row), deaths)
    largest = torch.stack([largest_magnitude(z) for z in scores])
    deaths = relative_to(largest_magnitude(deaths if rescale else largest), deaths)
    return norm_of_persistence(deaths, float(p), normalised, essential)


class DeepGraphPersistence(topoloss.Regulariser):
    r"""Neural persistence of the whole network, from 0 to 1.

    Weights become :math:`z = |w - mean| / std` within each layer, divided by the largest z of the
    network. A path from an input to an output of the network is as strong as its weakest edge. In
    the bipartite graph of the network's inputs and outputs, each edge has the strength of the
    strongest path between its ends. The value is the neural persistence of this graph.

    Parameters
    ----------
    p, normalised, essential
        As for ``neural-persistence``; the vertices are the network's inputs and outputs.
    rescale : bool
        Divide the strengths by the largest of them, instead of by the largest z.

    Notes
    -----
    Layers must form a chain. If they do not, for example because of a skip connection,
    :func:`topoloss.attach` raises an error that names the layer. Only the weights of the layers and
    their order count, not the biases, normalisations and activations between them. Convolutions are
    refused, because the paper does not define them; their :func:`unrolled` matrices are accepted.

    **Gradient.** Each strength is the z of one weight, its bottleneck. The gradient is exact
    wherever the bottlenecks, the tree and the largest z are unique. Elsewhere it is the gradient of
    the first one found.

    **Constant layers.** If all weights of a layer are equal, their std is 0. Then z and its
    gradient are 0 in this layer, and all paths through the layer have strength 0.

    **Complexity.** The search runs on the CPU. It takes O(inputs hidden outputs) time for each
    product of two layers, and memory for the strengths between the network's inputs and each layer.

    References
    ----------
    Girrbach, Christensen, Winther, Akata, Koepke, "Addressing caveats of neural persistence with
    deep graph persistence", TMLR 2023.

    Examples
    --------
    >>> import torch, topoloss
    >>> reg = topoloss.regulariser("deep-graph-persistence")
    >>> weights = {"a": torch.tensor([[3.0, 1.0], [1.0, -1.0]]), "b": torch.tensor([[2.0, 0.0]])}
    >>> reg.of_layers(weights)
    tensor(0.2929)
    """

    source = "weights"
    structure = "chain"

    def __init__(
        self,
        *,
        p: float = 2.0,
        normalised: bool = True,
        essential: bool = False,
        rescale: bool = False,
    ) -> None:
        super().__init__()
        _check_options(p, normalised, essential, rescale)
        self.p = p
        self.normalised = normalised
        self.essential = essential
        self.rescale = rescale

    def compute(self, weights: Mapping[str, Tensor]) -> Tensor:
        return deep_graph_persistence(
            weights,
            p=self.p,
            normalised=self.normalised,
            essential=self.essential,
            rescale=self.rescale,
        )

    def extra_repr(self) -> str:
        return (
            f"p={self.p}, normalised={self.normalised}, essential={self.essential}, "
            f"rescale={self.rescale}"
        )


def _check_options(p: float, normalised: bool, essential: bool, rescale: bool) -> None:
    topoloss.check_number("p", p, least=1)
    topoloss.check_flag("normalised", normalised)
    topoloss.check_flag("essential", essential)
    topoloss.check_flag("rescale", rescale)


def _check_chain(layers: Mapping[str, Tensor]) -> None:
    named = list(layers.items())
    for (before, first), (name, second) in pairwise(named):
        if second.shape[1] != first.shape[0]:
            raise topoloss.InputError(
                f"layer {name!r} has {second.shape[1]} inputs and follows layer {before!r} of "
                f"{first.shape[0]} outputs; expected as many. Give the layers in the order in "
                "which they follow one another, or a part of the network that is a chain."
            )


def _standard_scores(w: Float[Tensor, "outputs inputs"]) -> Float[Tensor, "outputs inputs"]:
    """Return |w - mean| / std, and 0 where all weights are equal."""
    fixed = w.detach()
    constant = fixed.amax() == fixed.amin()
    scaled = torch.where(constant, 0, w) / power_of_two(fixed.abs().amax())
    centred = scaled - scaled.mean()
    variance = torch.where(constant, 1, centred.square().mean())
    return centred.abs() * variance.rsqrt()


def _bottlenecks(*scores: Tensor) -> tuple[Tensor, ...]:
    """Return the layer, input and output of the bottleneck of each edge of the tree."""
    dense = [z.mT.cpu() for z in scores]
    strengths = list(accumulate(dense, max_min_product))
    i, j = maximum_spanning_tree(strengths[-1])
    layer, row, column = torch.zeros_like(i), i, j
    open_still = torch.ones_like(i, dtype=torch.bool)
    for k in range(len(dense) - 1, 0, -1):
        # The strongest path from i to j: its strength before layer k, and its edge in layer k.
        before, last = strengths[k - 1].index_select(0, i), dense[k].index_select(1, j).mT
        via = torch.minimum(before, last).argmax(1)
        path, edge = (x.gather(1, via[:, None]).squeeze(1) for x in (before, last))
        found = open_still & (edge <= path)
        layer = torch.where(found, k, layer)
        row, column = torch.where(found, via, row), torch.where(found, j, column)
        open_still, j = open_still & ~found, via
    column = torch.where(open_still, j, column)
    return tuple(index.to(scores[0].device) for index in (layer, row, column))
