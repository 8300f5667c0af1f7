"""Which engine runs: one visible rule."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from torch import Tensor

import topoloss

ENGINES = ("numba", "triton", "torch", "reference")
# Of features, that is: keys of all pairs at once.
HOLD_A_MATRIX = ("torch", "reference")


def choose_engine(engine: str, x: Tensor) -> str:
    """Resolve ``"auto"`` by device, and refuse an explicit choice that cannot run on `x`."""
    on_cpu = x.device.type == "cpu"
    if engine == "auto":
        return "numba" if on_cpu else "torch"
    if engine == "triton":
        raise topoloss.OptionError(
            "engine='triton' is not built yet; engine='torch' runs on every device."
        )
    if engine in ("numba", "reference") and not on_cpu:
        raise topoloss.OptionError(
            f"engine={engine!r} runs on the CPU and was given a tensor on {x.device}; "
            "use engine='torch' or 'auto' there."
        )
    return engine


def load_engine(engine: str) -> ModuleType:
    """Import an engine when it is first used, so that no compiler is loaded before."""
    return import_module(f"topoloss_mst.engines.{engine}_engine")
