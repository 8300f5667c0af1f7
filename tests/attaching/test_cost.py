"""More neurons than the regulariser can value in reasonable time are refused, with remedies."""

import re

import pytest
import torch
from attaching.helpers import Net, batch, by_hand, penalty_by_hand
from torch import nn

import topoloss

BATCH = (2, 6, 6)


def convolutional():
    """4 * 4 * 4 = 64 neurons, then 3."""
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


class NoTree(topoloss.Persistence):
    """Fails the test if it is asked for a tree."""

    def critical_edges(self, filtration, v):
        pytest.fail("a tree was begun")


def refusal(penalty):
    with pytest.raises(topoloss.TooLargeError) as caught:
        penalty()
    return str(caught.value)


def test_too_many_neurons_are_refused_before_any_tree():
    model, x = convolutional(), batch(*BATCH)
    expected = model(x)
    reg = topoloss.pipeline("correlation", NoTree(), "t1")
    penalty = topoloss.attach(model, reg, max_neurons=50)
    for _ in range(2):
        assert torch.equal(model(x), expected)
        for ask in (penalty, penalty.diagrams):
            with pytest.raises(topoloss.TooLargeError):
                ask()


def test_looking_at_many_neurons_is_never_refused():
    model, x = convolutional(), batch(*BATCH)
    penalty = topoloss.attach(model, max_neurons=50)
    model(x)
    assert [len(index) for index in penalty.neurons.values()] == [64, 3]
    assert penalty.activations()["0"].shape == (6, 64)
    assert "0" in str(penalty.describe())
    seen = topoloss.observe(nn.Linear(4, 200_000, bias=False))
    seen.model(batch(4))
    assert seen.activations()["(model)"].shape == (6, 200_000)


def test_the_refusal_tells_the_count_by_layer_and_the_time():
    model = convolutional()
    penalty = topoloss.attach(model, max_neurons=50)
    model(batch(*BATCH))
    message = refusal(penalty)
    assert "67" in message
    assert re.search(r"'0'\D*64", message)
    assert re.search(r"'3'\D*3\b", message)
    assert "50" in message
    assert re.search(r"\d+(\.\d+)?(e-?\d+)? (s|ms|seconds?|minutes?|hours?)\b", message)


def remedies(message):
    """The options that a refusal proposes, as Python would read them."""
    patterns = [
        r"units=['\"]channel['\"], per=['\"]layer['\"]",
        r"fraction=[\d.e-]+",
        r"layers=\[[^\]]*\]",
        r"max_neurons=\w+",
    ]
    found = [re.search(pattern, message) for pattern in patterns]
    assert all(found), message
    return [match.group().rstrip(".") for match in found]


@pytest.mark.parametrize("which", range(4))
def test_each_remedy_works_as_it_is_printed(which):
    model, x = convolutional(), batch(*BATCH)
    penalty = topoloss.attach(model, max_neurons=50)
    model(x)
    options = eval(f"dict({remedies(refusal(penalty))[which]})")
    mended = topoloss.attach(model, **({"max_neurons": 50} | options))
    model(x)
    value = mended()
    value.backward()
    assert value.isfinite()


def test_without_a_limit_any_number_is_valued():
    model, x = Net(), batch(4, samples=16)
    penalty = topoloss.attach(model, max_neurons=None)
    model(x)
    torch.testing.assert_close(penalty(), penalty_by_hand(model, x))


@pytest.mark.parametrize(("limit", "refused"), [(16, True), (17, False)])
def test_as_many_neurons_as_allowed_are_valued(limit, refused):
    model, x = Net(), batch(4, samples=16)
    penalty = topoloss.attach(model, max_neurons=limit)
    model(x)
    if refused:
        refusal(penalty)
    else:
        torch.testing.assert_close(penalty(), penalty_by_hand(model, x))


@pytest.mark.parametrize(("limit", "refused"), [(7, True), (8, False)])
def test_layer_by_layer_the_largest_layer_counts(limit, refused):
    model, x = Net(), batch(4, samples=16)
    penalty = topoloss.attach(model, per="layer", max_neurons=limit)
    model(x)
    if refused:
        assert "'first'" in refusal(penalty)
    else:
        reg = topoloss.regulariser("t1")
        torch.testing.assert_close(penalty(), sum(map(reg, by_hand(model, x).values())))


COUNTED = {
    "a fraction": ({"fraction": 0.5}, 32 + 3),
    "channels": ({"units": "channel", "per": "layer"}, 4),
    "a layer": ({"layers": "3"}, 3),
    "a sampler": ({"sampler": "random", "fraction": 0.25}, 16 + 3),
}


@pytest.mark.parametrize(("options", "count"), COUNTED.values(), ids=COUNTED)
def test_what_counts_is_what_takes_part(options, count):
    model, x = convolutional(), batch(*BATCH)
    enough = topoloss.attach(model, max_neurons=count, **options)
    short = topoloss.attach(model, max_neurons=count - 1, **options)
    model(x)
    assert enough().isfinite()
    refusal(short)


@pytest.mark.parametrize("name", ["naive", "l1", "l2", "none"])
def test_a_regulariser_without_a_tree_is_not_guarded(name):
    model, x = Net(), batch(4, samples=16)
    penalty = topoloss.attach(model, name, max_neurons=2)
    model(x)
    assert penalty().isfinite()


def test_the_default_limit_lets_the_papers_networks_pass_and_stops_the_largest():
    network = nn.Sequential(
        *(nn.Linear(8, 450), nn.ReLU(), nn.Linear(450, 350), nn.ReLU()),
        *(nn.Linear(350, 200), nn.ReLU(), nn.Linear(200, 10)),
    )
    penalty = topoloss.attach(network)
    network(batch(8))
    assert penalty.diagrams()[0].deaths.shape == (1009,)
    wide = nn.Linear(2, 3_000_000, bias=False)
    reg = topoloss.pipeline("correlation", NoTree(), "t1")
    penalty = topoloss.attach(wide, reg)
    with torch.no_grad():
        wide(batch(2))
        refusal(penalty)
