"""A picture of the graph of spectral neurons."""

from __future__ import annotations

from typing import Any

import torch

import topoloss
from topoloss_svr.network import SpectralGraph

__all__ = ["plot"]


def plot(graph: SpectralGraph, ax: Any = None, *, most: int = 200) -> Any:
    """Draw spectral neurons by layer and singular value, and the significant edges.

    Parameters
    ----------
    graph : SpectralGraph
    ax : matplotlib Axes, optional
        By default a new one.
    most : int
        The largest number of significant edges drawn between two layers; the strongest are kept.

    Returns
    -------
    matplotlib Axes

    Notes
    -----
    Singular values are divided by the largest of their layer. The darker an edge, the larger its
    overlap.
    """
    if not isinstance(graph, SpectralGraph):
        raise topoloss.InputError(
            f"something of type {type(graph).__name__} was given; expected a graph, as "
            "topoloss_svr.spectral_graph(network) returns it."
        )
    with topoloss.needs_extra("plot"):
        import matplotlib.pyplot as plt
        from matplotlib.collections import LineCollection
    topoloss.check_number("most", most, whole=True, least=1)
    if ax is None:
        _, ax = plt.subplots(figsize=(1.5 + 1.5 * len(graph.layers), 4), layout="constrained")
    heights = [(s / s.amax().clamp(min=1e-30)).detach().cpu() for s in graph.singular_values]
    for k, (found, threshold) in enumerate(zip(graph.overlaps, graph.thresholds, strict=True)):
        a = found.detach().cpu()
        strongest = a.flatten().sort(descending=True)
        kept = int((strongest.values >= threshold).sum().clamp(max=most))
        later, earlier = torch.unravel_index(strongest.indices[:kept], a.shape)
        lines = [
            [(k, heights[k][m].item()), (k + 1, heights[k + 1][n].item())]
            for n, m in zip(later, earlier, strict=True)
        ]
        shades = [(0, 0, 0, a) for a in strongest.values[:kept].clamp(0.05, 1).tolist()]
        ax.add_collection(LineCollection(lines, colors=shades or "black", linewidths=0.8))
    for k, height in enumerate(heights):
        ax.plot([k] * len(height), height.tolist(), "o", markersize=3, zorder=3)
    ax.set(
        xticks=range(len(graph.layers)),
        xticklabels=graph.layers,
        xlabel="layer",
        ylabel="singular value / largest",
    )
    return ax
