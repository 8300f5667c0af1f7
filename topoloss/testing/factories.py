"""What makes the component under check, and which options can be given to it."""

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
    """Copies an instance, whose options were chosen before."""

    instance: object

    def __call__(self) -> Any:
        return copy.deepcopy(self.instance)


@dataclass(frozen=True)
class Named:
    """Makes the component of a name or text, by the kind of component."""

    kind: str
    text: str

    def __call__(self, **options: Any) -> Any:
        return getattr(components, self.kind)(self.text, **options)


def why_without(factory: Callable[..., Any], option: str, value: object) -> str:
    """Say why a factory cannot be given an option, or return an empty text if it can.

    Its signature decides: an error that it raises is no lack of the option, unless it takes
    all options and the error names this one.
    """
    if isinstance(factory, Copied):
        return "an instance was given: check the class"
    try:
        if isinstance(factory, Named):
            components.look_up(factory.kind, factory.text, {option: value})  # type: ignore[arg-type]
        else:
            signature = inspect.signature(factory)
            signature.bind(**{option: value})
            if option not in signature.parameters:  # it hands **options on, to who knows what
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
