from dataclasses import replace

import pytest
import scipy.stats

from topoloss.compare import tables
from topoloss.compare.records import Arm, Measures, Protocol, Run, Setup
from topoloss.compare.statistics import select


def test_rows_by_hand(runs):
    none, t1 = tables.summarise(runs)
    assert (none.regulariser, t1.regulariser) == ("none", "t1")
    assert none.gain is None
    assert none.score == pytest.approx(91.0)
    assert none.deviation == pytest.approx(2**0.5)
    assert t1.score == pytest.approx(91.5)
    assert t1.gain == pytest.approx(((93 - 90) + (90 - 92)) / 2)
    assert t1.weights == {0.01: 2}


def test_each_weight_is_told_with_its_number_of_splits(runs):
    chosen = [replace(runs[4], seed=2), replace(runs[5], seed=3), *runs[:4]]
    assert "| 0.01 x 2, 0.1 x 2 |" in tables.summary(tables.summarise(chosen))


def test_one_split_has_no_deviation(runs):
    assert "| 90.00 |" in tables.summary(tables.summarise(runs[:1]))


def test_without_none_there_is_no_gain(runs):
    assert [row.gain for row in tables.summarise(runs[2:])] == [None]


def test_a_gain_is_of_the_splits_that_have_a_baseline(runs):
    assert tables.summarise([runs[0], *runs[4:]])[1].gain == pytest.approx(93 - 90)


def test_diverged_runs_are_marked(outcome):
    runs = [Run(Setup(), Arm("t1", 1.0), 0, outcome(0.1, 0.1, diverged=True))]
    assert "(1 diverged)" in tables.summary(tables.summarise(runs))


def test_runs_that_the_limit_of_epochs_ended_are_told(outcome):
    setup = Setup(protocol=Protocol(max_epochs=10))
    at_limit = [Run(setup, Arm("none", 0.0), seed, outcome(0.1, 0.1)) for seed in (0, 1)]
    assert "(2 stopped at the limit of epochs)" in tables.summary(tables.summarise(at_limit))
    stopped_before = [replace(run, outcome=replace(run.outcome, epochs=9)) for run in at_limit]
    assert "limit" not in tables.summary(tables.summarise(stopped_before))


def test_markdown_has_one_line_for_each_regulariser(runs):
    lines = tables.summary(tables.summarise(runs)).splitlines()
    assert lines[2:] == [
        "| none | - | 2 | 91.00 ± 1.41 | - | 10 | 1.0 |",
        "| t1 | 0.01 | 2 | 91.50 ± 2.12 | +0.50 | 10 | 1.0 |",
    ]


def test_a_weight_of_zero_that_was_chosen_is_told(runs):
    zero = [replace(runs[0], arm=Arm("t1", 0.0), seed=s) for s in (5, 6)]
    assert "| 0 x 2, 0.01 x 2 |" in tables.summary(tables.summarise(runs + zero))


def test_the_score_of_a_regression_has_its_name(outcome):
    runs = [Run(Setup(data="diabetes"), Arm("none", 0.0), 0, outcome(0.5, 0.4, metric="R2"))]
    assert "| test R2 (%) |" in tables.summary(tables.summarise(runs))
    assert "| median validation R2 (%) |" in tables.weights(runs, chosen=runs)


def test_neurons_and_time_by_hand(outcome):
    runs = [
        Run(Setup(), Arm("none", 0.0), 0, outcome(0.9, 0.9, seconds=2.0, epochs=20)),
        Run(Setup(), Arm("t1", 0.1), 0, outcome(0.9, 0.9, seconds=3.0, epochs=10, off=0.75)),
    ]
    # Seven neurons more, which are constant: of 13 * 12 pairs 6 * 5 have a correlation.
    after = runs[1].outcome.after
    after = replace(after, deaths=(*after.deaths[:-1], 7), constant=7)
    runs[1] = replace(runs[1], outcome=replace(runs[1].outcome, after=after))
    text = tables.neurons(runs)
    # Deaths all lie in the bins 10 and 40 of 50.
    assert "| none | 0 | 0 | 0.790 | 0.190 | 0.21 | 0.81 | 0.0 | 100.0 | 1.00 |" in text
    assert "| t1 | 0 | 7 | 0.790 | 0.988 | 0.21 | 0.81 | 75.0 | 300.0 | 3.00 |" in text


