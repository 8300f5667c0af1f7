"""Milliseconds and bytes of one call, on the CPU and on a GPU."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

import torch


def milliseconds(call: Callable[[], object], device: str = "cpu") -> float:
    if device == "cpu":
        start = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - start)
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    call()
    last.record()
    last.synchronize()
    return first.elapsed_time(last)


def take_turns(
    calls: Mapping[str, Callable[[], object]], turns: int, steps: int, device: str = "cpu"
) -> dict[str, list[float]]:
    """Milliseconds of each call, `steps` in a row at each turn.

    As calls take turns, a slow spell of the machine affects all of them. As steps come in a row,
    they find their data in the cache and their threads running.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(turns):
        for name, call in calls.items():
            times[name] += [milliseconds(call, device) for _ in range(steps)]
    return times


def quantiles(times: list[float]) -> dict[str, float]:
    named = {"median_ms": median(times), "lowest_ms": min(times), "highest_ms": max(times)}
    return {name: round(value, 3) for name, value in named.items()}


def extra_bytes(call: Callable[[], object], device: str = "cpu") -> int:
    """Peak memory during a call, less what was held before.

    On the CPU (Linux only) it is the peak of the whole process, so measure in a new process.
    """
    if device == "cpu":
        # Free memory that the allocator kept would hide what the call takes.
        ctypes.CDLL(None).malloc_trim(0)
        # Sets the high-water mark back to what is resident now.
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        before = _high_water_mark()
        call()
        return _high_water_mark() - before
    torch.cuda.reset_peak_memory_stats()
    allocated = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - allocated


def _high_water_mark() -> int:
    # Not ru_maxrss, which a process inherits from the one that started it.
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM"):
            return 1024 * int(line.split()[1])
    raise RuntimeError("/proc/self/status has no VmHWM; memory is measured on Linux.")
