"""Engines: ``from_features(v, order)``, ``from_matrix(values)``, one problem to n - 1 edges."""
