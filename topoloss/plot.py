"""Pictures of neurons, diagrams and trees, drawn with matplotlib.

Each function draws on an Axes and returns it; ``ax.figure.savefig("name.pdf")`` writes the picture
as PNG, PDF or SVG. Without ``ax`` a function makes a new figure with ``matplotlib.pyplot``: a
notebook shows it, ``pyplot.show()`` opens it, and ``pyplot.close(ax.figure)`` frees it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from topoloss import components
from topoloss.attaching import Attachment, Observation
from topoloss.diagrams import Diagram
from topoloss.errors import InputError, TooLargeError, check_number, shown
from topoloss.extras import needs_extra
from topoloss.palette import COLOURS, NEUTRAL
from topoloss.regularisers import side_by_side

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["barcode", "correlations", "deaths", "dendrogram", "diagram", "tree"]

Activations: TypeAlias = Tensor | Mapping[str, Tensor] | Observation
Diagrams: TypeAlias = Diagram | Sequence[Diagram]

_OF_DIMENSION = [
    {"color": COLOURS["blue"], "marker": "o"},
    {"color": COLOURS["vermilion"], "marker": "^"},
    {"color": COLOURS["green"], "marker": "s"},
]


def correlations(
    neurons: Activations, ax: Axes | None = None, *, most: int = 2000, colour_bar: bool = True
) -> Axes:
    """Draw ``|r|`` of each pair of neurons, ordered by the spanning tree.

    Neurons that copy each other stand side by side, so that groups of copies are dark squares on
    the diagonal.

    Parameters
    ----------
    neurons : Tensor of shape (samples, n), dict of str to such, Observation or Attachment
        A dict is by layer. Of an observation or attachment the latest forward pass is drawn.
    ax : matplotlib Axes, optional
        By default a new one.
    most : int
        More neurons than this are an error, as the picture has a square for each pair.
    colour_bar : bool

    Returns
    -------
    matplotlib Axes

    Examples
    --------
    >>> import torch, topoloss
    >>> _ = torch.manual_seed(0)
    >>> ax = topoloss.plot.correlations(torch.randn(100, 30))
    >>> ax.get_title()
    '30 neurons: median death 0.80'
    """
    check_number("most", most, whole=True, least=2)
    x = _matrix(neurons)
    n = x.shape[1]
    if n > most:
        raise TooLargeError(
            f"{n:,} neurons were given; expected at most {most:,}, as the picture has a square for "
            "each pair. Observe fewer layers, or a fraction of each, or raise most=."
        )
    filtration = components.filtration("correlation")
    found = components.pipeline(filtration, "mst", "t1").diagrams(x)[0]
    with needs_extra("plot"):
        from scipy.cluster.hierarchy import leaves_list
    order = leaves_list(found.to_linkage()) if n > 1 else [0]
    with torch.no_grad():
        r = 1 - filtration.pairwise(filtration.vertices(x))
    ax = _axes(ax, 5, 4.2)
    image = ax.imshow(r.cpu().numpy()[np.ix_(order, order)], cmap="magma_r", vmin=0, vmax=1)
    ax.set(xticks=[], yticks=[], xlabel="neurons, ordered by the tree")
    median = f": median death {float(found.deaths.quantile(0.5)):.2f}" if n > 1 else ""
    ax.set_title(f"{n:,} neurons{median}")
    if colour_bar:
        ax.figure.colorbar(image, ax=ax, label="|r|")
    return ax


def diagram(diagrams: Diagrams, ax: Axes | None = None) -> Axes:
    """Draw births and deaths as points, and classes that never die on a line above.

    Parameters
    ----------
    diagrams : Diagram or sequence of Diagram
        As ``diagrams()`` returns them, one for each dimension.
    ax : matplotlib Axes, optional
        By default a new one.

    Returns
    -------
    matplotlib Axes

    Examples
    --------
    >>> import torch, topoloss
    >>> found = topoloss.regulariser("t1").diagrams(torch.randn(20, 5))
    >>> topoloss.plot.diagram(found).get_ylabel()
    'death'
    """
    given = _diagrams(diagrams)
    ax = _axes(ax, 4.2, 4.2)
    top = _latest(given)
    never = 1.1 * top if top > 0 else 1.0
    ax.plot([0, never], [0, never], color=NEUTRAL, linewidth=1)
    for found in given:
        births, ends = found.to_numpy(essential=True).T
        ends = np.where(np.isinf(ends), never, ends)
        ax.plot(
            births, ends, linestyle="none", alpha=0.7, label=f"H{found.dimension}", **_look(found)
        )
    if any(d.essential_births.numel() for d in given):
        ax.axhline(never, color=NEUTRAL, linestyle="--", linewidth=1)
        ax.annotate("never", (never, never), ha="right", va="bottom", color=NEUTRAL)
    ax.set(xlabel="birth", ylabel="death", aspect="equal")
    ax.legend(frameon=False, loc="lower right")
    return _without_frame(ax)


def barcode(diagrams: Diagrams, ax: Axes | None = None) -> Axes:
    """Draw each class as a bar from its birth to its death; one that never dies has an arrow.

    Parameters
    ----------
    diagrams : Diagram or sequence of Diagram
    ax : matplotlib Axes, optional
        By default a new one.

    Returns
    -------
    matplotlib Axes

    Examples
    --------
    >>> import torch, topoloss
    >>> found = topoloss.regulariser("t1").diagrams(torch.randn(20, 5))
    >>> topoloss.plot.barcode(found).get_xlabel()
    'value of the filtration'
    """
    given = _diagrams(diagrams)
    ax = _axes(ax, 5, 3.5)
    right = 1.1 * _latest(given) or 1.0
    row = 0
    for found in given:
        colour = _look(found)["color"]
        for birth, death in found.to_numpy(essential=True):
            if np.isinf(death):
                ax.annotate(
                    "", (right, row), (birth, row), arrowprops={"arrowstyle": "->", "color": colour}
                )
            ax.plot([birth, min(death, right)], [row, row], color=colour, linewidth=1.5)
            row += 1
        ax.plot([], [], color=colour, label=f"H{found.dimension}")
    ax.set(xlabel="value of the filtration", yticks=[], xlim=(0, 1.02 * right))
    ax.legend(frameon=False, loc="lower right")
    return _without_frame(ax)


def deaths(
    history: Sequence[Tensor] | Mapping[int, Tensor],
    ax: Axes | None = None,
    *,
    label: str = "",
    colour: str = COLOURS["vermilion"],
) -> Axes:
    """Draw how deaths change over training: the median, the middle half, the middle nine tenths.

    Parameters
    ----------
    history : sequence of Tensor, or dict of step to Tensor
        Deaths as ``penalty.diagrams()[0].deaths`` gives them, kept now and then while training.
    ax : matplotlib Axes, optional
        By default a new one. Several histories may be drawn on the same Axes.
    label : str
        For the legend.
    colour : str

    Returns
    -------
    matplotlib Axes

    Examples
    --------
    >>> import torch, topoloss
    >>> ax = topoloss.plot.deaths({0: torch.rand(9), 100: torch.rand(9)}, label="t1")
    >>> ax.get_ylabel()
    'death'
    """
    steps = list(history) if isinstance(history, Mapping) else list(range(len(history)))
    values = list(history.values()) if isinstance(history, Mapping) else list(history)
    if not values or any(not isinstance(v, Tensor) or not v.numel() for v in values):
        raise InputError(
            f"history is {shown(history)}; expected at least one tensor of deaths, and in each at "
            "least one death."
        )
    ax = _axes(ax, 5, 3.5)
    levels = (0.05, 0.25, 0.5, 0.75, 0.95)
    spread = [np.quantile(v.detach().double().cpu().numpy(), levels) for v in values]
    low, lower, middle, upper, high = np.array(spread).T
    ax.fill_between(steps, low, high, color=colour, alpha=0.12, linewidth=0)
    ax.fill_between(steps, lower, upper, color=colour, alpha=0.25, linewidth=0)
    ax.plot(steps, middle, color=colour, label=label or None)
    ax.set(xlabel="step", ylabel="death")
    if label:
        ax.legend(frameon=False)
    return _without_frame(ax)


def dendrogram(found: Diagram, ax: Axes | None = None, **options: Any) -> Axes:
    """Draw the deaths at which neurons are joined: single linkage.

    Parameters
    ----------
    found : Diagram
        In dimension 0, of one connected graph.
    ax : matplotlib Axes, optional
        By default a new one.
    **options
        Options of ``scipy.cluster.hierarchy.dendrogram``, such as ``labels=`` or
        ``truncate_mode="lastp"``.

    Returns
    -------
    matplotlib Axes

    Examples
    --------
    >>> import torch, topoloss
    >>> found = topoloss.regulariser("t1").diagrams(torch.randn(20, 5))[0]
    >>> topoloss.plot.dendrogram(found).get_ylabel()
    'death'
    """
    with needs_extra("plot"):
        from scipy.cluster import hierarchy
    given = _diagrams(found)
    if len(given) != 1:
        raise InputError(
            f"{len(given)} diagrams were given; expected one, that of dimension 0: diagrams[0]."
        )
    linkage = given[0].to_linkage()
    if not len(linkage):
        raise InputError("a diagram of one vertex joins nothing; expected at least two vertices.")
    ax = _axes(ax, 6, 3.5)
    settings = {"no_labels": "labels" not in options and len(linkage) > 50, "color_threshold": 0}
    hierarchy.dendrogram(
        linkage, ax=ax, above_threshold_color=COLOURS["blue"], **(settings | options)
    )
    ax.set(ylabel="death")
    return _without_frame(ax)


def tree(penalty: Attachment, ax: Axes | None = None) -> Axes:
    """Draw the spanning tree on the layers: the darker an edge, the more its neurons are alike.

    An edge whose death is 0 is black. The faintest edges have a death of 1, or the largest death if
    that is above 1.

    Parameters
    ----------
    penalty : Attachment
        After a forward pass, with a regulariser that has a tree.
    ax : matplotlib Axes, optional
        By default a new one.

    Returns
    -------
    matplotlib Axes

    Examples
    --------
    >>> import torch, topoloss
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> penalty = topoloss.attach(model, "t1")
    >>> _ = model(torch.randn(16, 4))
    >>> [label.get_text() for label in topoloss.plot.tree(penalty).get_xticklabels()]
    ['0', '2']
    """
    with needs_extra("plot"):
        from matplotlib.collections import LineCollection
    if not isinstance(penalty, Attachment):
        raise InputError(f"penalty is {shown(penalty)}; expected what topoloss.attach returned.")
    with torch.no_grad():
        found = penalty.diagrams()
    by_layer: dict[str | None, list[Diagram]] = found if isinstance(found, dict) else {None: found}
    neurons = {name: units for name, units in penalty.neurons.items() if len(units)}
    column = {name: k for k, name in enumerate(neurons)}
    height = {
        (name, unit): (place + 0.5) / len(units)
        for name, units in neurons.items()
        for place, unit in enumerate(units.tolist())
    }
    ax = _axes(ax, 1.5 + 1.5 * len(neurons), 4)
    faintest = max(1.0, _latest([d for d, *_ in by_layer.values()]))
    for layer, (in_dimension_0, *_) in by_layer.items():
        ends = penalty.locate(in_dimension_0.death_edges, layer)
        lines = [[(column[end[0]], height[end]) for end in pair] for pair in ends]
        alike = (1 - in_dimension_0.deaths / faintest).clamp(0.05, 1).tolist()
        ax.add_collection(
            LineCollection(lines, colors=[(0, 0, 0, a) for a in alike] or "black", linewidths=0.8)
        )
    for name, units in neurons.items():
        at = [height[name, unit] for unit in units.tolist()]
        ax.plot([column[name]] * len(at), at, "o", markersize=3, color=COLOURS["blue"])
    ax.set(yticks=[], xlabel="layer", ylim=(0, 1), xlim=(-0.5, len(neurons) - 0.5))
    ax.set_xticks(range(len(neurons)), list(neurons))
    return _without_frame(ax)


def _axes(ax: Axes | None, width: float, height: float) -> Axes:
    with needs_extra("plot"):
        from matplotlib import pyplot
    if ax is not None:
        return ax
    # Made by pyplot, so that a notebook shows it without being asked.
    _, ax = pyplot.subplots(figsize=(width, height), layout="constrained")
    return ax


def _without_frame(ax: Axes) -> Axes:
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _latest(given: Sequence[Diagram]) -> float:
    """The largest death, or birth of a class that never dies; at least 0."""
    values = [x for d in given for x in (d.deaths, d.essential_births) if x.numel()]
    return max([0.0, *(float(x.detach().max()) for x in values)])


def _look(found: Diagram) -> dict[str, Any]:
    return _OF_DIMENSION[found.dimension % len(_OF_DIMENSION)]


def _matrix(neurons: Activations) -> Tensor:
    """Join the neurons to draw into one matrix, shape (samples, n)."""
    if isinstance(neurons, Observation):
        with torch.no_grad():
            neurons = neurons.activations()
    if isinstance(neurons, Mapping):
        neurons = side_by_side(neurons)
    if not isinstance(neurons, Tensor) or neurons.ndim != 2:
        raise InputError(
            f"neurons is {shown(neurons)}; expected a tensor of shape (samples, n), a dict of "
            "such tensors by layer, or what topoloss.observe or attach returned."
        )
    return neurons.detach()


def _diagrams(given: Diagrams) -> list[Diagram]:
    found = [given] if isinstance(given, Diagram) else given
    if not isinstance(found, (list, tuple)) or not all(isinstance(d, Diagram) for d in found):
        raise InputError(
            f"{shown(given)} was given; expected a Diagram or a list of them, as diagrams() "
            "returns it (with per='layer', those of one layer)."
        )
    if any(d.deaths.ndim != 1 for d in found):
        raise InputError("the diagrams are those of a batch; draw the diagrams of one element.")
    return list(found)
