"""The network itself as the graph: its neurons, joined by their weights, for topoloss."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

import topoloss

__all__ = ["WeightGraph", "t1_weight_graph"]


class WeightGraph(topoloss.Filtration):
    """Neurons of a chain of linear layers, joined by their weights: strong ones come first.

    Vertices are numbered: the inputs, then the neurons of each layer. A weight w is an edge with
    the value ``1 / (1 + |w|)``, in (0, 1].

    Notes
    -----
    **Gradient.** At a weight of 0 the absolute value has a kink; its gradient there is 0.

    **Complexity.** There are as many edges as weights.

    Examples
    --------
    >>> import torch, topoloss
    >>> weights = {"hidden": torch.tensor([[1.0, 3.0]]), "output": torch.tensor([[0.25]])}
    >>> topoloss.regulariser("t1-weight-graph").diagrams(weights)[0].deaths
    tensor([0.2500, 0.5000, 0.8000])
    """

    source = "weights"
    structure = "chain"

    def vertices(self, weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return all weights, and the edge of each as (later neuron, earlier neuron)."""
        first, edges = 0, []
        for (name, w), before in zip(weights.items(), (None, *weights.values()), strict=False):
            if w.ndim != 2 or (before is not None and w.shape[1] != len(before)):
                raise topoloss.InputError(
                    f"the weight of {name!r} has shape {tuple(w.shape)}; expected (outputs, "
                    "inputs) of a chain of linear layers, each with the outputs of the layer "
                    "before as inputs. Choose such layers with layers=."
                )
            earlier = torch.arange(first, first + w.shape[1], device=w.device)
            first += w.shape[1]
            later = torch.arange(first, first + w.shape[0], device=w.device)
            edges.append(torch.cartesian_prod(later, earlier))
        return torch.cat([w.flatten() for w in weights.values()]), torch.cat(edges)

    def edges(self, v: tuple[Tensor, Tensor]) -> tuple[int, Tensor]:
        _, edges = v
        return int(edges[-1, 0]) + 1, edges

    def edge_values(self, v: tuple[Tensor, Tensor], i: Tensor, j: Tensor) -> Tensor:
        # Edges are sorted by (later, earlier), so later * n + earlier ascends: search for it.
        n, edges = self.edges(v)
        place = torch.searchsorted(edges[:, 0] * n + edges[:, 1], i * n + j)
        return 1 / (1 + v[0][place].abs())


def t1_weight_graph() -> topoloss.Regulariser:
    """T1 of the tree of strongest weights: it weakens the weights that join the network."""
    return topoloss.pipeline(WeightGraph(), "mst", "t1")


@topoloss.hookimpl
def topoloss_regularisers() -> dict[str, object]:
    return {"t1-weight-graph": t1_weight_graph}
