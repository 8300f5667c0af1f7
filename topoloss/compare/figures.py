"""The figures of a comparison, drawn with matplotlib."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from topoloss.compare.records import DEATH_BINS, Run
from topoloss.compare.statistics import by_regulariser, critical_difference, mean_ranks, nemenyi
from topoloss.extras import needs_extra
from topoloss.palette import looks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

__all__ = ["critical_differences", "scores_and_deaths", "weights"]


# More regularisers than this do not fit side by side.
_MANY = 8


def scores_and_deaths(chosen: Sequence[Run]) -> Figure:
    """Draw the densities of deaths before and after training, over all splits, and test scores.

    Parameters
    ----------
    chosen : sequence of Run
        As returned by :func:`topoloss.compare.statistics.select`.
    """
    grouped = by_regulariser(chosen)
    if len(chosen) == 1:
        figure = _figure(7, 4.2)
        _draw_densities(figure.subplots(), grouped)
    else:
        # Each regulariser needs a column in the plot of scores, and a line in the legend.
        width = max(4.4, 0.45 * len(grouped))
        figure = _figure(6.6 + width, max(4.2, 1 + 0.21 * len(grouped)))
        densities, scores = figure.subplots(1, 2, width_ratios=(6.6, width))
        _draw_densities(densities, grouped)
        _draw_scores(scores, grouped)
    _without_frame(figure)
    return figure


def weights(runs: Sequence[Run]) -> Figure:
    """Draw the validation score against the weight: median and range over splits.

    A horizontal line shows the score without a regulariser. The axis stops 15 points below the
    best median; an arrow at its foot, with the value, stands for each median below.
    """
    grouped = by_regulariser(runs)
    figure = _figure(9 if len(grouped) > _MANY else 7, max(4.2, 1 + 0.21 * len(grouped)))
    axes = figure.subplots()
    best = float("-inf")
    look = looks(grouped)
    drawn: dict[str, tuple[list[float], list[float]]] = {}
    for name, of_name in grouped.items():
        at_weight: dict[float, list[float]] = {}
        for run in sorted(of_name, key=lambda r: r.arm.weight):
            value = 100 * run.outcome.validation_score
            at_weight.setdefault(run.arm.weight, []).append(value)
        medians = [statistics.median(values) for values in at_weight.values()]
        best = max(best, *medians)
        if list(at_weight) == [0.0]:
            colour, line = look[name]["color"], look[name]["linestyle"]
            axes.axhline(medians[0], color=colour, linestyle=line, label=name)
            continue
        axes.plot(list(at_weight), medians, label=name, **look[name])
        lows, highs = (list(map(end, at_weight.values())) for end in (min, max))
        axes.fill_between(
            list(at_weight), lows, highs, color=look[name]["color"], alpha=0.12, linewidth=0
        )
        drawn[name] = list(at_weight), medians
    # A weight of 0 has no place on a logarithmic axis.
    least = min((run.arm.weight for run in runs if run.arm.weight), default=1.0)
    axes.set_xscale("symlog", linthresh=least)
    axes.set_ylim(bottom=max(axes.get_ylim()[0], best - 15))
    for name, (at, medians) in drawn.items():
        _draw_below(axes, at, medians, look[name]["color"])
    metric = runs[0].outcome.metric
    axes.set(
        xlabel="weight", ylabel=f"validation {metric} (%)", title="Median and range over splits"
    )
    if len(grouped) > _MANY:
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    else:
        axes.legend(frameon=False)
    _without_frame(figure)
    return figure


def critical_differences(scores: DataFrame) -> Figure:
    """Draw mean ranks; a bar joins regularisers that Nemenyi's test does not tell apart at 5%."""
    with needs_extra("compare"):
        from scikit_posthocs import critical_difference_diagram
    blocks, treatments = scores.shape
    # Each side of the diagram lists half of the names.
    figure = _figure(8, max(2.5, 1 + 0.15 * treatments))
    axes = figure.subplots()
    ranks = mean_ranks(scores)
    drawn = critical_difference_diagram(
        ranks,
        nemenyi(scores),
        ax=axes,
        label_fmt_left="{label} ({rank:.2f})",
        label_fmt_right="({rank:.2f}) {label}",
        color_palette={name: look["color"] for name, look in looks(scores).items()},
    )
    for (bar,) in drawn["crossbars"]:
        # It visits its points in the order of a set: the same runs would make other pictures.
        ends, height = bar.get_xdata(), bar.get_ydata()[0]
        bar.set_data([min(ends), max(ends)], [height, height])
    for label in drawn["labels"]:
        label.set_color("black")  # light colours are hard to read
    _draw_scale(figure, ranks.min(), critical_difference(treatments, blocks))
    return figure


