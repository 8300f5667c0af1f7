"""What the figures of a comparison show."""

from dataclasses import replace
from io import BytesIO
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from topoloss.compare import figures
from topoloss.compare.records import Setup
from topoloss.compare.statistics import select
from topoloss.palette import looks


def test_an_arm_that_fails_is_marked_with_its_value(runs_of):
    scores = [("none", 0.0, 0.9), ("t1", 1e-3, 0.95), ("t1", 1e-2, 0.1)]
    rows = [(name, at, seed, 0.5, score) for name, at, score in scores for seed in range(2)]
    axes = figures.weights(runs_of(Setup(), *rows)).axes[0]
    assert axes.get_ylim()[0] == 80
    (mark,) = axes.texts
    assert mark.get_text() == "10"
    assert mark.xy == (1e-2, 80)
    assert mark.get_color() == looks(["none", "t1"])["t1"]["color"]


@pytest.mark.parametrize("draw", [figures.scores_and_deaths, figures.weights])
def test_every_label_of_many_regularisers_lies_within_the_figure(runs_of, draw):
    names = ["none", *(f"regulariser {k}+batch-norm" for k in range(41))]
    rows = [(name, 0.1 * (name != "none"), seed, 0.5, 0.5) for name in names for seed in range(2)]
    figure = draw(runs_of(Setup(), *rows))
    figure.savefig(BytesIO(), dpi=50)
    _within(figure, [text for axes in figure.axes for text in _texts(axes)])


def test_every_name_of_many_ranks_lies_within_the_figure_and_on_no_other():
    names = [f"regulariser {k}+batch-norm" for k in range(42)]
    scores = pd.DataFrame(np.random.default_rng(0).normal(size=(20, 42)), columns=names)
    figure = figures.critical_differences(scores)
    figure.savefig(BytesIO(), dpi=50)
    (axes,) = figure.axes
    told = [text for text in axes.texts if "regulariser" in text.get_text()]
    assert len(told) == 42
    _within(figure, told)
    heights = sorted(text.get_window_extent().y0 for text in told)
    # Two columns of names.
    gaps = [high - low for low, high in pairwise(heights[::2])]
    assert min(gaps) > 0.6 * told[0].get_window_extent().height


# On two blocks the critical difference is longer than the axis needs to be for the ranks.
@pytest.mark.parametrize(("blocks", "count"), [(20, 3), (2, 9), (20, 42)])
def test_the_critical_difference_is_written_on_nothing(blocks, count):
    names = [f"regulariser {k}" for k in range(count)]
    scores = pd.DataFrame(np.random.default_rng(0).normal(size=(blocks, count)), columns=names)
    figure = figures.critical_differences(scores)
    figure.savefig(BytesIO(), dpi=50)
    (axes,) = figure.axes
    (told,) = (text for text in axes.texts if text.get_text().startswith("CD = "))
    (scale,) = (line for line in axes.lines if line.get_transform() != axes.transData)
    others = [text for text in (*axes.texts, *axes.get_xticklabels()) if text is not told]
    _within(figure, [told])
    assert figure.bbox.x0 <= scale.get_window_extent().x0
    assert figure.bbox.x1 >= scale.get_window_extent().x1
    for drawn in (told, scale):
        box = drawn.get_window_extent()
        assert [text.get_text() for text in others if box.overlaps(text.get_window_extent())] == []


def test_bars_join_regularisers_that_are_less_than_a_critical_difference_apart():
    """On 30 blocks c is always last; a beats b on 18 of them, so mean ranks are 1.4, 1.6 and 3."""
    scores = pd.DataFrame([(3, 2, 1)] * 18 + [(2, 3, 1)] * 12, columns=list("abc"))
    (axes,) = figures.critical_differences(scores).axes
    ends = [line.get_xdata() for line in axes.lines if len(line.get_xdata()) == 2]
    bar, scale = sorted(ends, key=np.ptp)
    assert sorted(bar) == pytest.approx([1.4, 1.6])
    # Demsar (2006), table 5(a): q is 2.343 for three.
    assert np.ptp(scale) == pytest.approx(2.343 * (3 * 4 / (6 * 30)) ** 0.5, rel=5e-4)
    assert {"a (1.40)", "b (1.60)", "(3.00) c"} <= {text.get_text() for text in axes.texts}