def test_every_weight_has_its_validation_scores_and_the_splits_that_chose_it(runs):
    text = tables.weights(runs, select(runs))
    assert "| t1 | 0.01 | 2 | 96.00 | 95.00 | 2 |" in text
    assert "| t1 | 0.1 | 2 | 95.50 | 94.00 | 0 |" in text


def test_differences_are_of_each_regularisers_own_splits(three, runs_of):
    more = runs_of(
        Setup(),
        *(("none", 0.0, s, 0.9, 0.9) for s in (2, 3)),
        *(("t1", 0.01, s, 0.9, 0.96) for s in (2, 3)),
    )
    text = tables.differences(select(three + more))
    assert "| t1 | none | 4 | +0.25 |" in text
    assert "| l2 | none | 2 | -10.50 |" in text


def test_differences_are_told_against_naive_as_well(three, runs_of):
    """Two splits: gains over naive 3 and 1, and each corrected p by scipy and by hand."""
    naive = runs_of(Setup(), ("naive", 0.1, 0, 0.90, 0.9), ("naive", 0.1, 1, 0.89, 0.9))
    text = tables.differences(select(three + naive))
    assert "| naive | none | 2 |" in text
    assert "| none | naive |" not in text  # the same once more
    # Student's t for 95% and 1 degree of freedom is 12.706; the deviation is sqrt(2).
    half = 12.7062 * 2**0.5 / 2**0.5
    interval = f"| t1 | naive | 2 | +2.00 | +1.00 to +3.00 | {2 - half:+.2f} to {2 + half:+.2f} |"
    t = [2 / ((1 / 2 + 800 / n) * 2) ** 0.5 for n in (600, 997)]
    p = " | ".join(f"{2 * scipy.stats.t.sf(each, 1):.3g}" for each in t)
    assert f"{interval} {p} |" in text
    assert "No paired differences" in tables.differences(select(three), baselines=("naive",))
    one_split = [run for run in three + naive if run.seed == 0]
    assert "and at least 2 splits." in tables.differences(select(one_split))


def test_weights_at_an_end_of_what_was_tried_are_told(runs, runs_of):
    # Split 0 chooses 0.01 and split 1, where weights tie, too.
    assert "beyond: t1 0.01, the lowest, on 2 of 2." in tables.edges(runs, select(runs))
    more = runs_of(Setup(), *(("t1", 0.001, s, 0.9, 0.5) for s in (0, 1)))
    inside = tables.edges(runs + more, select(runs + more))
    assert inside == "No split chose a weight at an end of those that were tried."
    assert inside in tables.weights(runs + more, select(runs + more))
    one = runs_of(Setup(), *(("t1", 0.001, s, 0.9, 0.5) for s in (0, 1)))
    assert tables.edges(one, one) == "Every regulariser was tried at one weight."


def test_a_test_part_that_is_always_the_same_licenses_no_corrected_test(runs):
    fixed = [replace(run, fixed_test=True) for run in runs]
    text = tables.differences(select(fixed))
    assert "| t1 | none | 2 | +0.50 | -2.00 to +3.00 | -31.27 to +32.27 | - | - |" in text
    assert "the splits say nothing about other test samples" in text


def test_measures_are_means_over_the_splits_that_know_them(runs):
    known = Measures(ece=0.02, nll=0.1, noisy_score=0.5, effective_rank=12.345)
    changed = [
        replace(run, outcome=replace(run.outcome, measures=measures, step_seconds=seconds))
        for run, measures, seconds in zip(
            runs[:3],
            (known, replace(known, ece=0.04), Measures()),
            (0.01, 0.03, None),
            strict=True,
        )
    ]
    text = tables.measures(changed)
    # Without a temperature the two are what they are unscaled.
    assert "| none | 3 | 0.1 | - | 3 | 0.1 | 50 | - | 12.3 | 20 |" in text
    assert "| t1 | - | - | - | - | - | - | - | - | - |" in text
    # A temperature of 4 and one of 1/4 are 1 in the middle, and half of the splits have none.
    temperatures = (
        replace(known, temperature=4.0, scaled_nll=0.3),
        replace(known, temperature=0.25, scaled_nll=0.5),
        known,
        known,
    )
    plain = [replace(r, seed=k, arm=runs[0].arm) for k, r in enumerate(runs[:4])]
    text = tables.measures(
        [
            replace(r, outcome=replace(r.outcome, measures=measures))
            for r, measures in zip(plain, temperatures, strict=True)
        ]
    )
    assert "| none | 2 | 0.1 | 1 (2 of 4 splits) | 2 (2 of 4 splits) | 0.25 |" in text
    assert "| accuracy with noise (%) |" in text
