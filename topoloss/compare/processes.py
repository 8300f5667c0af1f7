"""How child processes that do runs begin."""

from __future__ import annotations

import multiprocessing
import os
import threading

import torch

__all__ = ["begin_child"]


def begin_child() -> None:
    """Use one torch thread, and end when the parent process does.

    If the parent were killed, the processes of a pool would otherwise wait for work forever.
    """
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
