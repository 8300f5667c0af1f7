"""Run some tests in a copy of the repository, in a process of their own."""

from __future__ import annotations

import hashlib
import importlib
import math
import os
import pickle
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from tests.mutants.executed import Executed, Recorder

__all__ = ["copy_of", "first_failure", "recorded"]

# Imported once, before each trial forks: every one of them would wait for them again.
HEAVY = (
    "torch._dynamo", "scipy.stats", "scipy.sparse.csgraph", "scipy.optimize", "numba",
    "hypothesis", "matplotlib.pyplot", "pandas", "sklearn", "triton", "jaxtyping", "beartype",
    "typer", "rich",
)  # fmt: skip
# So many times its share of the processor's time a trial may wait.
WAITING = 10
COPIED = ("topoloss", "plugins", "pytest_topoloss", "tests", "benchmarks", "docs", "pyproject.toml")
# What is imported before it runs, pytest cannot rewrite, and warns.
UNWRITTEN = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"
OPTIONS = ("-q", "-p", "no:cacheprovider", "-W", UNWRITTEN)


def copy_of(root: Path, folder: Path) -> Path:
    """Copy to a folder what tests need."""
    for name in COPIED:
        source = root / name
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, folder / name)
    return folder


def recorded(copies: list[Path], folders: list[str], kept: Path) -> Executed:
    """Return which tests run which lines: as kept in a file, and anew for tests that changed."""
    copy = copies[0]
    tests = {
        str(path.relative_to(copy)): _digest([path])
        for folder in folders
        for path in (
            [copy / folder] if folder.endswith(".py") else (copy / folder).rglob("test_*.py")
        )
    }
    parts = [
        path for part in ("topoloss", "plugins", "tests") for path in (copy / part).rglob("*.py")
    ]
    own = copy / "tests" / "mutants"
    library = _digest([p for p in parts if own not in p.parents and p.name[:5] != "test_"])
    nothing = library, {}, Executed({}, {}, set())
    known, digests, executed = pickle.loads(kept.read_bytes()) if kept.exists() else nothing
    if known != library:
        _, digests, executed = nothing
    if changed := sorted(file for file, digest in tests.items() if digests.get(file) != digest):
        gone = {file for file in digests if not (copy / file).exists()}
        executed = executed.replaced({*changed, *gone}, record(copies, changed))
        digests = {file: d for file, d in digests.items() if file not in gone} | tests
        kept.parent.mkdir(exist_ok=True)
        kept.write_bytes(pickle.dumps((library, digests, executed)))
    return executed


def _digest(paths: list[Path]) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(paths))).hexdigest()


def record(copies: list[Path], tests: list[str]) -> Executed:
    """Run files of tests once, a share in each copy, and note which lines each test runs."""

    def run(copy: Path, share: list[str]) -> Any:
        recorder = Recorder([str(copy / "topoloss"), str(copy / "plugins")])
        failures = _Failures()
        pytest.main([*OPTIONS, *share], plugins=[recorder, failures])
        return recorder.seconds, recorder.contexts(copy), recorder.started, failures.names

    shares = [tests[k :: len(copies)] for k in range(len(copies))]
    trials = [
        _Trial(copy, partial(run, copy, share), math.inf)
        for copy, share in zip(copies, shares, strict=True)
        if share
    ]
    executed = Executed({}, {}, set())
    for trial in trials:
        found = trial.answer()
        if not isinstance(found, tuple):
            raise SystemExit(f"Some tests cannot be run as they are: {found}")
        seconds, contexts, started, failed = found
        for test in failed:
            print(f"{test} fails as it is, and is left out.")
            del seconds[test]
        executed = executed.replaced(set(), Executed(seconds, contexts, started))
    return executed


def first_failure(copy: Path, tests: list[str], seconds: float, compiled: bool) -> str:
    """Run tests in the order given; name the first that fails, or what else went wrong, or ''.

    Parameters
    ----------
    copy : Path
    tests : list of str
    seconds : float
        Of the processor's time; more is an endless loop.
    compiled : bool
        Whether to compile everything anew. What numba keeps for a function is not renewed if only
        another file, whose functions it calls, has changed.
    """

    def run() -> str:
        failures = _Failures()
        files = sorted({test.split("::")[0] for test in tests})
        failed = pytest.main(["-x", *OPTIONS, *files], plugins=[failures, _Chosen(tests)])
        return failures.names[0] if failures.names else "collection" if failed else ""

    if not compiled:
        return _Trial(copy, run, seconds).answer()
    with tempfile.TemporaryDirectory() as cache:
        return _Trial(copy, run, seconds, cache).answer()


class _Failures:
    """A plugin of pytest that keeps the names of the tests that fail."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and report.nodeid not in self.names:
            self.names.append(report.nodeid)


class _Chosen:
    """A plugin of pytest that runs some tests only, in a given order."""

    def __init__(self, tests: list[str]) -> None:
        self._place = {test: place for place, test in enumerate(tests)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if item.nodeid in self._place]
        items.sort(key=lambda item: self._place[item.nodeid])


class _Trial:
    """A function that is called in a fork of this process, which imports a copy of the library."""

    def __init__(self, copy: Path, run: Callable[[], Any], seconds: float, cache: str = "") -> None:
        _prepare()
        self._seconds = seconds
        self._receiver, sender = get_context("fork").Pipe(duplex=False)
        arguments = (copy, run, sender, seconds, cache or str(copy / "numba"))
        self._process = get_context("fork").Process(target=_answer, args=arguments)
        self._process.start()
        sender.close()

    def answer(self) -> Any:
        """Wait for what the function returns, or say why it returns nothing."""
        # Others may have the processor meanwhile: what waits for itself is given more time.
        patience = None if math.isinf(self._seconds) else WAITING * self._seconds
        try:
            return self._receiver.recv() if self._receiver.poll(patience) else "time limit"
        except EOFError:
            self._process.join()
            return "time limit" if self._process.exitcode == -signal.SIGXCPU else "crash"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # with the processes that it started
            self._process.join()


@cache
def _prepare() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is first imported
    if not importlib.import_module("torch").cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton is first imported
    for name in HEAVY:
        with suppress(ImportError):
            importlib.import_module(name)


def _answer(
    copy: Path, run: Callable[[], Any], sender: Connection, seconds: float, cache: str
) -> None:
    os.setsid()
    if not math.isinf(seconds):
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(seconds), resource.RLIM_INFINITY))
    os.chdir(copy)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    own = [str(copy), str(copy / "plugins")]
    os.environ["PYTHONPATH"] = os.pathsep.join(own)
    os.environ["NUMBA_CACHE_DIR"] = cache
    root = Path(__file__).parents[2]
    others = [str(root), str(root / "plugins"), ""]
    sys.path[:] = own + [path for path in sys.path if path not in others]
    for name in [name for name in sys.modules if name.split(".")[0] == "tests"]:
        del sys.modules[name]
    try:
        sender.send(run())
    except BaseException as error:
        sender.send(f"crash: {error!r}")
