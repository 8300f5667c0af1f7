"""The filtration ``svr``: spectral neurons that overlap most are joined first."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate

import torch
from jaxtyping import Float, Int
from torch import Tensor

import topoloss
from topoloss_svr.network import spectral_graph
from topoloss_svr.overlaps import MOST_SIGMA

__all__ = ["SpectralFiltration"]


class SpectralFiltration(topoloss.Filtration):
    """``1 - a`` for spectral neurons of consecutive layers, where a is their squared overlap.

    A pipeline with this filtration takes weights: ``topoloss.attach(model, "svr/mst/t1")``.

    Parameters
    ----------
    sigma : float, optional
        An overlap that is not significant at this many standard deviations is taken as 0: its edge
        has the greatest value, 1, and no weight in the loss. So the edges that count are those of a
        minimum spanning forest of the significant edges. None counts all edges. If no edge is
        significant, :func:`topoloss.attach` warns that the penalty changes nothing.

    Notes
    -----
    All edges between consecutive layers are listed, so their number does not depend on the
    weights. :func:`topoloss_svr.overlaps` describes overlaps, repeated singular values and rank
    deficiency. In narrow layers not even an overlap of 1 is significant: see
    :func:`topoloss_svr.significance_threshold`.

    **Complexity.** The decompositions take O(outputs inputs min(outputs, inputs)) for each layer.
    There is an edge for each pair of spectral neurons in consecutive layers.

    **Precision.** Float32 weights are decomposed by the products of their rows or columns, in
    float64. This is at least as exact as an SVD in float32, in a fraction of its time. Float64
    weights are decomposed by an SVD.

    References
    ----------
    Meller and Berkouk, "Singular value representation: a new graph perspective on neural
    networks", PMLR 206 (2023).

    Examples
    --------
    >>> import torch, topoloss
    >>> reg = topoloss.pipeline(topoloss.filtration("svr", sigma=None), "mst", "t1")
    >>> reg.of_layers({"a": torch.diag(torch.tensor([3.0, 2.0])), "b": torch.tensor([[3.0, 4.0]])})
    tensor(-1.0000)
    """

    source = "weights"
    structure = "chain"

    def __init__(self, *, sigma: float | None = 3.0) -> None:
        super().__init__()
        if sigma is not None:
            topoloss.check_number("sigma", sigma, least=0, most=MOST_SIGMA, instead="None")
        self.sigma = sigma

    def vertices(self, weights: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Decompose the layers.

        Parameters
        ----------
        weights : dict of str to Tensor, shape (outputs, inputs, ...)
            By layer, in the order in which the layers follow one another.

        Returns
        -------
        tuple of Tensor
            The singular values of each layer, and the overlaps of each layer but the first, with 0
            in place of what is not significant.
        """
        if self.sigma is None:
            graph = spectral_graph(weights)
            return *graph.singular_values, *graph.overlaps
        graph = spectral_graph(weights, sigma=self.sigma)
        significant = (
            torch.where(a >= threshold, a, 0)
            for a, threshold in zip(graph.overlaps, graph.thresholds, strict=True)
        )
        return *graph.singular_values, *significant

    def edges(self, v: tuple[Tensor, ...]) -> tuple[int, Int[Tensor, "e 2"]]:
        layers, device = _Layers(v), v[0].device
        listed = []
        for before, after, a in zip(
            layers.starts[:-2], layers.starts[1:-1], layers.overlaps, strict=True
        ):
            later, earlier = (torch.arange(size, device=device) for size in a.shape)
            pairs = torch.cartesian_prod(after + later, before + earlier)
            listed.append(pairs.reshape(-1, 2).flip(1))
        return layers.starts[-1], torch.cat(listed)

    def edge_values(
        self, v: tuple[Tensor, ...], i: Int[Tensor, " e"], j: Int[Tensor, " e"]
    ) -> Float[Tensor, " e"]:
        values = 1 - _Layers(v).overlaps_at(i, j)
        # Rounding may give a negative value, which becomes 0 without losing its gradient.
        return values - values.detach().clamp(max=0)

    def edge_weights(
        self, v: tuple[Tensor, ...], i: Int[Tensor, " e"], j: Int[Tensor, " e"]
    ) -> Float[Tensor, " e"]:
        if self.sigma is None:
            return super().edge_weights(v, i, j)
        found = _Layers(v).overlaps_at(i, j).detach()
        return (found > 0).to(found.dtype)

    def extra_repr(self) -> str:
        return f"sigma={self.sigma}"


class _Layers:
    """What `vertices` returned, by layer."""

    def __init__(self, v: tuple[Tensor, ...]) -> None:
        count = len(v) // 2 + 1
        self.overlaps = v[count:]
        # Where the vertices of each layer begin, and where the last of them end.
        self.starts = list(accumulate((len(s) for s in v[:count]), initial=0))

    def layer_of(self, vertex: Int[Tensor, " e"]) -> Int[Tensor, " e"]:
        ends = torch.tensor(self.starts[1:], device=vertex.device)
        return torch.searchsorted(ends, vertex.contiguous(), right=True)

    def overlaps_at(self, i: Int[Tensor, " e"], j: Int[Tensor, " e"]) -> Float[Tensor, " e"]:
        layer = self.layer_of(i)
        places = list(accumulate((a.numel() for a in self.overlaps), initial=0))
        place, start, end = (
            torch.tensor(numbers, device=i.device)
            for numbers in (places[:-1], self.starts[:-2], self.starts[1:-1])
        )
        width = end - start
        flat = torch.cat([a.reshape(-1) for a in self.overlaps])
        column, row = i - start[layer], j - end[layer]
        return flat.index_select(0, place[layer] + row * width[layer] + column)
