"""What a benchmark ran on."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

import llvmlite.binding
import torch

THREADS = 2
PACKAGES = ("torch", "triton", "numba", "numpy", "scipy", "giotto-ph", "gudhi", "ripser")
PACKAGES += ("torch-topological",)


def describe(device: str) -> dict[str, str]:
    """Hardware and versions; a package that is not installed has an empty version."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else _processor(),
        "multiplies": "" if device == "cuda" else _multiplies(),
        "cores": str(len(os.sched_getaffinity(0))),
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
    } | {name: _version(name) for name in PACKAGES}


def kind() -> str:
    """The kind of this processor, by its instructions: the name of a folder of results."""
    return "bfloat16" if "bfloat16" in _multiplies() else _multiplies().lower()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _multiplies() -> str:
    """The widest vector instructions of this processor, and whether it multiplies bfloat16."""
    widest = torch.backends.cpu.get_cpu_capability()
    features = llvmlite.binding.get_host_cpu_features()
    return widest + (" and bfloat16" if features.get("avx512bf16") else "")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
