"""Activations for the tests of regularisers, and the names of those that are shipped."""

import pytest
import torch

ON_ACTIVATIONS = ("t1", "t2", "naive")
ON_PARAMETERS = ("l1", "l2", "none")


def x_of(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def with_bad(value, *where, shape=(6, 5)):
    x = x_of(*shape)
    for index in where:
        x[index] = value
    return x


on_activations = pytest.mark.parametrize("name", ON_ACTIVATIONS)
on_parameters = pytest.mark.parametrize("name", ON_PARAMETERS)
