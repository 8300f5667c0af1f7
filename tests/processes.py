"""Runs a script in several processes of one group, each of which leaves its findings in a file."""

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

TESTS = Path(__file__).parent


def findings(script, size, folder):
    """What ``main()`` of a script found in each process, by rank; None where it found nothing."""
    path = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", str(TESTS / script)]
    started = [
        subprocess.Popen(
            [*command, str(rank), str(size), str(folder)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(size)
    ]
    try:
        outputs = [process.communicate(timeout=240)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert not any(process.returncode for process in started), "\n".join(outputs)
    files = [_file(folder, rank) for rank in range(size)]
    return [torch.load(file) if file.exists() else None for file in files]


def run(main):
    """Be one of these processes: ``main(rank, size)`` returns its findings by name."""
    rank, size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/group",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=60),
    )
    torch.save(main(rank, size), _file(folder, rank))


def message(call, *given):
    """Type and message of the error that a call ends in."""
    try:
        call(*given)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def bytes_sent(call):
    """How much this process sends while all of them make a call."""
    dist.barrier()
    before = _written()
    call()
    return _written() - before


def _written():
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar"))


def _file(folder, rank):
    return Path(folder) / f"{rank}.pt"
