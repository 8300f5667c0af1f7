"""Exact spanning trees on GPUs: Boruvka's algorithm on tiles of a product that is never stored.

Nothing is read back while it runs, so that it can be captured as a CUDA graph.
"""

from __future__ import annotations

import torch
import triton
from jaxtyping import Float
from torch import Tensor

import topoloss
from topoloss_mst.backends.triton_backend import kernels
from topoloss_mst.backends.triton_backend.boruvka import minimum_trees
from topoloss_mst.backends.triton_backend.tiles import MANY, Features, Matrix

# Up to so many pairs, of the whole batch together, are multiplied once and kept (64 MiB);
# beyond that every round multiplies again.
KEPT_PAIRS = 1 << 24


def from_features(
    v: Float[Tensor, "batch n d"], order: str, kept_pairs: int = KEPT_PAIRS, many: int = MANY
) -> Tensor:
    """Edges, which are the same whatever is kept and from how many vertices on tiles are large."""
    _check_device(v)
    # A kernel runs on the current device.
    with torch.cuda.device_of(v):  # type: ignore[no-untyped-call]
        features = Features(v, order, many)
        few = features.batch * features.n**2 <= kept_pairs
        return minimum_trees(Matrix(features.values()) if few else features)


def from_matrix(values: Float[Tensor, "batch n n"]) -> Tensor:
    _check_device(values)
    with torch.cuda.device_of(values):  # type: ignore[no-untyped-call]
        return minimum_trees(Matrix(values))


def _check_device(x: Tensor) -> None:
    interpreted = not isinstance(kernels.collect, triton.JITFunction)
    if x.device.type == "cpu" and not interpreted:
        raise topoloss.OptionError(
            "backend='triton' runs on GPUs and was given a tensor on the CPU; use "
            "backend='numba' or 'auto' there. For tests, TRITON_INTERPRET=1 in the environment, "
            "set before Python starts, runs it on the CPU, slowly."
        )
