"""What a penalty adds to a training step of the paper's network 0, and where T1's time goes.

    python -m benchmarks.training

Each regulariser trains a network of its own on the same shuffled batches of the digits; they
take turns of twenty steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from itertools import accumulate, pairwise
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import topoloss
from benchmarks import clock, environment, rows
from topoloss.compare.data import Dataset, load
from topoloss.compare.networks import build
from topoloss.diagrams import evaluate

STEPS = 400
TURN = 20
BATCH = 256
WEIGHT = 1e-3
TRAINING, PROFILE = "training", "profile"
PARTS = ("vertices", "tree search", "re-evaluation", "backward")

REGULARISERS = {
    "plain": lambda: None,
    "t1": lambda: topoloss.regulariser("t1"),
    "t2": lambda: topoloss.regulariser("t2"),
    "naive": lambda: topoloss.regulariser("naive"),
}


def main() -> None:
    torch.set_num_threads(environment.THREADS)
    data = load("digits")
    hardware = environment.describe("cpu")
    for name, found in ((TRAINING, overhead(data)), (PROFILE, profile(data))):
        path = rows.of_kind(environment.kind(), name)
        rows.write(path, [rows.as_text(row | hardware) for row in found])
        for row in found:
            print(*row.values())


def overhead(data: Dataset, steps: int = STEPS) -> list[dict[str, object]]:
    """Milliseconds of a training step with each regulariser, and the ratio to the plain step."""
    times: dict[str, list[float]] = {name: [] for name in REGULARISERS}
    trainers = {name: _trainer(_network(data), make()) for name, make in REGULARISERS.items()}
    batches = _batches(data, steps)
    for start in range(0, steps, TURN):
        for name, train in trainers.items():
            turn = batches[start : start + TURN]
            times[name] += [clock.milliseconds(partial(train, x, y)) for x, y in turn]
    plain = median(times["plain"])
    return [
        {"regulariser": name, "steps": steps, **clock.quantiles(values)}
        | {"over_plain": round(median(values) / plain, 2)}
        for name, values in times.items()
    ]


def profile(data: Dataset, steps: int = STEPS) -> list[dict[str, object]]:
    """Milliseconds of each part of one T1 forward and backward, on several activations."""
    torch.manual_seed(0)
    sources = [("normal", torch.randn(BATCH, n)) for n in (128, 1_010)]
    sources.append(("network 0", _activations(data, steps)))
    found = []
    for source, x in sources:
        parts = _parts(x, steps)
        for part, milliseconds in parts.items():
            row = {"activations": source, "neurons": x.shape[1], "samples": len(x), "part": part}
            row |= {"median_ms": round(milliseconds, 3)}
            found.append(row | {"share": round(milliseconds / sum(parts.values()), 3)})
    return found


def _network(data: Dataset) -> nn.Module:
    torch.manual_seed(0)
    return build("net0", data)


def _trainer(
    model: nn.Module, regulariser: topoloss.Regulariser | None
) -> Callable[[Tensor, Tensor], None]:
    """A training step of the model, by the paper's protocol."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    penalty = None if regulariser is None else topoloss.attach(model, regulariser)

    def train(x: Tensor, y: Tensor) -> None:
        optimiser.zero_grad()
        loss = F.cross_entropy(model(x), y)
        if penalty is not None:
            loss = loss + WEIGHT * penalty()
        loss.backward()
        optimiser.step()

    return train


def _batches(data: Dataset, steps: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    chosen = [torch.randperm(len(data.x), generator=generator)[:BATCH] for _ in range(steps)]
    return [(data.x[index], data.y[index]) for index in chosen]


def _activations(data: Dataset, steps: int) -> Tensor:
    """Activations of all 1,010 neurons of a network 0 that was trained with T1."""
    model = _network(data)
    train = _trainer(model, REGULARISERS["t1"]())
    for x, y in _batches(data, steps):
        train(x, y)
    outputs = list(accumulate(model, lambda h, layer: layer(h), initial=x))
    # The ReLU of each hidden layer, and the output. Index 0 is the input, and 1 that of Flatten.
    return torch.cat([*outputs[3::2], outputs[-1]], 1).detach()


def _parts(x: Tensor, rounds: int) -> dict[str, float]:
    """Median milliseconds of each part of T1, in the order in which they run."""
    regulariser = topoloss.regulariser("t1")
    times: dict[str, list[float]] = {}
    x = x.detach().requires_grad_()
    for _ in range(rounds):
        marks = [time.perf_counter()]
        v = regulariser.filtration.vertices(x)
        marks.append(time.perf_counter())
        critical = regulariser.critical_edges(v)
        marks.append(time.perf_counter())
        value = regulariser.loss(evaluate(regulariser.filtration, v, critical))
        marks.append(time.perf_counter())
        x.grad = None
        value.backward()
        marks.append(time.perf_counter())
        for part, (start, end) in zip(PARTS, pairwise(marks), strict=True):
            times.setdefault(part, []).append(1e3 * (end - start))
    return {part: median(values) for part, values in times.items()}


if __name__ == "__main__":
    main()
