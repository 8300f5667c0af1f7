"""One look for each regulariser, in every picture: a colour, a marker and a line style.

The colours are those of Okabe and Ito, which colour-blind readers can tell apart. The marker and
the line style are a second cue.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import cycle, product
from typing import Any, TypeAlias

__all__ = ["COLOURS", "NEUTRAL", "Look", "looks"]

COLOURS = {
    "black": "#000000",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "green": "#009E73",
    "yellow": "#F0E442",
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "purple": "#CC79A7",
}
# For anything but a regulariser: the state before training, reference lines.
NEUTRAL = "#999999"

Look: TypeAlias = dict[str, Any]


def _look(colour: str, marker: str, line: str) -> Look:
    return {"color": COLOURS[colour], "marker": marker, "linestyle": line}


_FIXED = {
    "none": _look("black", "o", "--"),
    "t1": _look("vermilion", "s", "-"),
    "t2": _look("blue", "^", "-"),
    "naive": _look("green", "D", "-"),
    "l1": _look("orange", "v", ":"),
    "l2": _look("orange", "P", "-."),
    "dropout": _look("purple", "X", "-."),
    "decov": _look("sky", "*", "-"),
    "batch-norm": _look("yellow", "h", "--"),
}


def looks(names: Iterable[str]) -> dict[str, Look]:
    """Return a look for each name, as keyword arguments of matplotlib.

    The looks of the best-known regularisers never change. Other names get free looks in the order
    in which they are given; colours that no fixed look among the names uses come first.
    """
    names = list(dict.fromkeys(names))
    given = {name: _FIXED[name] for name in names if name in _FIXED}
    taken = {look["color"] for look in given.values()}
    # Every colour with one marker, then with the next; when all are used, from the beginning again.
    colours = sorted(COLOURS, key=lambda colour: COLOURS[colour] in taken)
    free = cycle(
        _look(colour, marker, line)
        for line, marker, colour in product(("-", "-.", ":"), "pd<>8H", colours)
    )
    others = (name for name in names if name not in _FIXED)
    given |= dict(zip(others, free, strict=False))
    return {name: dict(given[name]) for name in names}
