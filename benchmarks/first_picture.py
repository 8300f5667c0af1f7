"""The first picture of the README: which neurons copy each other, without and with T1.

python -m benchmarks.first_picture    writes docs/images/correlations.png
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

import topoloss
from topoloss.compare import protocols, setups
from topoloss.compare.records import Arm, Epoch

IMAGES = Path(__file__).parents[1] / "docs" / "images"
ARMS = {"without a penalty": Arm("none", 0.0), "with T1": Arm("t1", 1e-3)}


def activations(arm: Arm, split: int = 0) -> Tensor:
    """Train the paper's network 0 on digits, and return its activations at the best epoch."""
    kept: list[Tensor] = []

    def watch(epoch: Epoch, model: nn.Module, x: Tensor) -> None:
        if epoch.best:
            with topoloss.observe(model) as seen, torch.no_grad():
                model(x)
                kept[:] = [torch.cat([h.flatten(1) for h in seen.activations().values()], 1)]

    setups.run(protocols.setup("net0", "digits"), arm, split, watch=watch)
    return kept[0]


def draw() -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 4.4), layout="constrained")
    for ax, (title, arm) in zip(axes, ARMS.items(), strict=True):
        topoloss.plot.correlations(activations(arm), ax, colour_bar=ax is axes[-1])
        ax.set_title(f"{title}\n{ax.get_title()}")
    figure.savefig(IMAGES / "correlations.png", dpi=100)


if __name__ == "__main__":
    draw()
