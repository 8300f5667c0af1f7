import numpy as np
import pandas as pd
import pytest
import scipy.stats

import topoloss
from topoloss.compare.records import Arm, Run, Setup
from topoloss.compare.statistics import (
    best_on_average,
    corrected_t_test,
    critical_difference,
    friedman,
    mean_ranks,
    nemenyi,
    of_blocks,
    paired_difference,
    scores,
    select,
)

# The block design in the documentation of scikit-posthocs' posthoc_nemenyi_friedman.
BLOCKS = [[31, 27, 24], [31, 28, 31], [45, 29, 46], [21, 18, 48], [42, 36, 46], [32, 17, 40]]
SETUP = Setup()
TABLE = pd.DataFrame(BLOCKS, columns=["a", "b", "c"])


@pytest.fixture
def run(outcome):
    def make(name, weight, seed, test, validation, setup=SETUP):
        return Run(setup, Arm(name, weight), seed, outcome(test, validation))

    return make


def test_the_weight_is_chosen_by_validation_and_a_tie_by_the_least(run):
    runs = [
        run("t1", 0.1, 0, test=0.99, validation=0.94),
        run("t1", 0.1, 1, test=0.95, validation=0.97),
        run("t1", 0.01, 0, test=0.93, validation=0.95),
        run("t1", 0.01, 1, test=0.90, validation=0.97),
    ]
    # Split 0: 0.95 beats 0.94, whatever the test score. Split 1: a tie.
    assert select(runs) == select(runs[::-1]) == runs[2:]


def test_each_network_split_and_regulariser_chooses_for_itself(run):
    other = Setup("net2")
    runs = [
        run("none", 0.0, 0, 0.9, 0.9),
        run("t1", 1.0, 0, 0.9, 0.8),
        run("t1", 2.0, 0, 0.9, 0.7),
        run("t1", 1.0, 0, 0.9, 0.7, other),
        run("t1", 2.0, 0, 0.9, 0.8, other),
    ]
    assert select(runs) == [runs[0], runs[1], runs[4]]


def test_the_best_weight_on_average_is_chosen_for_all_splits_and_of_a_tie_the_smallest(run):
    """Mean validation scores: t1 0.85, 0.85 and 0.8; split 1 alone would choose the last."""
    runs = [
        *(run("t1", 10.0, 1, 0.1, 0.9), run("t1", 10.0, 0, 0.2, 0.8)),
        *(run("t1", 0.1, 1, 0.3, 0.8), run("t1", 0.1, 0, 0.4, 0.9)),
        *(run("t1", 2.0, 1, 0.9, 1.0), run("t1", 2.0, 0, 0.9, 0.6)),
        run("none", 0.0, 0, 0.5, 0.5),
    ]
    assert best_on_average(runs) == [runs[3], runs[2], runs[6]]


def test_scores_hold_complete_splits_only(run):
    table = scores([run("none", 0.0, s, 0.5 + s / 10, 0) for s in (2, 0)] + [run("t1", 1, 2, 1, 0)])
    assert table.to_dict() == {"none": {2: 70.0}, "t1": {2: 100.0}}


def test_scores_of_several_setups_are_refused(run):
    runs = [run("t1", 1, 0, 1, 1), run("t1", 1, 0, 1, 1, Setup("net2"))]
    with pytest.raises(topoloss.InputError, match="runs of several setups"):
        scores(runs)


def test_mean_ranks_by_hand():
    # Ranks from the best: 1 2 3, 1.5 3 1.5, 2 3 1, 2 3 1, 2 3 1, 2 3 1.
    expected = {"a": 10.5 / 6, "b": 17 / 6, "c": 8.5 / 6}
    assert mean_ranks(TABLE).to_dict() == pytest.approx(expected)


def test_friedman_by_its_formula():
    """Without the tied block, where the formula needs no correction; tied by scipy."""
    table = TABLE.drop(1)
    k, n = 3, 5
    sums = np.array([9, 14, 7])  # of the ranks, from the best
    by_hand = 12 / (n * k * (k + 1)) * (sums**2).sum() - 3 * n * (k + 1)
    assert friedman(table).statistic == pytest.approx(by_hand)
    assert friedman(table).p == pytest.approx(np.exp(-by_hand / 2))  # chi-square, 2 degrees
    tied = scipy.stats.friedmanchisquare(*zip(*BLOCKS, strict=True))
    assert friedman(TABLE) == pytest.approx(tied)


def test_nemenyi_and_the_critical_difference_are_one_test():
    """P is 5% where two mean ranks are just a critical difference apart."""
    p = nemenyi(TABLE)
    q = (mean_ranks(TABLE)["b"] - mean_ranks(TABLE)["c"]) / np.sqrt(3 * 4 / (6 * 6))
    assert p.loc["b", "c"] == pytest.approx(
        scipy.stats.studentized_range.sf(q * np.sqrt(2), 3, np.inf)
    )
    alpha = p.loc["b", "c"]
    assert critical_difference(3, 6, alpha) == pytest.approx(17 / 6 - 8.5 / 6)


