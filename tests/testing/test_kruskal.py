"""The kit's spanning forest, on values that have no place in an order."""

import torch

from topoloss.testing.kruskal import spanning_forest


def test_edges_of_value_nan_come_last():
    edges = torch.tensor([[0, 1], [1, 2], [0, 2], [2, 3]])
    values = torch.tensor([torch.nan, 1.0, 2.0, torch.nan])
    assert spanning_forest(4, edges, values).tolist() == [1, 2, 3]
