from dataclasses import replace

import pytest

import topoloss
from topoloss.compare.records import Arm, Outcome, Protocol, Run, Setup, columns, from_row, to_row


@pytest.fixture
def run(outcome):
    setup = Setup("net1", "a:b", Protocol(max_epochs=7, nesterov=False))
    return Run(setup, Arm("t1", 1e-5), 7, outcome(1 / 3, 0.1 + 0.2, diverged=True), True)


def test_a_row_is_read_back_as_it_was(run):
    """1/3 and 0.1 + 0.2 have no short decimal form."""
    assert from_row(Run, to_row(run)) == run


def test_a_row_is_text_under_the_documented_columns(run):
    row = to_row(run)
    assert list(row) == columns(Run)
    assert all(isinstance(text, str) for text in row.values())
    assert (row["model"], row["weight"], row["nesterov"]) == ("net1", "1e-05", "False")
    assert row["before_deaths"].split() == [str(n) for n in run.outcome.before.deaths]


def test_an_outcome_has_the_same_cells_alone_as_in_a_run(run):
    alone = to_row(run.outcome)
    assert alone.items() <= to_row(run).items()
    assert from_row(Outcome, alone) == run.outcome


@pytest.mark.parametrize(
    ("column", "text", "error"),
    [
        ("diverged", "yes", "'yes' is neither True nor False"),
        ("epochs", "many", "many"),
        ("after_deaths", "1 2 x", "x"),
    ],
)
def test_text_that_is_no_value_is_refused(run, column, text, error):
    with pytest.raises(ValueError, match=error):
        from_row(Run, to_row(run) | {column: text})


@pytest.mark.parametrize("column", ["seed", "after_median"])
def test_a_missing_column_is_refused(run, column):
    row = to_row(run)
    del row[column]
    with pytest.raises(KeyError, match=column):
        from_row(Run, row)


@pytest.mark.parametrize(
    ("option", "given", "meant"), [("monitor", "sore", "score"), ("layers", "trained", "trainable")]
)
def test_an_unknown_choice_is_refused(option, given, meant):
    with pytest.raises(topoloss.OptionError, match=f"Did you mean {meant!r}"):
        Protocol(**{option: given})


def test_an_arm_without_weight_goes_by_its_name():
    assert [str(Arm("t1", 0.001)), str(Arm("none", 0.0))] == ["t1=0.001", "none"]


def test_neurons_of_which_only_one_varies_have_no_correlation_among_the_varying(outcome):
    before = outcome(0.9, 0.9).before  # 5 deaths, so 6 neurons
    lonely = replace(before, deaths=(*[0] * 49, 5), constant=5)
    assert lonely.varying_correlation != lonely.varying_correlation  # NaN
