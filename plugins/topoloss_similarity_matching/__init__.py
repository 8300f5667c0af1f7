"""Similarity matching: a penalty on activations, ``similarity-matching``, and a local layer.

The penalty needs gradients; the layer learns the same by Hebbian and anti-Hebbian changes.
"""

import topoloss
from topoloss_similarity_matching.costs import least_similarity_cost, similarity_cost
from topoloss_similarity_matching.hebbian import HebbianLayer
from topoloss_similarity_matching.penalty import SimilarityMatching

__all__ = ["HebbianLayer", "SimilarityMatching", "least_similarity_cost", "similarity_cost"]


@topoloss.hookimpl
def topoloss_regularisers() -> dict[str, type[topoloss.Regulariser]]:
    return {"similarity-matching": SimilarityMatching}
