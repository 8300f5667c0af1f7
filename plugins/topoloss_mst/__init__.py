"""Minimum spanning tree persistence in dimension 0, ``mst``."""

import topoloss
from topoloss_mst.persistence import MinimumSpanningTree


@topoloss.hookimpl
def topoloss_persistence() -> dict[str, type[topoloss.Persistence]]:
    return {"mst": MinimumSpanningTree}
