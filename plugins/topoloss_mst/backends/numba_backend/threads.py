"""Compiled loops in parallel threads, as they release the interpreter's lock."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def in_threads(run: Callable[[int, int], T], threads: int) -> list[T]:
    """Call ``run(thread, threads)`` in each thread, and return the results in order.

    The calling thread is one of them, as the others take a while to start.
    """
    if threads == 1:
        return [run(0, 1)]
    with ThreadPoolExecutor(threads - 1) as pool:
        others = [pool.submit(run, thread, threads) for thread in range(1, threads)]
        return [run(0, threads), *(other.result() for other in others)]
