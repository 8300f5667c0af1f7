"""What `torch.compile` leaves out of its graphs. Importing this module loads the compiler."""

from __future__ import annotations

from collections.abc import Callable

import torch

from topoloss.transforms import Indices, apply

__all__ = ["apply_uncompiled"]

apply_uncompiled: Callable[..., Indices] = torch.compiler.disable(apply)  # type: ignore[no-untyped-call]
