"""Compiled loops side by side: they are free of the interpreter's lock."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def in_threads(run: Callable[[int, int], T], threads: int) -> list[T]:
    """Call ``run(thread, threads)`` for each thread, and return what it returns, in order.

    This thread is one of them: the others take a while to start.
    """
    if threads == 1:
        return [run(0, 1)]
    with ThreadPoolExecutor(threads - 1) as pool:
        others = [pool.submit(run, thread, threads) for thread in range(1, threads)]
        return [run(0, threads), *(other.result() for other in others)]
