"""Time and memory of each summary of weights, in a process of its own.

    python -m benchmarks.weights [NAME ...]

Weights are random normal numbers. Gradients are not computed.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from benchmarks import environment, rows

WEIGHTS = rows.RESULTS / "weights.csv"
# Output channels of VGG-16's convolutions of 3 x 3, and its fully connected layers.
_CONVOLUTIONS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
_CONNECTED = ((4096, 512 * 7 * 7), (4096, 4096), (1000, 4096))


def vgg16() -> dict[str, Tensor]:
    torch.manual_seed(0)
    found, channels = {}, 3
    for k, out in enumerate(_CONVOLUTIONS):
        found[f"convolution {k}"] = torch.randn(out, channels, 3, 3)
        channels = out
    connected = {f"connected {k}": torch.randn(*shape) for k, shape in enumerate(_CONNECTED)}
    return found | connected


def perceptron(width: int = 1000) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: torch.randn(width, width) for name in ("first", "second")}


def _svr(weights: Mapping[str, Tensor]) -> object:
    from topoloss_svr import spectral_graph

    return spectral_graph(weights)


def _neural_persistence(weights: Mapping[str, Tensor]) -> object:
    from topoloss_neural_persistence import neural_persistence

    return neural_persistence(weights, convolution="patch")


def _deep_graph_persistence(weights: Mapping[str, Tensor]) -> object:
    from topoloss_neural_persistence import deep_graph_persistence

    return deep_graph_persistence(weights)


Case = tuple[Callable[[], dict[str, Tensor]], Callable[[Mapping[str, Tensor]], object]]
CASES: dict[str, Case] = {
    "svr of VGG-16": (vgg16, _svr),
    "neural-persistence of VGG-16": (vgg16, _neural_persistence),
    "deep-graph-persistence of 1,000-1,000-1,000": (perceptron, _deep_graph_persistence),
}


def measure(make: Callable[[], dict[str, Tensor]], run: Callable[..., object]) -> dict[str, float]:
    """Elapsed seconds, seconds of all processors together, and MiB beyond the weights."""
    weights = make()
    # Compile before timing.
    run({"first": torch.randn(3, 4), "second": torch.randn(2, 3)})
    before = resource.getrusage(resource.RUSAGE_SELF)
    start = time.perf_counter()
    run(weights)
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": round(seconds, 2),
        "processor_seconds": round(
            after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2
        ),
        "extra_mib": round((after.ru_maxrss - before.ru_maxrss) / 1024, 1),
    }


def main() -> None:
    torch.set_num_threads(environment.THREADS)
    names = sys.argv[1:]
    if len(names) == 1:
        row = {"summary": names[0]} | measure(*CASES[names[0]]) | environment.describe("cpu")
        # Rows that were written earlier may lack a column.
        empty = dict.fromkeys(row, "")
        others = [empty | r for r in rows.read(WEIGHTS) if r["summary"] != names[0]]
        rows.write(WEIGHTS, [*others, rows.as_text(row)])
        print(*row.values())
        return
    for name in names or CASES:
        subprocess.run([sys.executable, "-m", "benchmarks.weights", name], check=True)


if __name__ == "__main__":
    main()
