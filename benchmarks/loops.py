"""Loops among 500 points: topoloss forward and backward, beside ripser.py forward.

    python -m benchmarks.loops

ripser.py is given the same points and returns values without gradients. Contestants take turns, and
nothing is timed before both find the same loops.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from topoloss_plugins.euclidean import Euclidean
from topoloss_plugins.total_persistence import TotalPersistence
from topoloss_plugins.vietoris_rips import Ripser
from torch import Tensor

import topoloss
from benchmarks import clock, environment, rows

POINTS = 500
TURNS = 15
LOOPS = rows.RESULTS / "loops.csv"


def normal(n: int, features: int) -> Tensor:
    return torch.randn(n, features, generator=torch.Generator().manual_seed(0))


def noisy_circle(n: int) -> Tensor:
    angle = torch.arange(n) * 2 * torch.pi / n
    return torch.stack((angle.cos(), angle.sin()), 1) + 0.1 * normal(n, 2)


CLOUDS: dict[str, Callable[[int], Tensor]] = {
    "a noisy circle": noisy_circle,
    "normal, 3 features": lambda n: normal(n, 3),
    "normal, 256 features": lambda n: normal(n, 256),
}


def main() -> None:
    torch.set_num_threads(1)  # ripser.py, too, has one thread
    hardware = environment.describe("cpu")
    found = [row for name, make in CLOUDS.items() for row in compare(name, make(POINTS))]
    rows.write(LOOPS, [rows.as_text(row | hardware) for row in found])
    for row in found:
        print(*row.values())


def compare(name: str, points: Tensor, turns: int = TURNS) -> list[dict[str, object]]:
    """Milliseconds of ripser.py and of topoloss on the same points, and the ratio to ripser.py."""
    # Imported here, because `benchmarks.report` works without ripser.py.
    from ripser import ripser

    x = points.T.clone().requires_grad_()
    regulariser = topoloss.pipeline(Euclidean(), Ripser(dim=1), TotalPersistence())

    def forward_and_backward() -> None:
        x.grad = None
        regulariser(x).backward()

    array = points.numpy()
    require_same(regulariser.diagrams(x)[1].to_numpy(), ripser(array, maxdim=1)["dgms"][1])
    calls = {
        "ripser.py, forward": lambda: ripser(array, maxdim=1),
        "topoloss, forward and backward": forward_and_backward,
    }
    clock.take_turns(calls, turns=1, steps=1)
    times = clock.take_turns(calls, turns, steps=1)
    alone = clock.median(times["ripser.py, forward"])
    return [
        {"cloud": name, "points": len(points), "features": points.shape[1], "contestant": which}
        | {"timed": turns, **clock.quantiles(values)}
        | {"over_ripser": round(clock.median(values) / alone, 2)}
        for which, values in times.items()
    ]


def require_same(found: np.ndarray, expected: np.ndarray) -> None:
    """Raise unless the longest loops agree up to rounding to float32."""
    ours, theirs = (np.sort(d[:, 1] - d[:, 0])[::-1][:20] for d in (found, expected))
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


if __name__ == "__main__":
    main()
