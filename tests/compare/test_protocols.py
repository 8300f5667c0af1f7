from dataclasses import replace

import pytest
import torch

import topoloss
from topoloss.compare import setups
from topoloss.compare.data import load
from topoloss.compare.networks import build, initialise
from topoloss.compare.paper import protocols as papers
from topoloss.compare.protocols import PROTOCOLS, TODAY, name_of, setup
from topoloss.compare.records import Arm, Protocol


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("model", ["net0", "conv"])
def test_every_protocol_is_recognised_whatever_its_patience(model, protocol):
    made = setup(model, "digits", protocol, patience=7)
    assert name_of(made) == protocol
    assert made.protocol.patience == 7


def test_protocols_of_the_paper_are_set_up_as_the_paper_does():
    for protocol in papers.PROTOCOLS:
        assert setup("vgg256", "mnist", protocol) == papers.setup("vgg256", "mnist", protocol)


def test_today_is_what_its_page_says():
    assert (
        replace(
            Protocol(),
            optimiser="adamw",
            initialisation="he",
            learning_rate=0.001,
            decay=1.0,
            warmup=30,
            patience=100,
            max_epochs=400,
        )
        == setup("net0", "digits", "today").protocol
    )
    tuned = setup("net0", "digits", "today", learning_rate=0.1, monitor="score")
    assert name_of(tuned) == "today"
    assert name_of(replace(tuned, protocol=replace(TODAY, batch_size=7))) == "own protocol"


@pytest.mark.parametrize("changes", [{"optimiser": "adam"}, {"initialisation": "hee"}])
def test_an_unknown_optimiser_or_initialisation_is_refused(changes):
    with pytest.raises(topoloss.OptionError, match=r"Did you mean|is not one of"):
        setup("net0", "digits", "today", **changes)


def test_a_warm_up_leaves_epochs_to_train():
    with pytest.raises(topoloss.OptionError, match="no epoch at the full weight"):
        setup("net0", "digits", "today", max_epochs=30)


def test_no_epoch_of_the_warm_up_is_the_best():
    """At rate 0 every epoch is alike, so the first after the warm-up is the best."""
    made = setup("net2", "wine", "today", learning_rate=0.0, warmup=3, max_epochs=50, patience=4)
    assert setups.run(made, Arm("none", 0.0), 0).outcome.epochs == 3 + 1 + 4 + 1


def test_he_s_weights_have_he_s_variance():
    torch.manual_seed(0)
    model = build("conv", load("digits")).append(torch.nn.Conv1d(4, 8, 5))
    model.append(torch.nn.Conv3d(4, 8, 3))
    initialise(model, "he")
    for layer in model:
        if type(layer).__name__ in ("Linear", "Conv1d", "Conv2d", "Conv3d"):
            w = layer.weight.detach()
            variance = 2 / w[0].numel()
            error = variance * (2 / w.numel()) ** 0.5
            assert abs(w.var(correction=0).item() - variance) < 4 * error
            assert not layer.bias.any()
    assert all((layer.weight == 1).all() for layer in model if "Norm" in type(layer).__name__)
