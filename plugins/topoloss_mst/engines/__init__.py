"""Engines: ``from_features(v, order)`` and ``from_matrix(values)``, without gradients.

They take a batch, (problems, n, d) or (problems, n, n), and return int64 edges (problems,
n - 1, 2), in any order.
"""
