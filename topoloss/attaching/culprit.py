"""Say which component raised an error during training."""

from __future__ import annotations

from traceback import walk_tb

from topoloss.engines import Persistence
from topoloss.errors import TopolossError
from topoloss.filtrations import Filtration
from topoloss.losses import Loss
from topoloss.regularisers import Regulariser
from topoloss.samplers import Sampler

__all__ = ["note_component"]

_KINDS = {
    Filtration: "filtration",
    Persistence: "persistence engine",
    Loss: "loss",
    Sampler: "sampler",
    Regulariser: "regulariser",
}


def note_component(error: Exception) -> None:
    """Add a note to an error that names the component that raised it.

    That is the innermost component on the stack. The library's own errors need no note.
    """
    if isinstance(error, TopolossError):
        return
    for frame, _ in reversed(list(walk_tb(error.__traceback__))):
        component = frame.f_locals.get("self")
        for base, kind in _KINDS.items():
            if isinstance(component, base):
                made = type(component)
                error.add_note(
                    f"This error was raised by the {kind} {made.__module__}.{made.__qualname__}. "
                    "The model and its attachment can still be used."
                )
                return
