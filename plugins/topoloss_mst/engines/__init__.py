"""Engines: ``from_features(v, order)`` and ``from_matrix(values)``, each one problem to n - 1 edges."""