def _draw_scale(figure: Figure, start: float, length: float) -> None:
    """Draw a length above the axis and its numbers, at the same distance in any figure."""
    from matplotlib.transforms import offset_copy

    (axes,) = figure.axes
    axes.hlines(0, start, start + length, alpha=0)  # makes room: what is moved up makes none
    above = offset_copy(axes.transData, figure, y=24, units="points")
    axes.plot([start, start + length], [0, 0], "k", linewidth=2, transform=above, clip_on=False)
    axes.annotate(
        f"CD = {length:.2g}",
        (start + length / 2, 0),
        (0, 27),
        textcoords="offset points",
        ha="center",
    )


def _figure(width: float, height: float) -> Figure:
    with needs_extra("compare"):
        from matplotlib.figure import Figure
    return Figure(figsize=(width, height), layout="constrained")


def _draw_below(axes: Axes, at: Sequence[float], medians: Sequence[float], colour: str) -> None:
    """Draw an arrow at the foot of the axis for each median below it."""
    foot = axes.get_ylim()[0]
    for weight, median in zip(at, medians, strict=True):
        if median < foot:
            axes.plot(weight, foot, "v", color=colour, clip_on=False, zorder=3)
            axes.annotate(
                f"{median:.0f}",
                (weight, foot),
                (0, 5),
                textcoords="offset points",
                ha="center",
                color=colour,
                fontsize=8,
            )


def _without_frame(figure: Figure) -> None:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)


def _draw_densities(axes: Axes, grouped: dict[str, list[Run]]) -> None:
    edges = [k / DEATH_BINS for k in range(DEATH_BINS + 1)]
    shares: list[list[float]] = []

    def draw(deaths: Sequence[tuple[int, ...]], **style: Any) -> None:
        counts = [sum(bin_counts) for bin_counts in zip(*deaths, strict=True)]
        shares.append([n / sum(counts) for n in counts])
        axes.stairs([DEATH_BINS * share for share in shares[-1]], edges, **style)

    before = [run.outcome.before.deaths for run in next(iter(grouped.values()))]
    draw(before, fill=True, color="0.85", label="before training")
    for (name, runs), look in zip(grouped.items(), looks(grouped).values(), strict=True):
        after = [run.outcome.after.deaths for run in runs]
        style = {"color": look["color"], "linestyle": look["linestyle"]}
        draw(after, linewidth=1.6, label=f"after, {name}", **style)
    axes.set(
        xlabel="death: 1 - |r| along an edge of the spanning tree (1: constant neurons)",
        ylabel="density",
        title="Deaths in dimension 0",
    )
    # Many networks have constant neurons: if their bin, the last, set the scale, it would flatten
    # all others.
    highest = DEATH_BINS * max(max(share[:-1]) for share in shares)
    if highest > 0:
        axes.set_ylim(0, 1.15 * highest)
        colours = ["0.5", *(look["color"] for look in looks(grouped).values())]
        _label_last_bins(axes, [share[-1] for share in shares], colours)
    if len(grouped) > _MANY:
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    else:
        axes.legend(frameon=False, loc="upper right", bbox_to_anchor=(0.85, 1))


def _label_last_bins(axes: Axes, shares: Sequence[float], colours: Sequence[str]) -> None:
    """Where a last bin is higher than the axis, write what share of the deaths it holds."""
    top = axes.get_ylim()[1]
    beyond = [each for each in zip(shares, colours, strict=True) if DEATH_BINS * each[0] > top]
    for line, (share, colour) in enumerate(beyond):
        axes.annotate(
            f"{100 * share:.0f}% \N{BLACK UP-POINTING TRIANGLE}",
            (1 - 1 / DEATH_BINS, top),
            (-4, -12 * (line + 1)),
            textcoords="offset points",
            ha="right",
            color=colour,
            fontsize=8,
        )


def _draw_scores(axes: Axes, grouped: dict[str, list[Run]]) -> None:
    look = looks(grouped)
    for k, (name, runs) in enumerate(grouped.items()):
        values = [100 * run.outcome.test_score for run in runs]
        colour, marker = look[name]["color"], look[name]["marker"]
        axes.plot([k] * len(values), values, marker, color=colour, alpha=0.6)
        axes.plot(k, statistics.fmean(values), "_", color=colour, markersize=26)
    metric = next(iter(grouped.values()))[0].outcome.metric
    axes.set(ylabel=f"test {metric} (%)", title="Each split, and the mean")
    many = len(grouped) > _MANY
    axes.set_xticks(range(len(grouped)), list(grouped), rotation=90 if many else 0)
    axes.margins(x=0.02 if many else 0.2)
