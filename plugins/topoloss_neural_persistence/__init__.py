"""Weights as graphs: ``neural-persistence`` and ``deep-graph-persistence``.

Neural persistence has a value for each layer, deep graph persistence one for the whole network.
"""

import topoloss
from topoloss_neural_persistence.deep import DeepGraphPersistence, deep_graph_persistence
from topoloss_neural_persistence.layerwise import NeuralPersistence, neural_persistence
from topoloss_neural_persistence.unrolling import unrolled

__all__ = [
    "DeepGraphPersistence",
    "NeuralPersistence",
    "deep_graph_persistence",
    "neural_persistence",
    "unrolled",
]


@topoloss.hookimpl
def topoloss_regularisers() -> dict[str, type[topoloss.Regulariser]]:
    return {
        "neural-persistence": NeuralPersistence,
        "deep-graph-persistence": DeepGraphPersistence,
    }
