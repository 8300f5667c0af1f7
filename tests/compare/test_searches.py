import optuna
import pytest

import topoloss
from topoloss.compare.paper.protocols import WEIGHTS
from topoloss.compare.searches import Grid, Tpe, parse


def test_of_two_trials_of_one_weight_the_first_goes_on():
    """As when two processes queue a weight at once."""
    study = optuna.create_study(direction="maximize")
    grid = Grid("l2", (1e-5,))
    for _ in range(2):
        study.enqueue_trial({"weight": 1e-5}, user_attrs={"weight": 1e-5})
    first, second = study.ask(), study.ask()
    with pytest.raises(optuna.TrialPruned):
        grid.weight(second)
    assert grid.weight(first) == 1e-5
    study.tell(first, 1.0)
    study.enqueue_trial({"weight": 1e-5}, user_attrs={"weight": 1e-5})
    with pytest.raises(optuna.TrialPruned):
        grid.weight(study.ask())


def test_a_trial_that_found_the_queue_empty_is_pruned():
    study = optuna.create_study(direction="maximize")
    with pytest.raises(optuna.TrialPruned):
        Grid("l2", (1e-5,)).weight(study.ask())


def test_tpe_counts_a_weight_once_that_is_there_twice():
    """As when two processes restore known runs at once."""
    search = Tpe("l2", 1e-6, 1e-2, trials=2)
    study = optuna.create_study(direction="maximize")
    for _ in range(2):
        study.add_trial(
            optuna.trial.create_trial(
                params={"weight": 1e-4},
                distributions={"weight": search.distribution()},
                value=0.5,
            )
        )
    assert search.offer(study)
    assert 1e-6 <= search.weight(study.ask()) <= 1e-2
    assert not search.offer(study)


def test_parse_keeps_order_and_drops_repetitions():
    searches = parse(["t1=1e-2,1e-3", "none", "t1=0.01,5"])
    assert searches == [Grid("t1", (0.01, 0.001, 5.0)), Grid("none", (0.0,))]


def test_options_belong_to_the_name_of_an_arm():
    assert parse(["t1=1", "t1[reduction=mean]=1e-2,1", "t1[ reduction='mean' ]=5"]) == [
        Grid("t1", (1.0,)),
        Grid("t1[reduction=mean]", (0.01, 1.0, 5.0)),
    ]
    assert parse(["cosine/mst/t2[alpha=1]=paper"]) == [Grid("cosine/mst/t2[alpha=1]", WEIGHTS)]
    assert parse(["t1[reduction=mean]=1,2"], trials=3) == [Tpe("t1[reduction=mean]", 1, 2, 3)]


def test_parse_knows_the_papers_grid():
    assert parse(["t1=paper"]) == [Grid("t1", WEIGHTS)]
    assert parse(["none", "t1=paper"], trials=4) == [
        Grid("none", (0.0,)),
        Tpe("t1", 1e-6, 100.0, 4),
    ]


@pytest.mark.parametrize(
    ("arms", "trials", "error", "message"),
    [
        (["t9=1"], None, topoloss.UnknownNameError, "no regulariser is named 't9'"),
        (["t1"], None, topoloss.OptionError, "has no weight; write t1=WEIGHT"),
        (["none", "densification=1"], None, topoloss.InputError, "attach knows no labels"),
        (["t1=x"], None, topoloss.OptionError, "'x' is not a number"),
        (["t1=-1"], None, topoloss.OptionError, "'-1' is not a number between"),
        (["t1=nan"], None, topoloss.OptionError, "'nan' is not a number between"),
        ([], None, topoloss.OptionError, "no regulariser was given"),
        (["t1[reduction=mean]x=1"], None, topoloss.OptionError, "'x=1' follows"),
        (["cosine/mst=1"], None, topoloss.OptionError, "a pipeline has three"),
        (["t1[reduction=mean]=1"], 5, topoloss.OptionError, r"t1\[reduction=mean\]=1 is no range"),
        (["t1=1"], 5, topoloss.OptionError, "t1=1 is no range to search"),
        (["t1=0,1"], 5, topoloss.OptionError, "t1=0,1 is no range to search"),
        (["t1=1,2,3"], 5, topoloss.OptionError, "t1=1,2,3 is no range to search"),
    ],
)
def test_arms_that_cannot_be_searched_are_refused(arms, trials, error, message):
    with pytest.raises(error, match=message):
        parse(arms, trials)
