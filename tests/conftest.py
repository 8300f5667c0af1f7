import os
import sys
from pathlib import Path

import torch

if not torch.cuda.is_available():
    # Before Triton is first imported: kernels then run on the CPU.
    os.environ["TRITON_INTERPRET"] = "1"

from jaxtyping import install_import_hook

sys.path.insert(0, str(Path(__file__).parent))

from typecheck import CHECKED

# Before the first import of what it checks.
install_import_hook(CHECKED, "typecheck.typecheck")

import pytest

import topoloss


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _registry_as_found():
    """A test that forgets to unregister its plugin fails here, and not in another test."""
    before = [info.name for info in topoloss.installed_plugins()]
    yield
    assert [info.name for info in topoloss.installed_plugins()] == before


@pytest.fixture(autouse=True)
def _function_modes_as_found():
    """The first forward pass is watched by a function mode, which must not outlive it."""
    yield
    left = len(torch.overrides._get_current_function_mode_stack())
    for _ in range(left):
        torch.overrides._pop_mode()
    assert left == 0


def pytest_configure(config):
    # The workers of pytest-xdist share the cores.
    torch.set_num_threads(1)
