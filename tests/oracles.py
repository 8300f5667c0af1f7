"""Independent float64 answers: numpy and scipy only, nothing from the library.

Activations are (samples, neurons), as tensors or arrays of any floating dtype; they are
converted to float64 exactly before anything is computed.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from scipy.cluster.hierarchy import linkage
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import pdist, squareform


def as_float64(x):
    if isinstance(x, torch.Tensor):
        x = x.detach().double().numpy()
    return np.asarray(x, dtype=np.float64)


def correlations(x):
    """Pearson's r of all pairs; a neuron with one repeated value correlates 0, by definition."""
    x = as_float64(x)
    live = np.flatnonzero((x != x[0]).any(0))
    r = np.zeros((x.shape[1], x.shape[1]))
    if len(live):
        r[np.ix_(live, live)] = np.atleast_2d(np.corrcoef(x[:, live], rowvar=False))
    return r


def cosines(x):
    """Cosine of all pairs; a zero neuron has cosine 0 with everything, by definition."""
    x = as_float64(x)
    norm = np.linalg.norm(x, axis=0)
    unit = x / np.where(norm == 0, 1, norm)
    return unit.T @ unit


def dissimilarity(r):
    """``1 - |r|`` off the diagonal and 0 on it; what rounding made negative is 0."""
    d = np.clip(1 - np.abs(r), 0, None)
    np.fill_diagonal(d, 0)
    return d


def distances(x):
    return squareform(pdist(as_float64(x).T))


MATRICES = {
    "correlation": lambda x: dissimilarity(correlations(x)),
    "cosine": lambda x: dissimilarity(cosines(x)),
    "euclidean": distances,
}


def h0_deaths(matrix):
    """Ascending deaths of dimension 0: the heights of single linkage."""
    if len(matrix) < 2:
        return np.zeros(0)
    return np.sort(linkage(squareform(matrix, checks=False), "single")[:, 2])


def ripser_deaths(matrix):
    """The same by ripser, in float32; the zero deaths that it drops are put back."""
    with warnings.catch_warnings():
        # It warns that a data set might be transposed when it has few points.
        warnings.simplefilter("ignore")
        from ripser import ripser

        points = ripser(matrix, distance_matrix=True, maxdim=0)["dgms"][0]
    finite = np.sort(points[np.isfinite(points[:, 1]), 1])
    return np.concatenate((np.zeros(len(matrix) - 1 - len(finite)), finite))


def spanning_tree(matrix):
    """Edges (n - 1, 2) and total weight of a minimum spanning tree, by scipy."""
    # scipy takes a zero weight for a missing edge; a shift changes no tree.
    shifted = matrix + 1 - np.eye(len(matrix))
    tree = minimum_spanning_tree(np.triu(shifted)).tocoo()
    return np.stack((tree.row, tree.col), 1), tree.data.sum() - len(tree.data)


def t1(deaths):
    return -np.sum(deaths)


def t2(deaths, alpha=0.5, beta=0.5):
    # numpy's std divides by the number of deaths, as the paper does.
    return -alpha * np.mean(deaths) + beta * np.std(deaths) if len(deaths) else 0.0


def naive(r):
    """Mean of ``|r|`` over the pairs of distinct neurons; 0 where there are none."""
    pairs = np.abs(r)[np.triu_indices(len(r), 1)]
    return pairs.mean() if len(pairs) else 0.0
