from dataclasses import replace

import pytest

import topoloss
from topoloss.compare.paper.protocols import PROTOCOLS, name_of, setup
from topoloss.compare.records import Defects, Protocol, Setup


def test_each_protocol_takes_one_more_of_the_authors_choices():
    names = ("default", "training-forward", "fixed", "switch-off", "faithful")
    ours, forward, fixed, off, faithful = (setup("net0", "digits", name) for name in names)
    assert ours == setup("net0", "digits") == Setup("net0", "digits", Protocol())
    assert forward == replace(ours, protocol=replace(ours.protocol, layers="trainable"))
    assert fixed == replace(forward, protocol=replace(forward.protocol, eval_pass=True))
    assert off == replace(fixed, defects=Defects(off_when_degenerate=True))
    assert faithful == replace(fixed, defects=Defects(off_when_degenerate=True, divide_twice=True))


def test_a_change_wins_over_what_the_name_sets():
    assert setup("net0", "digits", "fixed", layers="auto").protocol.layers == "auto"


def test_a_setup_keeps_the_networks_settings_but_for_the_changes():
    vgg = setup("vgg256", "cifar10", "fixed", patience=3)
    assert vgg.protocol == Protocol(
        learning_rate=0.001,
        decay=1.0,
        nesterov=False,
        fraction=0.005,
        layers="trainable",
        eval_pass=True,
        patience=3,
    )


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_is_known_by_its_name_whatever_its_other_settings(name):
    assert name_of(setup("vgg256", "cifar10", name, patience=3)) == name


def test_a_protocol_that_has_no_name_is_the_users_own():
    assert name_of(Setup(defects=Defects(divide_twice=True))) == "own protocol"


def test_an_unknown_protocol_is_refused():
    with pytest.raises(topoloss.OptionError, match="Did you mean 'fixed'"):
        setup("net0", "digits", "fix")
