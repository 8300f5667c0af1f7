"""Factories that make the component under check, and which options they take."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from topoloss import components
from topoloss.errors import OptionError

__all__ = ["Copied", "Named", "why_without"]


@dataclass(frozen=True)
class Copied:
    """Copies an instance, and so keeps the options that it was made with."""

    instance: object

    def __call__(self) -> Any:
        return copy.deepcopy(self.instance)


@dataclass(frozen=True)
class Named:
    """Makes a component of the given kind from a name or an expression."""

    kind: str
    text: str

    def __call__(self, **options: Any) -> Any:
        return getattr(components, self.kind)(self.text, **options)


def why_without(factory: Callable[..., Any], option: str, value: object) -> str:
    """Return why a factory does not take an option, or an empty string if it does.

    The signature decides. Only a factory that takes ``**options`` is called: if it then raises an
    error that names the option, it does not take it.
    """
    if isinstance(factory, Copied):
        return "an instance was given: check the class"
    try:
        if isinstance(factory, Named):
            components.look_up(factory.kind, factory.text, {option: value})  # type: ignore[arg-type]
        else:
            signature = inspect.signature(factory)
            signature.bind(**{option: value})
            if option not in signature.parameters:  # it takes **options
                return _why_not_handed_on(factory, option, value)
    except (OptionError, TypeError, ValueError) as error:
        return f"it has no option {option} to choose: {error}"
    return ""


def _why_not_handed_on(factory: Callable[..., Any], option: str, value: object) -> str:
    try:
        factory(**{option: value})
    except (OptionError, TypeError) as error:
        return f"it has no option {option}: {error}" if option in str(error) else ""
    return ""
