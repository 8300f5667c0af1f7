"""Singular value representation: the graph of a network's spectral neurons, ``svr``.

The functions of this package give the matrix of squared overlaps between the singular vectors of
two layers, the threshold of a significant overlap, the graph of a whole network, and a plot.
"""

import topoloss
from topoloss_svr.filtration import SpectralFiltration
from topoloss_svr.network import SpectralGraph, sequential_weights, spectral_graph
from topoloss_svr.overlaps import overlaps, significance_threshold
from topoloss_svr.plotting import plot

__all__ = [
    "SpectralFiltration",
    "SpectralGraph",
    "overlaps",
    "plot",
    "sequential_weights",
    "significance_threshold",
    "spectral_graph",
]


@topoloss.hookimpl
def topoloss_filtrations() -> dict[str, type[topoloss.Filtration]]:
    return {"svr": SpectralFiltration}
