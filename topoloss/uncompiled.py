"""A call that `torch.compile` leaves out of its graphs. Importing this loads the compiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["call_uncompiled"]


@torch.compiler.disable  # type: ignore[untyped-decorator]
def call_uncompiled(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)
