"""Which tests run which lines, so that a mutant need not wait for all the others."""

from __future__ import annotations

import ast
import math
import sys
from collections.abc import Generator, Iterator
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import coverage
import pytest

__all__ = ["Executed", "Recorder"]


class Recorder:
    """A plugin of pytest that notes each test's lines and seconds.

    What a fixture of a module runs is noted for every test of the module, although one of them
    sets it up. So a note is for the tests whose names begin with its context.
    """

    def __init__(self, folders: list[str]) -> None:
        self.seconds: dict[str, float] = {}
        self.started: set[str] = set()
        self._context = ""
        self._coverage = coverage.Coverage(data_file=None, source=folders, config_file=False)

    def pytest_sessionstart(self) -> None:
        sys.addaudithook(self._see_process)
        self._coverage.start()

    def _see_process(self, event: str, arguments: tuple[object, ...]) -> None:
        if event == "subprocess.Popen":
            self.started.add(self._context)

    def _switch(self, context: str) -> None:
        self._context = context
        self._coverage.switch_context(context)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self._switch(item.nodeid)
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef, request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        if fixturedef.scope == "function":
            return (yield)
        test = request._pyfuncitem.nodeid
        self._switch(test.split("::")[0])
        try:
            return (yield)
        finally:
            self._switch(test)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0) + report.duration

    def contexts(self, root: Path) -> dict[str, dict[int, list[str]]]:
        """Stop, and return the contexts of every line by file."""
        self._coverage.stop()
        data = self._coverage.get_data()
        files = {file: str(Path(file).relative_to(root)) for file in data.measured_files()}
        return {name: data.contexts_by_lineno(file) for file, name in files.items()}


class Executed(NamedTuple):
    """What is known of tests.

    Attributes
    ----------
    seconds : dict
        By test.
    contexts : dict
        By file and line, which tests run it: what their names begin with.
    started : set of str
        What the names of tests begin with that start processes, whose lines nobody sees.
    """

    seconds: dict[str, float]
    contexts: dict[str, dict[int, list[str]]]
    started: set[str]

    def replaced(self, files: set[str], other: Executed) -> Executed:
        """Forget what was noted of some files of tests, and join what another recording says."""

        def kept(name: str) -> bool:
            return name.split("::")[0] not in files

        contexts = {
            file: {line: [c for c in names if kept(c)] for line, names in lines.items()}
            for file, lines in self.contexts.items()
        }
        for file, lines in other.contexts.items():
            for line, names in lines.items():
                contexts.setdefault(file, {}).setdefault(line, []).extend(names)
        seconds = {test: s for test, s in self.seconds.items() if kept(test)}
        started = {context for context in self.started if kept(context)} | other.started
        return Executed(seconds | other.seconds, contexts, started)

    def tests_of(
        self, root: Path, file: str, line: int, among: tuple[str, ...], enough: float
    ) -> list[str]:
        """Name the tests that may run a line, the most likely to notice a bug first.

        Some lines are never seen: they run on import, or are compiled. For these the narrowest
        surroundings that any test runs stand in: statement, function, class, file, folder. If there
        are none, all tests are named. Tests that start processes come last.

        One case of each test comes first, by speed, then the others, `enough` seconds in all.
        """
        every = [test for test in self.seconds if test.startswith(among)]
        unseen = {test for test in every if test.startswith(tuple(self.started))}
        for contexts in self._surroundings(root, file, line):
            if found := {test for test in every if test.startswith(tuple(contexts))}:
                break
        else:
            found = set(every)
        chosen = [*self._in_turn(found - unseen), *self._in_turn(unseen)]
        until = accumulate(self.seconds[test] for test in chosen)
        return [test for test, seconds in zip(chosen, until, strict=True) if seconds <= enough]

    def _in_turn(self, tests: set[str]) -> list[str]:
        # Hashes mix the cases of a test, the first of which are often the smallest.
        mixed = sorted(tests, key=lambda test: crc32(test.encode()))
        first = {test.split("[")[0]: test for test in mixed}.values()
        return [*sorted(first, key=self._speed), *sorted(tests - {*first}, key=self._speed)]

    def _surroundings(self, root: Path, file: str, line: int) -> Iterator[set[str]]:
        source = (root / file).read_text(encoding="utf-8")
        spans = [_span(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt)]
        for lines in sorted((span for span in spans if line in span), key=len):
            yield self._within(root, file, lines)
        yield self._within(root, file, None)
        siblings = [other for other in self.contexts if Path(other).parent == Path(file).parent]
        yield set().union(*(self._within(root, other, None) for other in siblings))

    def _within(self, root: Path, file: str, lines: range | None) -> set[str]:
        called = _lines_of_functions((root / file).read_text(encoding="utf-8"))
        return {
            context
            for line, contexts in self.contexts.get(file, {}).items()
            if line in called and (lines is None or line in lines)
            for context in contexts
        }

    def _speed(self, test: str) -> tuple[int, str, float]:
        # By powers of ten, so that tests that share a fixture stay together.
        seconds = self.seconds[test]
        return math.ceil(math.log10(max(seconds, 0.01))), test.split("::")[0], seconds


def _span(node: ast.stmt) -> range:
    decorators = getattr(node, "decorator_list", [])
    return range(min(each.lineno for each in (node, *decorators)), node.end_lineno + 1)


def _lines_of_functions(source: str) -> set[int]:
    """Lines that run when something is called; the others run on import, in whichever test."""
    return {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for line in range(node.body[0].lineno, node.end_lineno + 1)
    }
