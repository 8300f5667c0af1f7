"""What `constants` needs of the compiler. Importing this module loads torch's compiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["as_constant"]


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def as_constant(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function while compiling; the graph holds its result as a constant."""
    return function(*arguments)
