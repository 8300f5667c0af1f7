"""Peak memory of a regulariser's step, in a process of its own."""

import subprocess
import sys

STEP = """
import resource, sys, torch, topoloss

name, samples, warm_up, neurons = sys.argv[1], *map(int, sys.argv[2:])

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

reg = topoloss.regulariser(name)
reg(torch.randn(samples, warm_up, requires_grad=True)).backward()
x = torch.randn(samples, neurons, requires_grad=True)
before = peak()
reg(x).backward()
print(peak() - before)
"""


def extra_bytes(name, *, samples, warm_up, neurons):
    """By how much the peak rises in a forward and backward pass, after a smaller one."""
    arguments = (name, str(samples), str(warm_up), str(neurons))
    ran = subprocess.run(
        [sys.executable, "-c", STEP, *arguments], capture_output=True, text=True, check=True
    )
    return int(ran.stdout)
