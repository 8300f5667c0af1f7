"""Constants of compiled graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

__all__ = ["constant"]

T = TypeVar("T")


def constant(function: Callable[..., T], *arguments: object) -> T:
    """Call a function of plain numbers; a compiled graph holds its result as a constant."""
    if torch.compiler.is_compiling():
        # Imported here, as it loads torch's compiler, which takes seconds.
        from topoloss_plugins.compiled_constants import as_constant

        held: T = as_constant(function, *arguments)
        return held
    return function(*arguments)
