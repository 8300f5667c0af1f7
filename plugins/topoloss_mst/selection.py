"""The rule that says which backend runs."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

import topoloss

BACKENDS = ("numba", "triton", "torch", "reference")
# These hold the keys of all pairs of vertices at once, even when given features.
HOLD_A_MATRIX = ("torch", "reference")

_HAS_TRITON = find_spec("triton") is not None


def choose_backend(backend: str, x: Tensor) -> str:
    """Resolve ``"auto"``, and refuse an explicit choice that cannot run on `x`.

    ``"auto"`` is numba on the CPU, triton for up to float32 on CUDA where it is installed, and
    torch everywhere else.
    """
    if backend == "auto":
        return _automatic(x)
    if backend == "triton":
        _check_triton(x)
    if backend in ("numba", "reference") and x.device.type != "cpu":
        raise topoloss.OptionError(
            f"backend={backend!r} runs on the CPU and was given a tensor on {x.device}; "
            "use backend='torch' or 'auto' there."
        )
    return backend


def _automatic(x: Tensor) -> str:
    if x.device.type == "cpu":
        return "numba"
    if x.device.type == "cuda" and x.dtype != torch.float64 and _HAS_TRITON:
        return "triton"
    return "torch"


def _check_triton(x: Tensor) -> None:
    if not _HAS_TRITON:
        raise topoloss.MissingExtraError(
            "backend='triton' needs triton, which is not installed; run: "
            "pip install 'topoloss-framework[triton]' (on Linux), or use backend='torch'."
        )
    if x.dtype == torch.float64:
        raise topoloss.OptionError(
            "backend='triton' compares keys in float32 and was given float64; use backend='torch', "
            "or give it float32."
        )


def load_backend(backend: str) -> ModuleType:
    """Import a backend when it is first used, so that no compiler is loaded before that."""
    return import_module(f"topoloss_mst.backends.{backend}_backend")
