import gc
import os
import sys
import uuid
from contextlib import ExitStack
from pathlib import Path

# Processes share the cores, those that tests start as well. Before torch is first imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

if not torch.cuda.is_available():
    # Before Triton is first imported: kernels then run on the CPU.
    os.environ["TRITON_INTERPRET"] = "1"

sys.path.insert(0, str(Path(__file__).parent))

import typecheck

# Before the first import of what it checks.
typecheck.install()

import pytest
from hypothesis import HealthCheck, settings

import topoloss
from topoloss.plugins import PluginRegistry, using_registry

# A command, `make test-mutants`, with an extra of its own.
collect_ignore = ["mutants"]

# Time is no property: machines differ. The short profile draws the same examples each time.
settings.register_profile("short", max_examples=20, derandomize=True, deadline=None)
settings.register_profile(
    "deep",
    max_examples=10_000,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("short")


@pytest.fixture(autouse=True)
def _seeded():
    if torch.cuda.is_available():
        torch.manual_seed(0)
    else:
        # Without a GPU torch.manual_seed writes the stack down, to seed one that may come.
        torch.default_generator.manual_seed(0)


@pytest.fixture(autouse=True)
def _registry_as_found():
    """A test that forgets to unregister its plugin fails here, and not in another test."""
    before = [info.name for info in topoloss.installed_plugins()]
    yield
    assert [info.name for info in topoloss.installed_plugins()] == before


@pytest.fixture
def fresh():
    """Start again with a registry that has not looked for entry points yet."""
    with ExitStack() as replaced:
        yield lambda: replaced.enter_context(using_registry(PluginRegistry()))


@pytest.fixture
def install(tmp_path, monkeypatch, fresh):
    """Put a distribution of one module and one entry point on the path."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name, code, entry="third-party", metadata=""):
        (tmp_path / f"{name}.py").write_text(code)
        info = tmp_path / f"{name}-1.2.dist-info"
        info.mkdir()
        header = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n"
        (info / "METADATA").write_text(header + metadata)
        (info / "entry_points.txt").write_text(f"[topoloss]\n{entry} = {name}\n")
        # Recorded so that the module is forgotten with the test.
        monkeypatch.setitem(sys.modules, name, None)
        del sys.modules[name]
        fresh()

    return write


@pytest.fixture(autouse=True)
def _function_modes_as_found():
    """The first forward pass is watched by a function mode, which must not outlive it."""
    yield
    left = len(torch.overrides._get_current_function_mode_stack())
    for _ in range(left):
        torch.overrides._pop_mode()
    assert left == 0


@pytest.fixture
def undrawn(monkeypatch):
    """Leave figures empty files, for tests of the words that are written beside them."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda self, path, **_: path.touch())


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """Write a module of the user's and return its name; each is imported once."""

    def write(code):
        name = f"own_{uuid.uuid4().hex}"
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        return name

    return write


def pytest_collection_finish(session):
    # Tests that collect garbage need not look again at all that was imported and collected before.
    gc.freeze()


def pytest_configure(config):
    # The workers of pytest-xdist share the cores.
    torch.set_num_threads(1)
