"""Which bugs may be planted in a package, and a sample that edits elsewhere leave as it is."""

from __future__ import annotations

import ast
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names
from cosmic_ray.work_item import MutationSpec

__all__ = ["PACKAGES", "Mutant", "Package", "sample"]


class Package(NamedTuple):
    """What is mutated together.

    Attributes
    ----------
    sources : tuple of str
        Globs, from the root of the repository.
    tests : tuple of str
        Which tests should notice.
    """

    sources: tuple[str, ...]
    tests: tuple[str, ...]


_MST = "plugins/topoloss_mst/"
PACKAGES = {
    "core": Package(
        ("topoloss/*.py",),
        (
            "tests/core", "tests/distributed", "tests/test_cli.py", "tests/test_plot.py",
            "tests/plugins/test_backends.py",
        ),
    ),
    "attaching": Package(
        ("topoloss/attaching/*.py",),
        ("tests/attaching", "tests/core/test_samplers.py", "tests/distributed"),
    ),
    "mst": Package(
        (_MST + "*.py", _MST + "backends/*.py", _MST + "backends/numba_backend/*.py"),
        ("tests/plugins", "tests/distributed"),
    ),
    "triton": Package((_MST + "backends/triton_backend/**/*.py",), ("tests/plugins",)),
    "plugins": Package(("plugins/topoloss_plugins/*.py",), ("tests/plugins", "tests/core")),
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One bug that may be planted.

    Attributes
    ----------
    key : str
        Of the file, the operator and the line; it stays as it is while other lines change.
    file : str
    line : int
    code : str
        The line.
    spec : MutationSpec
    """

    key: str
    file: str
    line: int
    code: str
    spec: MutationSpec

    def planted_in(self, source: str) -> str:
        """Return the source of the file with the bug in it."""
        operator = get_operator(self.spec.operator_name)(**self.spec.operator_args)
        return mutate_code(source, operator, self.spec.occurrence)


def sample(root: Path, package: Package, size: int) -> list[Mutant]:
    """The mutants of smallest key, in that order: keys are as good as random."""
    paths = sorted(path for sources in package.sources for path in root.glob(sources))
    return sorted(
        chain.from_iterable(_of(path, root) for path in paths), key=lambda mutant: mutant.key
    )[:size]


def _of(path: Path, root: Path) -> Iterator[Mutant]:
    source = path.read_text(encoding="utf-8")
    lines, file = source.splitlines(), str(path.relative_to(root))
    idle = _idle(source)
    alike: Counter[tuple[str, str]] = Counter()
    for spec in _specs(source, path):
        line = spec.start_pos[0]
        if line in idle:
            continue
        code = lines[line - 1].strip()
        alike[spec.operator_name, code] += 1
        name = f"{file}|{spec.operator_name}|{code}|{alike[spec.operator_name, code]}"
        key = hashlib.sha256(name.encode()).hexdigest()[:16]
        yield Mutant(key, file, line, code, spec)


def _specs(source: str, path: Path) -> Iterator[MutationSpec]:
    """What the tool would put into a database, in its order."""
    nodes = list(ast_nodes(get_ast(source)))
    for name in operator_names():
        # Names that are put in, and decorators taken away, make programs that no hand writes.
        if name == "core/RemoveDecorator" or get_operator(name).arguments():
            continue
        operator = get_operator(name)()
        positions = (place for node in nodes for place in operator.mutation_positions(node))
        for occurrence, (start, end) in enumerate(positions):
            yield MutationSpec(path, name, occurrence, start, end)


def _idle(source: str) -> set[int]:
    """Lines whose change changes nothing that runs: signatures, and the texts of errors."""
    lines: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            # The tool takes the star in "def f(*, a)" for a product.
            lines |= set(range(node.lineno, node.body[0].lineno))
        elif isinstance(node, ast.AnnAssign):
            lines |= set(range(node.annotation.lineno, node.annotation.end_lineno + 1))
        elif isinstance(node, ast.JoinedStr):
            lines |= set(range(node.lineno, node.end_lineno + 1))
    return lines
