"""How to search. It decides how long a search takes, but never which tree is found."""

from __future__ import annotations

from typing import NamedTuple


class Plan(NamedTuple):
    """Sizes, all of them known before the search.

    Attributes
    ----------
    kept_pairs : int
        The values of up to this many pairs, of several elements together, are held at once
        (1 GiB). For an element with more pairs, only the light ones are listed.
    together : int
        Up to this many vertices, of several elements together, are searched by light pairs at once.
    sampled : int
        One vertex in this many is in the sample that the cheap tree starts from.
    listed : int
        Light pairs for each vertex that there is space for.
    most : int
        A tile with more light pairs than this is heavy: it is listed instead of them, and all its
        pairs are compared in each round.
    heavy : int
        Heavy tiles for each vertex that there is space for.
    rows, columns : int
        Rows and columns of a tile; `rows` is a multiple of `columns`.
    strip : int
        Tiles side by side that one program looks at.
    side : int
        Side of the squares of a heavy tile that are compared at once; `columns` is a multiple of
        it.
    warps, stages : int
        Warps and pipeline stages of a program that multiplies tiles.
    """

    kept_pairs: int = 1 << 28
    together: int = 1 << 20
    sampled: int = 8
    listed: int = 128
    most: int = 512
    heavy: int = 16
    rows: int = 128
    columns: int = 64
    strip: int = 64
    side: int = 64
    warps: int = 8
    stages: int = 3
