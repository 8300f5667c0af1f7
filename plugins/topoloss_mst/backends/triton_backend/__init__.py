"""Exact spanning trees on GPUs, by Boruvka's algorithm.

For few vertices, the float32 values of all pairs are held at once. For many, any spanning tree
rules out pairs: a pair of vertices that it connects by lighter edges is not in the minimum tree. So
a cheap spanning tree comes first. Products in float16, with an error bound, then find the few
pairs that it does not rule out, and these "light" pairs are compared in float64.

Nothing is read back from the device during a search, so it can be captured as a CUDA graph.
"""

from __future__ import annotations

import torch
import triton
from jaxtyping import Float
from torch import Tensor

import topoloss
from topoloss_mst.backends.triton_backend import dense
from topoloss_mst.backends.triton_backend.kernels import components
from topoloss_mst.backends.triton_backend.launching import in_parts
from topoloss_mst.backends.triton_backend.plan import Plan
from topoloss_mst.backends.triton_backend.trees import minimum_trees


def from_features(v: Float[Tensor, "batch n d"], order: str, plan: Plan | None = None) -> Tensor:
    """Return edges. Where keys are exact, they are the same whatever the plan."""
    _check_device(v)
    # A kernel runs on the current device.
    with torch.cuda.device_of(v):  # type: ignore[no-untyped-call]
        return minimum_trees(v, order, Plan() if plan is None else plan)


def from_matrix(values: Float[Tensor, "batch n n"]) -> Tensor:
    _check_device(values)
    with torch.cuda.device_of(values):  # type: ignore[no-untyped-call]
        return in_parts(dense.minimum_trees, values, len(values))


def _check_device(x: Tensor) -> None:
    interpreted = not isinstance(components.collect_edges, triton.JITFunction)
    if x.device.type == "cpu" and not interpreted:
        raise topoloss.OptionError(
            "backend='triton' runs on GPUs and was given a tensor on the CPU; use "
            "backend='numba' or 'auto' there. For tests, TRITON_INTERPRET=1 in the environment, "
            "set before Python starts, runs it on the CPU, slowly."
        )