# Demsar (2006), table 5(a): q at 5% for 2 to 10 classifiers.
@pytest.mark.parametrize(
    ("treatments", "q"),
    list(enumerate([1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164], start=2)),
)
def test_critical_values_of_the_literature(treatments, q):
    expected = q * np.sqrt(treatments * (treatments + 1) / (6 * 10))
    # Printed to three decimals, some of them truncated.
    assert critical_difference(treatments, 10) == pytest.approx(expected, abs=1.5e-3 * expected / q)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (TABLE[["a", "b"]], "2 treatments on 6 blocks"),
        (TABLE[:1], "3 treatments on 1 blocks"),
        (TABLE * 0, "all scores of each block are tied"),
    ],
)
@pytest.mark.parametrize("test", [friedman, nemenyi])
def test_tables_that_cannot_be_ranked_are_refused(test, table, message):
    with pytest.raises(topoloss.InputError, match=message):
        test(table)


def test_the_corrected_variance_by_hand():
    # Mean 2, variance 1, 4 splits: sqrt((1/4 + 800/600) * 2/3) with differences 1 2 2 3.
    t, p = corrected_t_test([1, 2, 2, 3], 800 / 600)
    assert t == pytest.approx(2 / np.sqrt((1 / 4 + 4 / 3) * (2 / 3)))
    assert p == pytest.approx(2 * scipy.stats.t.sf(t, 3))


def test_without_overlap_the_corrected_test_is_the_paired_t_test():
    differences = [0.3, -0.2, 0.8, 0.1, 0.5]
    assert corrected_t_test(differences, 0) == pytest.approx(
        tuple(scipy.stats.ttest_1samp(differences, 0))
    )


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        *(([0, 0], (0, 1)), ([2, 2], (np.inf, 0)), ([-2, -2], (-np.inf, 0))),
        *(([0.1] * 3, (np.inf, 0)), ([91.3 - 90, 92.3 - 91, 60.3 - 59], (np.inf, 0))),
    ],
)
def test_equal_differences_have_an_infinite_statistic_or_0(differences, expected):
    assert corrected_t_test(differences, 1.0) == expected


def test_one_difference_is_refused():
    with pytest.raises(topoloss.InputError, match="at least 2"):
        corrected_t_test([1], 1.0)


def test_the_interval_is_that_of_the_percentiles_of_resampled_means():
    """All 5**5 equally likely resamples, counted, bound what 9999 draws may say."""
    differences = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    every = differences[np.stack(np.meshgrid(*[range(5)] * 5), -1).reshape(-1, 5)].mean(1)
    plain = np.array([3.0, 1.0, 4.0, 1.0, 5.0])
    table = pd.DataFrame({"none": plain, "t1": plain + differences})
    got = paired_difference(table, "t1", "none", 1.0)
    assert got.mean == pytest.approx(6.2)
    # Four standard errors of a drawn 2.5% quantile: 0.025 +- 4 * sqrt(0.025 * 0.975 / 9999).
    slack = 4 * np.sqrt(0.025 * 0.975 / 9999)
    for end, level in ((got.low, 0.025), (got.high, 0.975)):
        low, high = np.quantile(every, [level - slack, level + slack])
        assert low <= end <= high


def test_student_s_interval_is_scipy_s():
    differences = np.array([0.3, -0.2, 0.8, 0.1, 0.5, 1.9, 0.4, 0.2])
    table = pd.DataFrame({"none": np.zeros(8), "t1": differences})
    got = paired_difference(table, "t1", "none", 1.0)
    expected = scipy.stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert (got.t_low, got.t_high) == pytest.approx(tuple(expected))
    # Over few splits the bootstrap's is narrower.
    assert got.t_low < got.low < got.high < got.t_high


def test_rows_of_one_block_become_their_mean_rank():
    table = pd.DataFrame(
        {"a": [0.9, 0.5, 10, 7], "b": [0.8, 0.6, 30, 7], "c": [0.7, 0.7, 20, 1]},
    )
    found = of_blocks(table, ["digits", "digits", "wine", "diabetes"])
    assert found.index.tolist() == ["digits", "wine", "diabetes"]
    # On digits ranks 1 2 3 and 3 2 1.
    assert found.loc["digits"].tolist() == [-2, -2, -2]
    assert found.loc["wine"].tolist() == [-3, -1, -2]
    assert found.loc["diabetes"].tolist() == [-1.5, -1.5, -3]
    # Blocks of one row each rank as they did.
    pd.testing.assert_series_equal(mean_ranks(of_blocks(TABLE, list("uvwxyz"))), mean_ranks(TABLE))
    assert friedman(of_blocks(TABLE, list("uvwxyz"))) == friedman(TABLE)


def test_copies_of_a_setup_add_no_block():
    """Ten copies of each row leave the p-value as it is; taken for blocks they would shrink it."""
    copies = pd.concat([TABLE] * 10, ignore_index=True)
    assert friedman(of_blocks(copies, list("uvwxyz") * 10)) == pytest.approx(friedman(TABLE))
    assert friedman(copies).p < friedman(TABLE).p / 10
