"""The sizes at which one forward and backward of T1 on float32 activations is timed.

`benchmarks.contestants` says up to which size each contestant takes part.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """A size of activations; each contestant gets `turns` turns of `steps` steps in a row."""

    neurons: int
    samples: int
    turns: int
    steps: int

    def activations(self, device: str) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(self.samples, self.neurons, generator=generator).to(device)


CASES = {
    "cpu": (
        Case(neurons=128, samples=256, turns=11, steps=11),
        Case(neurons=1_010, samples=256, turns=11, steps=5),
        Case(neurons=4_096, samples=256, turns=3, steps=3),
        Case(neurons=10_000, samples=256, turns=3, steps=3),
        Case(neurons=20_000, samples=64, turns=3, steps=3),
        Case(neurons=50_000, samples=64, turns=3, steps=2),
        Case(neurons=100_000, samples=256, turns=3, steps=1),
    ),
}
