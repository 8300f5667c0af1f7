"""What ``overhead=0.1`` adds to a training step, once it has chosen how often to apply the penalty.

    python -m benchmarks.overhead [--model resnet18] [--fresh]

Two models of the same kind are trained, one with the penalty. Once the penalty has chosen its
period, from one step with the penalty to the next, they take turns of whole periods. Each
repetition chooses anew and writes a row; after an interruption run the command again to go on.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import topoloss
from benchmarks import clock, environment, rows
from benchmarks.vision import torchvision

OVERHEAD = rows.RESULTS / "overhead.csv"
SHARE = 0.1
REPETITIONS = 5
TURNS = 7
# A turn has at least this many steps, rounded up to whole periods.
STEPS = 4
SAMPLES = 32


@dataclass(frozen=True)
class Case:
    """A model, its inputs, and options of ``attach``."""

    model: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]
    options: dict[str, Any] = field(default_factory=dict)


def _resnet() -> nn.Module:
    model: nn.Module = torchvision.models.resnet18(num_classes=10)
    return model


class Transformer(nn.Module):
    """Four layers of attention over 32 tokens, whose mean is classified."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(256, 4, 1024, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 4)
        self.head = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder(x).mean(1))
        return out


_CHANNELS = {"units": "channel", "per": "layer"}
CASES = {
    "resnet18": Case(_resnet, lambda: torch.randn(SAMPLES, 3, 64, 64), _CHANNELS),
    "transformer": Case(Transformer, lambda: torch.randn(SAMPLES, 32, 256), _CHANNELS),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=list(CASES), action="append")
    parser.add_argument("--fresh", action="store_true", help="measure finished repetitions again")
    arguments = parser.parse_args()
    torch.set_num_threads(environment.THREADS)
    chosen = arguments.model or list(CASES)
    done = rows.read(OVERHEAD)
    if arguments.fresh:
        done = [row for row in done if row["model"] not in chosen]
    for name in chosen:
        for repetition in range(sum(row["model"] == name for row in done), REPETITIONS):
            row = {"model": name, "repetition": repetition} | measured(CASES[name])
            done.append(rows.as_text(row | environment.describe("cpu")))
            rows.write(OVERHEAD, done)
            print(*row.values(), flush=True)


def measured(case: Case, turns: int = TURNS, steps: int = STEPS) -> dict[str, object]:
    """Train with and without the penalty in turns, and compare the times."""
    x = case.inputs()
    y = torch.arange(len(x)) % 10
    plain = _step(case.model(), None, x, y)
    model = case.model()
    penalty = topoloss.attach(model, "t1", overhead=SHARE, **case.options)
    with_penalty = _step(model, penalty, x, y)
    plain()
    while penalty.state_dict()["schedule"]["every"] is None:
        with_penalty()
    every = penalty.state_dict()["schedule"]["every"]
    # A turn begins with a step that has the penalty.
    while penalty.state_dict()["schedule"]["step"] % every:
        with_penalty()
    length = every * -(-steps // every)
    calls = {"plain": plain, "with the penalty": with_penalty}
    times = clock.take_turns(calls, turns, length)
    of_turns = {
        name: [sum(t[k : k + length]) / length for k in range(0, len(t), length)]
        for name, t in times.items()
    }
    medians = {name: clock.median(each) for name, each in of_turns.items()}
    over = [a / b - 1 for a, b in zip(of_turns["with the penalty"], of_turns["plain"], strict=True)]
    return {
        "every": every,
        "plain_ms": round(medians["plain"], 3),
        "with_penalty_ms": round(medians["with the penalty"], 3),
        # Compares neighbouring turns, so that a slow spell of the machine affects both.
        "overhead": round(clock.median(over), 4),
        "turns": turns,
        "steps_of_a_turn": length,
    }


def _step(
    model: nn.Module, penalty: topoloss.Attachment | None, x: Tensor, y: Tensor
) -> Callable[[], None]:
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step() -> None:
        optimiser.zero_grad()
        loss = F.cross_entropy(model(x), y)
        if penalty is not None:
            loss = loss + 1e-3 * penalty()
        loss.backward()
        optimiser.step()

    return step


if __name__ == "__main__":
    main()