def test_a_bar_is_one_line_whatever_the_order_in_which_its_names_are_found():
    scores = pd.DataFrame(np.random.default_rng(0).normal(size=(20, 9)), columns=list("abcdefghi"))
    (axes,) = figures.critical_differences(scores).axes
    flat = [line for line in axes.lines if np.ptp(line.get_ydata()) == 0]
    assert len(flat) > 1
    for line in flat:
        start, end = line.get_xdata()
        assert start < end


def test_each_split_has_a_point_for_its_test_score_beside_the_mean(runs):
    _, axes = figures.scores_and_deaths(select(runs)).axes
    none, mean_of_none, t1, mean_of_t1 = (line.get_xydata() for line in axes.lines)
    np.testing.assert_allclose(none, [[0, 90], [0, 92]])
    np.testing.assert_allclose(t1, [[1, 93], [1, 90]])
    np.testing.assert_allclose(mean_of_none, [[0, 91]])
    np.testing.assert_allclose(mean_of_t1, [[1, 91.5]])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["none", "t1"]


def test_weights_have_the_median_and_the_range_of_their_validation_scores(runs_of):
    scores = {("none", 0.0): (0.7, 0.9, 0.71), ("t1", 0.1): (0.8, 0.95, 0.81)}
    scores["t1", 0.01] = (0.75, 0.74, 0.98)
    rows = [(*arm, seed, 0.5, score) for arm, of in scores.items() for seed, score in enumerate(of)]
    (axes,) = figures.weights(runs_of(Setup(), *rows)).axes
    line = {line.get_label(): line.get_xydata() for line in axes.lines}
    np.testing.assert_allclose(line["none"][:, 1], 71)
    np.testing.assert_allclose(line["t1"], [[0.01, 75], [0.1, 81]])
    (spread,) = axes.collections
    corners = {tuple(corner) for corner in spread.get_paths()[0].vertices.round(9)}
    assert corners == {(0.01, 74), (0.01, 98), (0.1, 80), (0.1, 95)}


def _texts(axes):
    legend = axes.get_legend()
    every = [*(legend.get_texts() if legend else []), *axes.get_xticklabels()]
    return [text for text in every if "regulariser" in text.get_text()]


def _within(figure, texts):
    whole = figure.bbox
    assert texts
    for text in texts:
        box = text.get_window_extent()
        assert whole.x0 <= box.x0 < box.x1 <= whole.x1
        assert whole.y0 <= box.y0 < box.y1 <= whole.y1


def test_constant_neurons_set_no_scale_and_their_share_is_told(runs_of):
    def with_deaths(run, deaths):
        after = replace(run.outcome.after, deaths=deaths)
        return replace(run, outcome=replace(run.outcome, before=after, after=after))

    none, t1 = runs_of(Setup(), ("none", 0.0, 0, 0.5, 0.5), ("t1", 1e-3, 0, 0.5, 0.5))
    # Of 100 deaths 10 are in the fullest bin but the last: a density of 5.
    few, many = (10,) * 9 + (0,) * 40 + (10,), (5,) * 10 + (0,) * 39 + (50,)
    axes = figures.scores_and_deaths([with_deaths(none, few), with_deaths(t1, many)]).axes[0]
    assert axes.get_ylim() == (0, pytest.approx(5 * 1.15))
    (told,) = axes.texts
    assert told.get_text().startswith("50%")
    assert told.get_color() == looks(["none", "t1"])["t1"]["color"]
