"""Backends: each has ``from_features(v, order)`` and ``from_matrix(values)``, without gradients.

These take a batch, (batch, n, d) or (batch, n, n), and return int64 edges (batch, n - 1, 2), in any
order. Only numba has ``from_edges(n, edges, values)``, which takes no batch and returns ascending
indices of rows of the edges, and ``from_features_shared(v, order, processes)``, whose search the
processes of a group share.
"""
