"""What the figures of a comparison show."""

from dataclasses import replace

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
