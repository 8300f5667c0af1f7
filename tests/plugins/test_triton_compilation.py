"""Every launch of the triton backend is one that a GPU takes, at the sizes that it is made for."""

import json
import os
import subprocess
import sys

import pytest

# No GPU is needed: tensors without data go through the backend, its launches are written down,
# and each is compiled as it would be.
COMPILED = """
import json, re, subprocess, sys, tempfile
from pathlib import Path
from types import SimpleNamespace

import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TYPES = {
    torch.float16: "*fp16", torch.float32: "*fp32", torch.int32: "*i32", torch.int64: "*i64",
}
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
launches = {}

def write_down(kernel, grid):
    def launch(*arguments, **options):
        constants, types, sixteens = {}, {}, {}
        for place, (parameter, given) in enumerate(zip(kernel.params, arguments, strict=True)):
            fixed = parameter.is_constexpr or given is None
            specialised = not parameter.do_not_specialize
            if fixed or (type(given) is int and given == 1 and specialised):
                types[parameter.name], constants[place,] = "constexpr", given
            elif isinstance(given, torch.Tensor):
                types[parameter.name] = TYPES[given.dtype]
                sixteens[place,] = [["tt.divisibility", 16]]
            elif isinstance(given, float):
                types[parameter.name] = "fp32"
            else:
                types[parameter.name] = "i32" if given < 2**31 else "i64"
                if given % 16 == 0 and specialised:
                    sixteens[place,] = [["tt.divisibility", 16]]
        source = (kernel, types, constants, sixteens)
        launches[kernel.__name__, str(source[1:]), str(options)] = (source, options)
    return launch

triton.JITFunction.__getitem__ = write_down
cases, capability, shared = json.loads(sys.argv[1])
properties = SimpleNamespace(multi_processor_count=132, shared_memory_per_block_optin=shared)
torch.cuda.get_device_properties = lambda device: properties

from topoloss_mst.backends.triton_backend.plan import Plan
from topoloss_mst.backends.triton_backend.trees import minimum_trees

for n, d, order in cases:
    minimum_trees(torch.empty(1, n, d, device="meta"), order, Plan())

for source, options in launches.values():
    target = GPUTarget("cuda", capability, 32)
    compiled = triton.compile(ASTSource(*source), target=target, options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as binary:
        binary.write(compiled.asm["cubin"])
        binary.flush()
        found = subprocess.run(
            [CUOBJDUMP, "-res-usage", binary.name], capture_output=True, text=True, check=True
        ).stdout
    registers, stack = (int(re.search(f"{what}:(\\\\d+)", found)[1]) for what in ("REG", "STACK"))
    print(source[0].__name__, registers, stack, compiled.metadata.shared, *source[2].values())
"""

# Bytes that a block of threads can have on an H100, an A100 and an RTX 4090.
MOST_SHARED = {90: 227 * 1024, 80: 163 * 1024, 89: 99 * 1024}
CASES = (
    (1_010, 256, "abs_dot_descending"),
    (1_010, 256, "dot_descending"),
    (1_010, 256, "sq_dist_ascending"),
    (100_000, 256, "abs_dot_descending"),
    (100_000, 1_024, "sq_dist_ascending"),
)


def lines_of(code, *arguments, **environment):
    """What Python code prints in a process of its own, where Triton does not interpret."""
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "TRITON_INTERPRET": "0", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return [line.split() for line in ran.stdout.splitlines()]


# Compiling for one card takes half a minute.
@pytest.mark.slow
@pytest.mark.parametrize("capability", MOST_SHARED)
def test_launches_of_all_sizes_have_the_shared_memory_and_on_an_h100_need_no_stack(
    tmp_path, capability
):
    # The interpreter takes what the compiler refuses. A stack is slow memory: registers spilled.
    given = json.dumps([CASES, capability, MOST_SHARED[capability]])
    kernels = lines_of(COMPILED, given, TRITON_CACHE_DIR=str(tmp_path))
    names = {name for name, *_ in kernels}
    assert {"fill_values", "merge_components", "find_light_pairs", "offer_tiles"} <= names
    for name, registers, stack, shared, *_ in kernels:
        assert int(registers) <= 255, name
        assert int(stack) == 0 or capability != 90, name
        assert int(shared) <= MOST_SHARED[capability], name


# Tensors without data again, and nothing is compiled.
LAUNCHED = """
from types import SimpleNamespace

import torch, triton

grids = set()

def write_down(kernel, grid):
    grids.add((kernel.__name__, tuple(grid)))
    return lambda *arguments, **options: None

triton.JITFunction.__getitem__ = write_down
properties = SimpleNamespace(multi_processor_count=132, shared_memory_per_block_optin=227 * 1024)
torch.cuda.get_device_properties = lambda device: properties

from topoloss_mst.backends.triton_backend import from_features, from_matrix
from topoloss_mst.backends.triton_backend.plan import Plan

batch = 2 * 65_535 + 1
assert from_matrix(torch.empty(batch, 3, 3, device="meta")).shape == (batch, 2, 2)
for plan in (Plan(), Plan(kept_pairs=4)):
    v = torch.empty(batch, 3, 2, device="meta")
    assert from_features(v, "dot_descending", plan).shape == (batch, 2, 2)
for name, grid in grids:
    print(name, *grid, *(1 for _ in range(3 - len(grid))))
"""


def test_launches_for_a_batch_of_any_size_have_a_grid_that_a_gpu_takes():
    launches = lines_of(LAUNCHED)
    names = {name for name, *_ in launches}
    assert {"offer_values", "fill_values", "find_light_pairs"} <= names
    for name, x, y, z in launches:
        assert int(x) < 2**31, name
        assert int(y) < 2**16, name
        assert int(z) < 2**16, name
