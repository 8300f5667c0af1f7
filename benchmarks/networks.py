"""The paper's network 0 on digits, with narrower and wider hidden layers."""

from __future__ import annotations

from torch import nn

__all__ = ["double", "half", "quarter"]


def quarter() -> nn.Module:
    return _scaled(0.25)


def half() -> nn.Module:
    return _scaled(0.5)


def double() -> nn.Module:
    return _scaled(2)


def _scaled(factor: float) -> nn.Module:
    a, b, c = (int(factor * width) for width in (450, 350, 200))
    return nn.Sequential(
        *(nn.Linear(64, a), nn.ReLU(), nn.Linear(a, b), nn.ReLU()),
        *(nn.Linear(b, c), nn.ReLU(), nn.Linear(c, 10)),
    )
