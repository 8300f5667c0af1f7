"""The products of all pairs of neurons, forward: a lower bound for whatever computes them."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.contestants import Step

# Entries of the product that are held at once, so that a million neurons fit into memory.
_ENTRIES = 1 << 30


def float32_product(x: Tensor) -> Step:
    return _product(x.detach().T.contiguous())


def half_product(x: Tensor) -> Step:
    """Return a step that multiplies in half precision, on tensor cores."""
    return _product(x.detach().T.contiguous().half())


def _product(v: Tensor) -> Step:
    block = min(len(v), max(1, _ENTRIES // len(v)))
    product = torch.empty(block, len(v), dtype=v.dtype, device=v.device)

    def step() -> Tensor:
        for rows in v.split(block):
            torch.mm(rows, v.T, out=product[: len(rows)])
        return product

    return step
