"""Activations for the tests of regularisers, and the names of those that are shipped."""

import pytest
import torch
from offers import shipped_regularisers

# `densification` takes a list of tensors, one for each class.
ON_ACTIVATIONS = tuple(n for n in shipped_regularisers("activations") if n != "densification")
ON_PARAMETERS = shipped_regularisers("parameters")


def x_of(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def with_bad(value, *where, shape=(6, 5)):
    x = x_of(*shape)
    for index in where:
        x[index] = value
    return x


on_activations = pytest.mark.parametrize("name", ON_ACTIVATIONS)
# One layer by itself has the signature 0.
on_one_layer = pytest.mark.parametrize("name", [n for n in ON_ACTIVATIONS if n != "signature"])
# Those whose values do not change with the scale of any neuron, and that join layers side by side.
of_correlations = pytest.mark.parametrize("name", ["t1", "t2", "naive"])
on_parameters = pytest.mark.parametrize("name", ON_PARAMETERS)
