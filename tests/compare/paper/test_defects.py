import pytest
import torch

import topoloss
from topoloss.compare.data import load
from topoloss.compare.paper.defects import (
    OffWhenDegenerate,
    apply_to_data,
    apply_to_regulariser,
    fraction_off,
)
from topoloss.compare.records import Arm, Defects, Protocol, Setup
from topoloss.compare.setups import run

OFF = Defects(off_when_degenerate=True)


def generic():
    return torch.randn(8, 5, generator=torch.Generator().manual_seed(2)).requires_grad_()


def test_a_regulariser_is_on_in_generic_batches():
    x, plain = generic(), topoloss.regulariser("t1")
    switch = OffWhenDegenerate(plain)
    (gradient,) = torch.autograd.grad(switch(x), x)
    (expected,) = torch.autograd.grad(plain(x), x)
    assert torch.equal(gradient, expected)
    assert (switch.batches, switch.off) == (1, 0)


@pytest.mark.parametrize(("name", "off"), [("t1", (1, 1)), ("t2", (1, 1)), ("naive", (1, 0))])
def test_a_constant_neuron_and_copies_switch_off_what_they_break(name, off):
    """Copies lose the diagram a death; the mean correlation has no diagram."""
    for degenerate, expected in zip(("constant", "copies"), off, strict=True):
        x = generic().detach().clone()
        x[:, 1] = 3.0 if degenerate == "constant" else x[:, 0]
        switch = OffWhenDegenerate(topoloss.regulariser(name))
        value = switch(x)
        assert (switch.batches, switch.off) == (1, expected)
        assert (float(value) == 0.0) == bool(expected)


def test_the_fraction_of_batches_switched_off_is_told():
    switch = OffWhenDegenerate(topoloss.regulariser("t1"))
    assert fraction_off(switch) == 0.0
    for x in (generic(), torch.zeros(8, 5), generic(), generic()):
        switch(x)
    assert fraction_off(switch) == 0.25


@pytest.mark.parametrize("name", ["l1", "l2", "none"])
def test_only_regularisers_of_activations_are_switched_off(name):
    regulariser = topoloss.regulariser(name)
    assert apply_to_regulariser(OFF, regulariser) is regulariser
    assert fraction_off(regulariser) == 0.0


def test_without_defects_nothing_changes():
    digits, regulariser = load("digits"), topoloss.regulariser("t1")
    assert apply_to_data(Defects(), digits) is digits
    assert apply_to_regulariser(Defects(), regulariser) is regulariser


def test_pixels_are_divided_twice():
    twice = Defects(divide_twice=True)
    assert apply_to_data(twice, load("digits")).x.max() == 1 / 16
    with pytest.raises(topoloss.InputError, match="not images"):
        apply_to_data(twice, load("breast-cancer"))


NETWORK_WITH_A_DEAD_NEURON = """
import torch

def make():
    model = torch.nn.Sequential(torch.nn.Linear(64, 12), torch.nn.ReLU(), torch.nn.Linear(12, 10))
    with torch.no_grad():
        model[0].weight[0], model[0].bias[0] = 0.0, -1.0  # it stays dead
    return model
"""


def test_a_run_of_a_network_with_a_dead_neuron_is_that_of_no_regulariser(own_module):
    """Seen from outside: each batch is degenerate, so T1 changes nothing."""
    model = f"{own_module(NETWORK_WITH_A_DEAD_NEURON)}:make"
    faithful = Setup(model, "digits", Protocol(max_epochs=2), OFF)
    t1, plain = (run(faithful, arm, seed=0) for arm in (Arm("t1", 0.1), Arm("none", 0.0)))
    assert t1.outcome.off == 1.0
    assert t1.outcome.after == plain.outcome.after
    assert t1.outcome.validation_score == plain.outcome.validation_score
    fixed = run(Setup(model, "digits", Protocol(max_epochs=2)), Arm("t1", 0.1), seed=0)
    assert fixed.outcome.off == 0.0
    assert fixed.outcome.after != plain.outcome.after
