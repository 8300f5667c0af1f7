"""More neurons than the regulariser can value in reasonable time are refused, with remedies."""

import csv
import re
from pathlib import Path

import pytest
import torch
from attaching.helpers import Net, batch, by_hand, penalty_by_hand
from torch import nn

import topoloss

BATCH = (2, 6, 6)


def convolutional():
    """4 * 4 * 4 = 64 neurons, then 3."""
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


class Star(topoloss.Persistence):
    """A tree that takes no time: every neuron is joined to the first."""

    orders = frozenset({"abs_dot_descending"})

    def from_features(self, v, order):
        others = torch.arange(1, len(v))
        return [topoloss.CriticalEdges(torch.stack([0 * others, others], 1))]


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
    assert "a step would take about 0.001 s" in message


def measured():
    """Steps of T1 that were timed on the processor which the estimates are about."""
    path = Path(__file__).parents[2] / "benchmarks/results/bfloat16/t1_step.csv"
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if row["contestant"] == "topoloss"]
    steps = [(int(row["neurons"]), int(row["samples"]), row["median_ms"]) for row in rows]
    return [(neurons, samples, float(ms) / 1000) for neurons, samples, ms in steps if ms]


@pytest.mark.parametrize(("neurons", "samples", "seconds"), measured())
def test_the_estimated_time_is_near_the_one_that_was_measured(neurons, samples, seconds):
    """Within a factor of 1.7: it is 1.67 for 1010 neurons, and at most 1.21 for all others."""
    seen = topoloss.observe(nn.Linear(1, neurons))
    with torch.no_grad():
        seen.model(batch(1, samples=samples))
        assert 1 / 1.7 < seconds / seen.describe().seconds < 1.7


def remedies(message):
    """The options that a refusal proposes, as Python would read them."""
    listed = re.search(r"one of: (.*)\. By layer", message).group(1)
    return [remedy.rpartition(" (")[0] for remedy in listed.split("; ")]


def autoencoder():
    """Its last layer is the largest."""
    layers = [nn.Linear(4, 20), nn.ReLU(), nn.Linear(20, 5), nn.ReLU(), nn.Linear(5, 40)]
    return nn.Sequential(*layers)


def deep():
    blocks = [layer for _ in range(9) for layer in (nn.Linear(8, 8), nn.Tanh())]
    return nn.Sequential(nn.Linear(4, 8), *blocks, nn.Linear(8, 3))


class CalledTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.again, self.head = nn.Linear(4, 12), nn.Linear(12, 12), nn.Linear(12, 3)

    def forward(self, x):
        return self.head(self.again(self.again(self.first(x).relu()).relu()))


class BareParameters(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode, self.last = nn.Linear(4, 6), nn.Linear(5, 3)
        self.w = nn.Parameter(torch.randn(6, 30))
        self.w2 = nn.Parameter(torch.randn(30, 5))

    def forward(self, x):
        return self.last(torch.relu(torch.relu(self.encode(x)) @ self.w) @ self.w2)


class EveryOther(topoloss.Sampler):
    def select(self, x):
        return torch.arange(0, x.shape[1], 2)


# A model, the shape of a sample, options, and the largest number of neurons.
REFUSED = {
    "convolutional": (convolutional, BATCH, {}, 50),
    "convolutional, by layer": (convolutional, BATCH, {"per": "layer"}, 50),
    "convolutional, a fraction": (convolutional, BATCH, {"fraction": 0.9}, 50),
    "convolutional, very few": (convolutional, BATCH, {}, 3),
    "channels": (convolutional, BATCH, {"units": "channel", "layers": "0"}, 3),
    "autoencoder": (autoencoder, (4,), {}, 45),
    "autoencoder, too few for its last": (autoencoder, (4,), {}, 30),
    "autoencoder, by layer": (autoencoder, (4,), {"per": "layer"}, 30),
    "deep": (deep, (4,), {}, 30),
    "deep, by layer": (deep, (4,), {"per": "layer"}, 7),
    "called twice": (CalledTwice, (4,), {}, 30),
    "bare parameters": (BareParameters, (4,), {}, 10),
    "bare parameters, by layer": (BareParameters, (4,), {"per": "layer"}, 10),
    "a sampler of one's own": (deep, (4,), {"sampler": EveryOther()}, 10),
    "a sampler": (deep, (4,), {"sampler": topoloss.sampler("random", fraction=0.5)}, 10),
    "a sampler by name": (deep, (4,), {"sampler": "random"}, 30),
    "called twice, few": (CalledTwice, (4,), {}, 20),
}


@pytest.mark.parametrize(("make", "shape", "options", "most"), REFUSED.values(), ids=REFUSED)
def test_each_remedy_works_as_it_is_printed(make, shape, options, most):
    model, x = make(), batch(*shape)
    penalty = topoloss.attach(model, max_neurons=most, **options)
    model(x)
    printed = remedies(refusal(penalty))
    assert printed
    for remedy in printed:
        given = {"max_neurons": most} | options | eval(f"dict({remedy})")
        mended = topoloss.attach(model, **given)
        model(x)
        value = mended()
        value.backward()
        assert value.isfinite()


def test_the_remedies_are_a_tree_for_each_layer_a_fraction_and_fewer_layers():
    model = deep()
    penalty = topoloss.attach(model, max_neurons=30)
    model(batch(4))
    # 83 neurons, the last 3 of which are always taken: room for 27 of the 80 others.
    named = "layers=['13', '15', '17', '19']"
    assert remedies(refusal(penalty)) == ['per="layer"', "fraction=0.33", named, "max_neurons=83"]


def test_of_many_layers_the_largest_are_named():
    model = deep()
    penalty = topoloss.attach(model, max_neurons=30)
    model(batch(4))
    assert "6 smaller ones with 43 together" in refusal(penalty)


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


class MeanSquare(topoloss.Regulariser):
    def compute(self, x):
        return x.square().mean()


@pytest.mark.parametrize("regulariser", [MeanSquare(), "l1", "l2", "none"], ids=str)
def test_a_regulariser_without_a_tree_is_not_guarded(regulariser):
    model = nn.Linear(1, 40_000)
    penalty = topoloss.attach(model, "t1")
    model(batch(1))
    with pytest.raises(topoloss.TooLargeError):
        penalty()
    penalty = topoloss.attach(model, regulariser)
    model(batch(1))
    assert penalty().isfinite()


@pytest.mark.parametrize(("neurons", "refused"), [(32_768, False), (32_769, True)])
def test_the_default_limit_on_a_cpu_is_the_documented_one(neurons, refused):
    model = nn.Linear(1, neurons)
    penalty = topoloss.attach(model, topoloss.pipeline("correlation", Star(), "t1"))
    model(batch(1))
    if refused:
        assert "max_neurons is 32,768" in refusal(penalty)
    else:
        # All neurons are multiples of one input, so that all deaths are 0 but for rounding.
        torch.testing.assert_close(penalty(), torch.zeros(()), rtol=0, atol=neurons * 2**-23)


def test_the_default_limit_lets_the_papers_networks_pass():
    network = nn.Sequential(
        *(nn.Linear(8, 450), nn.ReLU(), nn.Linear(450, 350), nn.ReLU()),
        *(nn.Linear(350, 200), nn.ReLU(), nn.Linear(200, 10)),
    )
    penalty = topoloss.attach(network)
    network(batch(8))
    assert penalty.diagrams()[0].deaths.shape == (1009,)
