"""How long the first T1 on a machine takes, and the first T1 of a later process.

    python -m benchmarks.first_call

Two new processes share a cache of compiled code that is empty at first. Seconds are counted after
torch and topoloss are imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

from benchmarks import environment, rows

FIRST_CALL = rows.RESULTS / "first_call.csv"
T1 = """
import sys, time, torch, topoloss
torch.set_num_threads(int(sys.argv[1]))
x = torch.randn(256, int(sys.argv[2]), requires_grad=True)
start = time.perf_counter()
topoloss.regulariser("t1")(x).backward()
print(time.perf_counter() - start)
"""
# A size for each of the three searches, see `benchmarks.memory`.
NEURONS = (128, 1_010, 4_096)


def main() -> None:
    hardware = environment.describe("cpu") | {"threads": str(environment.THREADS)}
    found = [row | hardware for neurons in NEURONS for row in first_and_later(neurons)]
    rows.write(FIRST_CALL, [rows.as_text(row) for row in found])
    for row in found:
        print(*list(row.values())[:3])


def first_and_later(neurons: int) -> list[dict[str, object]]:
    """Seconds of the first T1 in each of two processes; the second finds the cache of the first."""
    with tempfile.TemporaryDirectory() as folder:
        return [
            {"neurons": neurons, "process": process, "seconds": round(_seconds(neurons, folder), 2)}
            for process in ("first", "later")
        ]


def _seconds(neurons: int, cache: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", T1, str(environment.THREADS), str(neurons)],
        env=os.environ | {"NUMBA_CACHE_DIR": cache}, check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return float(done.stdout)


if __name__ == "__main__":
    main()
