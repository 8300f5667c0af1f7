"""The modules that `layers=` chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeAlias

from torch import nn

from topoloss.attaching.modules import own_modules, trainable
from topoloss.errors import AttachmentError, OptionError, nearest, shown

__all__ = ["Choice", "Layers"]

Layers: TypeAlias = str | type[nn.Module] | Sequence[str | type[nn.Module]]


class Choice:
    """What was given as `layers=`, checked against a model.

    Attributes
    ----------
    rule : {"auto", "trainable", "named"}
    modules : list of str
        The modules chosen by "trainable" or by name, in the order of the model.
    named : frozenset of str
        The modules given by their exact name, which must all be called.
    """

    def __init__(self, model: nn.Module, layers: Layers) -> None:
        modules = dict(own_modules(model))
        rules = ("auto", "trainable")
        self.rule = layers if isinstance(layers, str) and layers in rules else "named"
        self.modules: list[str] = []
        self.named: frozenset[str] = frozenset()
        if self.rule == "trainable":
            self.modules = [name for name, module in modules.items() if trainable(module)]
            if not self.modules:
                raise AttachmentError(
                    f"{type(model).__name__} has no trainable parameters; name the modules to "
                    f"observe with layers=, among {list(modules)[1:]}."
                )
        elif self.rule == "named":
            given = _patterns(layers)
            chosen = {name for pattern in given for name in _found(pattern, modules, model)}
            self.modules = [name for name in modules if name in chosen]
            self.named = frozenset(p for p in given if isinstance(p, str) and p in modules)


def _patterns(layers: Layers) -> Sequence[str | type[nn.Module]]:
    if isinstance(layers, (str, type)):
        return [layers]
    if not isinstance(layers, (list, tuple, set, frozenset)) or not layers:
        raise OptionError(
            f"layers={shown(layers)} was given; expected 'auto', 'trainable', a name, a glob, a "
            "module type, or a list of at least one of the last three."
        )
    return list(layers)


def _found(pattern: object, modules: Mapping[str, nn.Module], model: nn.Module) -> list[str]:
    if isinstance(pattern, str) and pattern in modules and pattern:
        found = [pattern]  # a name may hold brackets, as a glob does
    elif isinstance(pattern, str):
        found = [name for name in modules if name and fnmatchcase(name, pattern)]
    elif isinstance(pattern, type) and issubclass(pattern, nn.Module):
        found = [name for name, module in modules.items() if isinstance(module, pattern)]
    else:
        raise OptionError(
            f"layers holds {shown(pattern)}; expected a name, a glob or a module type."
        )
    if not found:
        hint = nearest(pattern, modules) if isinstance(pattern, str) and pattern else ""
        raise AttachmentError(
            f"layers={pattern!r} matches no module of {type(model).__name__}; "
            f"there are {list(modules)[1:]}.{hint}"
        )
    return found
