"""What compiled graphs hold as a constant. Importing this module loads the compiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["as_constant"]


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def as_constant(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)
