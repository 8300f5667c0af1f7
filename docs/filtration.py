"""Draw docs/images/filtration.svg: how edges enter a filtration, the tree, and its deaths.

python docs/filtration.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import topoloss
from topoloss.palette import COLOURS

PICTURE = Path(__file__).parent / "images" / "filtration.svg"
# Neurons as points in a plane, to be seen: two groups of three, and one by itself.
PLACES = torch.tensor(
    [[0.0, 0.0], [0.5, 0.55], [0.95, 0.1], [2.15, 0.25], [2.75, 0.75], [2.9, 0.05], [1.55, 1.45]]
)
LEVELS = (0.0, 0.9, 1.4)
# Readable on a light page and on a dark one.
INK = "#808080"


def main() -> None:
    # Text stays text, and the same picture is the same file.
    style = {"svg.fonttype": "none", "svg.hashsalt": "filtration", "font.size": 11}
    with matplotlib.rc_context(style):
        draw().savefig(PICTURE, transparent=True, metadata={"Date": None})


def draw() -> Figure:
    found = topoloss.pipeline("euclidean", "mst", "t1").diagrams(PLACES.T)[0]
    figure = Figure(figsize=(9.6, 2.6), layout="constrained")
    *views, bars = figure.subplots(1, len(LEVELS) + 1)
    for ax, level in zip(views, LEVELS, strict=True):
        groups = len(PLACES) - int((found.deaths <= level).sum())
        network(ax, found, level)
        ax.set_title(f"up to {level:g}: {groups} component{'s' if groups > 1 else ''}", color=INK)
    barcode(bars, found)
    return figure


def network(ax: Axes, found: topoloss.Diagram, level: float) -> None:
    """The edges of length up to `level`; those of the tree are strong."""
    lengths = torch.cdist(PLACES, PLACES)
    tree = {tuple(sorted(edge)) for edge in found.death_edges.tolist()}
    for i in range(len(PLACES)):
        for j in range(i + 1, len(PLACES)):
            if lengths[i, j] > level:
                continue
            strong = (i, j) in tree
            look = {"color": COLOURS["vermilion"], "linewidth": 2.5} if strong else {"color": INK}
            ax.plot(*PLACES[[i, j]].T, zorder=1 + strong, **({"linewidth": 0.8} | look))
    ax.plot(*PLACES.T, "o", color=COLOURS["sky"], markersize=8, zorder=3)
    ax.set(aspect="equal", xlim=(-0.3, 3.2), ylim=(-0.3, 1.75))
    ax.axis("off")


def barcode(ax: Axes, found: topoloss.Diagram) -> None:
    """A bar for each component: all are born at 0, and all but one die."""
    for row, death in enumerate(found.deaths.tolist()):
        ax.plot([0, death], [row, row], color=COLOURS["vermilion"], linewidth=2.5)
    end = 1.15 * float(found.deaths.max())
    last = len(found.deaths)
    arrow = {"arrowstyle": "->", "color": COLOURS["sky"], "linewidth": 2.5}
    ax.annotate("", (end, last), (0, last), arrowprops=arrow)
    for level in LEVELS[1:]:
        ax.axvline(level, color=INK, linewidth=0.8, linestyle=":")
    ax.set(yticks=[], xlim=(0, end), ylim=(-0.7, last + 0.7), xticks=LEVELS)
    ax.set_title("6 deaths, 1 never dies", color=INK)
    ax.tick_params(colors=INK)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.spines["bottom"].set_color(INK)


if __name__ == "__main__":
    main()
