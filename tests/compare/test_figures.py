"""What the figures of a comparison show."""

from dataclasses import replace
from io import BytesIO
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from topoloss.compare import figures
from topoloss.compare.records import Setup
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
