"""Candidates for a better regulariser, by hand and by scipy, and the runs that compare them."""

from math import sqrt
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch
from scipy.sparse.csgraph import minimum_spanning_tree

import topoloss
from benchmarks import candidate_runs, candidates
from topoloss.testing import parametrize_with_checks

# Variances 1 and 4, covariance 2 of the first two; the third is constant.
THREE = torch.tensor([[1.0, 2.0, 5.0], [-1.0, -2.0, 5.0]], dtype=torch.float64)


@parametrize_with_checks("filtration", candidates.ShrunkCorrelation)
def test_the_filtration_conforms(check):
    check()


@parametrize_with_checks("loss", candidates.HingedDeaths)
def test_hinged_deaths_conform(check):
    check()


@parametrize_with_checks("loss", candidates.SquaredDeaths)
def test_squared_deaths_conform(check):
    check()


@pytest.mark.parametrize(
    ("regulariser", "expected"),
    [
        # Shrunk by 1: 2 / sqrt(2 * 5), and 0 for the third.
        (candidates.shrunk, -(1 - 2 / sqrt(10)) - 1),
        (candidates.shrunk_squares, 4 / 10),
        # Deaths 0 and 1.
        (candidates.hinged, 0.5),
        (candidates.squares, 1.0),
        # The layers are the first neuron, and the other two: their death is 1.
        (candidates.t1_of_each_layer, -1.0),
        (candidates.covariance_tree_of_each_layer, 0.0),
    ],
)
def test_values_by_hand(regulariser, expected):
    layers = {"first": THREE[:, :1], "second": THREE[:, 1:]}
    assert regulariser().of_layers(layers).item() == pytest.approx(expected, abs=1e-12)


def test_t1_of_a_path_by_hand():
    path = topoloss.regulariser("random-path").pairs(THREE).tolist()
    # The first two neurons copy each other, and the third is constant.
    expected = -sum(set(pair) != {0, 1} for pair in path)
    assert candidates.t1_of_a_path()(THREE).item() == pytest.approx(expected, abs=1e-12)


def test_trees_are_minimum_ones_of_the_edges_that_are_left():
    torch.manual_seed(0)
    x = torch.randn(30, 8, dtype=torch.float64)
    pairs = candidates.DisjointTrees(count=3).pairs(x)
    lengths = 1 - np.abs(np.corrcoef(x.T.numpy()))
    np.fill_diagonal(lengths, 0)
    for tree in pairs.split(7):
        i, j = tree.T.numpy()
        assert lengths[i, j].sum() == pytest.approx(minimum_spanning_tree(lengths).sum())
        lengths[i, j] = lengths[j, i] = 0  # to scipy no edge
    squares = torch.cov(x.T, correction=0)[pairs[:, 0], pairs[:, 1]].square()
    assert candidates.DisjointTrees(count=3)(x).item() == pytest.approx(squares.sum().item())


def test_several_paths_are_those_of_their_seeds():
    paths = [topoloss.regulariser("random-path", seed=seed)(THREE) for seed in range(4)]
    assert candidates.RandomPaths()(THREE).item() == pytest.approx(sum(paths).item())


def test_the_committed_rows_are_those_of_the_protocol():
    asked = candidate_runs.jobs()
    done = [(run.setup, run.arm, run.seed) for run in candidate_runs.finished()]
    assert set(done) == {(job.setup, job.arm, job.seed) for job in asked}
    assert len(done) == len(asked)


def test_what_the_page_says_is_what_the_runs_say():
    page = Path(__file__).parents[2] / "docs" / "candidates.md"
    text = " ".join(page.read_text("utf-8").split())
    found = candidate_runs.finished()
    narrow, few = (_gains(found, setup) for setup in candidate_runs.SETUPS.values())
    t1, over_variance = (narrow["T1, with variance at 0.01"][k][0] for k in (0, 1))
    assert f"gains {t1:.1f} points over none, and {over_variance:.1f} over `variance` alone" in text
    for control in ("T1 of a random path, with variance at 0.01", "naive, with variance at 0.01"):
        (gain, half), *_ = narrow[control]
        assert abs(gain - t1) < half
    certain = [name for name, (over_none, *_) in few.items() if over_none[0] > over_none[1]]
    assert certain == ["dropout"]


def _gains(finished, setup):
    """By arm the gain over each baseline, and half of its interval."""
    lines = candidate_runs.table([run for run in finished if run.setup == setup], setup)
    rows = [line.strip("| ").split(" | ") for line in lines.splitlines()[2:]]
    return {
        row[0]: [tuple(map(float, cell.split(" ± "))) for cell in row[3:] if "±" in cell]
        for row in rows
        if row[0] != "none"
    }


@pytest.mark.parametrize("title", candidate_runs.SETUPS)
def test_a_line_has_the_score_of_the_strength_that_validation_chose(title):
    setup = candidate_runs.SETUPS[title]
    finished = [run for run in candidate_runs.finished() if run.setup == setup]
    lines = candidate_runs.table(finished, setup).splitlines()[2:]
    assert len(lines) == len(candidate_runs.ARMS)
    means = {}
    for name in ("none", "t1"):
        by_strength = {}
        for run in finished:
            if run.arm.regulariser == name:
                by_strength.setdefault(run.arm.weight, []).append(run.outcome)
        validation = {w: fmean(o.validation_score for o in by_strength[w]) for w in by_strength}
        best = max(sorted(validation), key=validation.__getitem__)
        means[name] = 100 * fmean(outcome.test_score for outcome in by_strength[best])
        (line,) = (line for line in lines if line.startswith(f"| {name.replace('t1', 'T1')} |"))
        assert f" {means[name]:.2f} " in line
    assert f"{means['t1'] - means['none']:+.2f}" in line
