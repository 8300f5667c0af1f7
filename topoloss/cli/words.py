"""Check and complete the words of the command line, without importing torch.

The names of the installed components are read from the plugins' source code. If the source does
not show them, every name passes here; an unknown one is found later, when the component is made.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, Iterable
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from topoloss.errors import OptionError, UnknownNameError, listed, nearest
from topoloss.expressions import parse_start

__all__ = [
    "HOOKS",
    "check_components",
    "check_name",
    "check_name_of_any",
    "check_word",
    "completing",
    "components",
    "offered",
]

# The kind of component that each hook offers.
HOOKS = {
    "topoloss_filtrations": "filtration",
    "topoloss_persistence": "persistence",
    "topoloss_losses": "loss",
    "topoloss_regularisers": "regulariser",
    "topoloss_samplers": "sampler",
}
_STAGES = ("filtration", "persistence", "loss")


def check_word(option: str, given: str, known: Iterable[str]) -> None:
    """Raise an `OptionError` unless an option was given one of the words that it takes."""
    known = tuple(known)
    if given not in known:
        raise OptionError(
            f"{option} {given}: there is no such choice; choose {listed(known, 'or')}."
            f"{nearest(given, known)}"
        )


def check_name(what: str, given: str, known: Iterable[str], option: str) -> None:
    """Raise unless a name, which may have options, is known or refers to the user's own object."""
    name = given.partition("[")[0].strip()
    known = tuple(known)
    if ":" not in name and name not in known:
        raise UnknownNameError(
            f"{option} {given}: no {what} is named {name!r}; there are {listed(known)}, and your "
            f"own as package.module:function.{nearest(name, known)}"
        )


def check_components(text: str, others: Iterable[str] = ()) -> None:
    """Raise if the regulariser that a text begins with is known not to be installed."""
    names = offered()
    parts = parse_start(text)[0].parts
    kinds = ("regulariser",) if len(parts) == 1 else _STAGES
    for kind, part in zip(kinds, parts, strict=True):
        name = part.name
        everything = {each for of_kind in (names or {}).values() for each in of_kind}
        # The name of another kind of component passes: making it raises an error that says more.
        if names is None or ":" in name or name in everything or name in others:
            continue
        known = sorted({*names.get(kind, ()), *others})
        raise UnknownNameError(
            f"no {kind} is named {name!r}; there are {listed(known)}, and your own as "
            f"package.module:object.{nearest(name, known)}"
        )


def check_name_of_any(text: str) -> None:
    """Raise if a name is known to be neither a component nor a plugin."""
    names = offered()
    (part, *others) = parse_start(text)[0].parts
    if others:
        check_components(text)
    elif names is not None and ":" not in part.name:
        installed = [entry.name for entry in metadata.entry_points(group="topoloss")]
        known = sorted({*components(), *installed})
        if part.name not in known:
            raise UnknownNameError(
                f"nothing is named {part.name!r}; there are {listed(known)}, and your own as "
                f"package.module:object.{nearest(part.name, known)}"
            )


def components() -> list[str]:
    """The names of all components, as far as they are known."""
    return sorted({name for names in (offered() or {}).values() for name in names})


def completing(known: Iterable[str] | Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Return a function that gives a shell the known words that begin as typed."""

    def complete(incomplete: str) -> list[str]:
        words = known() if callable(known) else known
        return [word for word in words if word.startswith(incomplete)]

    return complete


def offered() -> dict[str, tuple[str, ...]] | None:
    """The names that installed plugins offer, by kind; None if they are not known."""
    if os.environ.get("TOPOLOSS_DISABLE_PLUGINS"):
        return None
    found: dict[str, tuple[str, ...]] = {}
    for entry in metadata.entry_points(group="topoloss"):
        offers = _offers(entry)
        if not offers:
            return None
        for kind, names in offers.items():
            found[kind] = (*found.get(kind, ()), *names)
    return found or None


def _offers(entry: metadata.EntryPoint) -> dict[str, tuple[str, ...]] | None:
    """The names in the dictionaries that the hooks return; None if the source hides them."""
    source = None if entry.attr else _source(entry.module)
    if source is None:
        return None
    offers: dict[str, tuple[str, ...]] = {}
    try:
        module = ast.parse(source.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None
    for node in module.body:
        if not isinstance(node, ast.FunctionDef) or node.name not in HOOKS:
            continue
        last = node.body[-1]
        if not isinstance(last, ast.Return) or not isinstance(last.value, ast.Dict):
            return None
        keys = [key.value if isinstance(key, ast.Constant) else None for key in last.value.keys]
        names = tuple(key for key in keys if isinstance(key, str))
        if len(names) < len(keys):
            return None
        offers[HOOKS[node.name]] = names
    return offers


def _source(module: str) -> Path | None:
    """Find the file of a module without importing the module."""
    top, *rest = module.split(".")
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin)
    if not rest:
        return path
    inner = path.parent.joinpath(*rest)
    return next((p for p in (inner.with_suffix(".py"), inner / "__init__.py") if p.exists()), None)
