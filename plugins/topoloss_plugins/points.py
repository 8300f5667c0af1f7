"""Helpers of losses that look at one homology dimension."""

from __future__ import annotations

from collections.abc import Sequence

import topoloss

# Higher than any engine goes.
_HIGHEST = 9


def check_dimension(dimension: object, instead: str = "") -> None:
    """Raise an `OptionError` unless an option `dimension` is a homology dimension."""
    topoloss.check_number(
        "dimension", dimension, whole=True, least=0, most=_HIGHEST, instead=instead
    )


def chosen(
    diagrams: Sequence[topoloss.Diagram], dimension: int, loss: topoloss.Loss
) -> topoloss.Diagram:
    """Return the diagram of a dimension, or raise an `InputError` if the engine found none."""
    if dimension < len(diagrams):
        return diagrams[dimension]
    raise topoloss.InputError(
        f"{type(loss).__name__}(dimension={dimension}) was given diagrams of the dimensions 0 to "
        f"{len(diagrams) - 1}; take an engine that finds dimension {dimension}, for example "
        f"topoloss.persistence('ripser', dim={dimension}), or lower the loss's dimension."
    )
