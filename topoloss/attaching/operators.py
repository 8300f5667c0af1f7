"""The operators that a torch function runs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Operators"]


class Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the operators that run, and whether one writes to an operand."""

    def __init__(self, operands: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators: list[Any] = []
        self.mutates = False
        self._operands = {id(t) for t in operands}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Otherwise torch loads its compiler, for seconds, when the first operator runs.
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        # In inference mode composite operators arrive here undivided.
        if torch.is_inference_mode_enabled():
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        self.operators.append(func)
        if func._schema.is_mutable:
            written = zip(func._schema.arguments, args, strict=False)
            self.mutates |= any(
                a.alias_info is not None and a.alias_info.is_write and id(x) in self._operands
                for a, x in written
            )
        return func(*args, **kwargs)
