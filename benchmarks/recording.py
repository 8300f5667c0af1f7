"""What recording costs: the time of an attached model's forward passes over a plain copy's.

    python -m benchmarks.recording

Gradients are on, and the penalty is never computed. Plain and attached passes take turns.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from importlib import metadata

import torch
from torch import Tensor, nn

import topoloss
from benchmarks import clock, environment, rows

TURNS = 11
STEPS = 3
RECORDING = rows.RESULTS / "recording.csv"


def resnet18(samples: int = 32, pixels: int = 224) -> tuple[nn.Module, Tensor]:
    # Imported here, because `benchmarks.report` works without torchvision.
    from benchmarks.vision import torchvision

    return torchvision.models.resnet18(), torch.randn(samples, 3, pixels, pixels)


def transformer(
    samples: int = 32, tokens: int = 128, width: int = 256, layers: int = 4
) -> tuple[nn.Module, Tensor]:
    layer = nn.TransformerEncoderLayer(width, nhead=4, dim_feedforward=4 * width, batch_first=True)
    return nn.TransformerEncoder(layer, layers), torch.randn(samples, tokens, width)


MODELS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "resnet18": resnet18,
    "transformer": transformer,
}


def main() -> None:
    torch.set_num_threads(environment.THREADS)
    hardware = environment.describe("cpu") | {"torchvision": metadata.version("torchvision")}
    found = [row for name, make in MODELS.items() for row in overhead(name, make)]
    rows.write(RECORDING, [rows.as_text(row | hardware) for row in found])
    for row in found:
        print(*row.values())


def overhead(
    name: str,
    make: Callable[[], tuple[nn.Module, Tensor]],
    turns: int = TURNS,
    steps: int = STEPS,
) -> list[dict[str, object]]:
    """Milliseconds of plain and of attached forward passes, and their ratio to the plain ones."""
    torch.manual_seed(0)
    plain, x = make()
    attached = copy.deepcopy(plain)
    with topoloss.attach(attached, "t1") as penalty:
        calls = {"plain": partial(plain, x), "attached": partial(attached, x)}
        # The first attached pass takes longer: it finds out what each function of the model does.
        clock.take_turns(calls, turns=1, steps=1)
        layers = len(penalty.neurons)
        times = clock.take_turns(calls, turns, steps)
    medians = {which: clock.median(values) for which, values in times.items()}
    return [
        {"model": name, "input": "x".join(map(str, x.shape)), "layers": layers, "passes": which}
        | {"timed": turns * steps, **clock.quantiles(values)}
        | {"over_plain": round(medians[which] / medians["plain"], 3)}
        for which, values in times.items()
    ]


if __name__ == "__main__":
    main()
