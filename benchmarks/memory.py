"""Peak extra memory of one contestant at one size, in a process of its own.

python -m benchmarks.memory topoloss 10000 256
"""

from __future__ import annotations

import subprocess
import sys

import torch

from benchmarks.cases import Case
from benchmarks.clock import extra_bytes
from benchmarks.contestants import CONTESTANTS, Contestant
from benchmarks.environment import THREADS

# topoloss uses one search up to 192 neurons, another up to 2,048, and a third beyond.
WARM_UP = (127, 300, 2_100)


def in_own_process(contestant: Contestant, case: Case) -> int:
    """Bytes that the contestant takes on the CPU beyond its activations."""
    arguments = (contestant.name, str(case.neurons), str(case.samples))
    command = [sys.executable, "-m", "benchmarks.memory", *arguments]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def extra_memory(contestant: Contestant, case: Case, device: str) -> int:
    """Extra bytes of the first step, including its preparation."""
    x = case.activations(device).requires_grad_()
    return extra_bytes(lambda: contestant.prepare(x)(), device)


def main() -> None:
    torch.set_num_threads(THREADS)
    name, neurons, samples = sys.argv[1], *map(int, sys.argv[2:])
    contestant = next(c for c in CONTESTANTS["cpu"] if c.name == name)
    # Imports and compilation at first use must not count.
    for smaller in WARM_UP:
        if smaller < neurons:
            extra_memory(contestant, Case(smaller, samples, turns=1, steps=1), "cpu")
    print(extra_memory(contestant, Case(neurons, samples, turns=1, steps=1), "cpu"))


if __name__ == "__main__":
    main()
