"""Differentiable topology for PyTorch: filtration -> persistence -> loss, as plugins."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from topoloss.public import *  # noqa: F403
    from topoloss.public import __all__ as __all__

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Import a public name or a submodule when it is first used.

    The public names need torch, which takes seconds to import, and the command line must answer
    before that. No module has the name of a public function, so the two cannot be confused.
    """
    if name.startswith("__") and name != "__all__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name.isidentifier() and find_spec(f"{__name__}.{name}") is not None:
        return import_module(f"{__name__}.{name}")
    public = import_module(f"{__name__}.public")
    globals().update({each: getattr(public, each) for each in ("__all__", *public.__all__)})
    try:
        return globals()[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted({*globals(), *import_module(f"{__name__}.public").__all__})
