"""Numbers to log, and passes that are not recorded because observation is paused."""

import copy
import math
import pickle
import statistics

import oracles
import pytest
import torch
from attaching.helpers import Net, alive, batch, by_hand, hooks, outputs_of
from torch import nn

import topoloss


def deaths_by_hand(model, x):
    """By SciPy, in double precision."""
    joined = torch.cat(list(by_hand(model, x).values()), 1)
    return oracles.h0_deaths(oracles.dissimilarity(oracles.correlations(joined))).tolist()


def test_numbers_are_those_of_the_diagram():
    model, x = Net().double(), batch(4).double()
    penalty = topoloss.attach(model)
    model(x)
    penalty()
    deaths = deaths_by_hand(model, x)
    numbers = penalty.metrics(level=statistics.median(deaths))
    seconds = numbers.pop("seconds")
    assert seconds > 0
    # A ReLU that is off for the whole batch.
    constant = sum(len(set(h.tolist())) == 1 for each in by_hand(model, x).values() for h in each.T)
    assert penalty.metrics(level=penalty.deaths[0].item())["copies"] == 1  # the level included
    assert numbers == pytest.approx(
        {
            "value": oracles.t1(deaths),
            "median_death": statistics.median(deaths),
            "lowest_death": min(deaths),
            "copies": len(deaths) // 2,
            "constant": constant,
        },
        rel=1e-12,
    )
    assert penalty.deaths.tolist() == pytest.approx(deaths, rel=1e-12)
    assert not penalty.deaths.requires_grad


def test_numbers_are_plain_and_no_tensors():
    model = Net()
    penalty = topoloss.attach(model)
    model(batch(4))
    loss = 1 + 0.1 * penalty()
    assert {type(number) for number in penalty.metrics(loss, 0.1).values()} == {float, int}


class Given(nn.Module):
    """Puts out a parameter times what it is given."""

    def __init__(self, neurons):
        super().__init__()
        self.layer = nn.Linear(neurons, neurons, bias=False)
        self.layer.weight.data.copy_(torch.eye(neurons))

    def forward(self, x):
        return self.layer(x)


def test_copies_and_constant_neurons_are_counted():
    column = torch.randn(16)
    columns = [column, -2 * column, column + 3, torch.full((16,), 0.1), torch.zeros(16)]
    x = torch.stack([*columns, torch.randn(16)], 1)
    penalty = topoloss.attach(model := Given(6))
    model(x)
    penalty()
    numbers = penalty.metrics(level=1e-5)
    assert (numbers["copies"], numbers["constant"]) == (2, 2)
    assert numbers["lowest_death"] == pytest.approx(0, abs=1e-6)
    dropping = topoloss.pipeline(topoloss.filtration("correlation", constant="drop"), "mst", "t1")
    penalty = topoloss.attach(model, dropping)
    model(x)
    penalty()
    assert len(penalty.deaths) == 3  # edges at constant neurons have no weight


def test_activations_that_differ_by_rounding_alone_are_constant():
    one = torch.tensor(0.1)
    above = torch.nextafter(one, torch.tensor(1.0))
    beyond = one + 4 * (above - one)  # by more than float32's epsilon
    x = torch.stack([torch.stack([one, each] * 4) for each in (above, beyond)], 1)
    penalty = topoloss.attach(model := Given(2))
    model(x)
    penalty()
    assert penalty.metrics()["constant"] == 1


class TakesInputs(topoloss.Regulariser):
    inputs = True

    def compute(self, x):
        return x.square().mean()


def test_constant_inputs_of_the_model_are_no_constant_neurons():
    model = nn.Linear(4, 3)
    penalty = topoloss.attach(model, TakesInputs())
    x = batch(4)
    x[:, 0] = 1.0
    model(x)
    penalty()
    assert penalty.metrics()["constant"] == 0


def test_no_second_tree_is_made():
    made = []

    class Counting(type(topoloss.persistence("mst"))):
        def from_features(self, v, order):
            made.append(len(v))
            return super().from_features(v, order)

    model = Net()
    penalty = topoloss.attach(model, topoloss.pipeline("correlation", Counting(), "t1"))
    model(batch(4))
    penalty()
    penalty.metrics()
    assert len(penalty.deaths) == 16
    assert made == [17]


def test_the_share_of_the_loss():
    model, x = Net(), batch(4)
    penalty = topoloss.attach(model, "t2", warmup=2)
    for factor in (0, 0.5, 1):
        task = model(x).square().mean()
        value = penalty()
        loss = task + 0.25 * value
        expected = 1 - (task / loss).item()
        assert penalty.metrics(loss, 0.25)["share"] == pytest.approx(expected, abs=1e-6)
        assert penalty.metrics(loss.item(), 0.25)["share"] == pytest.approx(expected, abs=1e-6)
        assert (expected == pytest.approx(0, abs=1e-6)) == (factor == 0)
    assert "share" not in penalty.metrics()
    assert math.isnan(penalty.metrics(0.0, 0.25)["share"])


def test_between_applied_steps_the_numbers_are_the_latest_and_the_share_is_0():
    model, x = Net(), batch(4)
    penalty = topoloss.attach(model, every=2)
    model(x)
    value = penalty().item()
    model(2 * x)
    penalty()
    numbers = penalty.metrics(loss=1.0, weight=0.5)
    assert (numbers["value"], numbers["share"]) == (value, 0)


def test_deaths_of_all_layers_are_put_together_where_each_has_a_diagram():
    model, x = Net(), batch(4)
    penalty = topoloss.attach(model, per="layer")
    model(x)
    penalty()
    expected = [
        death for diagrams in penalty.diagrams().values() for death in diagrams[0].deaths.tolist()
    ]
    assert penalty.deaths.tolist() == pytest.approx(sorted(expected))


@pytest.mark.parametrize(
    ("regulariser", "keys"),
    [("l2", {"value", "seconds"}), ("naive", {"value", "constant", "seconds"})],
)
def test_without_diagrams_there_are_fewer_numbers(regulariser, keys):
    model = Net()
    penalty = topoloss.attach(model, regulariser)
    model(batch(4))
    penalty()
    assert penalty.metrics().keys() == keys
    with pytest.raises(topoloss.AttachmentError, match="no persistence diagrams"):
        _ = penalty.deaths


def test_a_skipped_batch_has_a_value_of_0():
    model = Net()
    penalty = topoloss.attach(model, on_small_batch="skip")
    model(batch(4))
    penalty()
    model(batch(4, samples=1))
    penalty()
    assert penalty.metrics(1.0, 1.0).keys() == {"value", "seconds", "share"}
    assert penalty.metrics(1.0, 1.0)["value"] == penalty.metrics(1.0, 1.0)["share"] == 0


def test_before_the_first_penalty_there_are_no_numbers():
    model = Net()
    penalty = topoloss.attach(model)
    model(batch(4))
    with pytest.raises(topoloss.AttachmentError, match="not called yet"):
        penalty.metrics()


@pytest.mark.parametrize("given", [{"loss": 1.0}, {"weight": 1.0}])
def test_the_share_needs_both_the_loss_and_the_weight(given):
    model = Net()
    penalty = topoloss.attach(model)
    model(batch(4))
    penalty()
    with pytest.raises(topoloss.OptionError, match=r"metrics\(loss, weight\)"):
        penalty.metrics(**given)


def test_a_level_that_is_no_number_is_refused():
    model = Net()
    penalty = topoloss.attach(model)
    model(batch(4))
    penalty()
    with pytest.raises(topoloss.OptionError, match="level='low'"):
        penalty.metrics(level="low")


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_a_copy_has_the_same_numbers(copied):
    model = Net()
    penalty = topoloss.attach(model)
    model(batch(4))
    penalty()
    assert copied((model, penalty))[1].metrics() == penalty.metrics()


def test_measuring_a_penalty_leaves_no_hook_on_the_loss():
    model = Net()
    penalty = topoloss.attach(model)
    for given, error in ((batch(4), None), (batch(4) + torch.nan, topoloss.NonFiniteError)):
        model(given)
        if error is None:
            penalty()
        else:
            with pytest.raises(error):
                penalty()
        assert hooks(penalty.regulariser) == []


# Pausing.


@pytest.mark.parametrize("make", [topoloss.observe, topoloss.attach])
def test_while_paused_passes_are_not_recorded(make):
    model, x = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)), batch(4)
    seen = make(model)
    model(x)
    seen.paused = True
    with outputs_of(model) as references:
        model(x)
    assert not alive(references)
    for ask in (seen.activations, seen.describe):
        with pytest.raises(topoloss.AttachmentError, match="paused"):
            ask()
    seen.paused = False
    model(x)
    assert list(seen.activations()) == ["0", "1"]


def test_a_pass_while_paused_is_no_step():
    model, x = Net(), batch(4)
    penalty = topoloss.attach(model, every=2)
    penalty.paused = True
    model(x)
    with pytest.raises(topoloss.AttachmentError, match="paused"):
        penalty()
    penalty.paused = False
    model(x)
    assert penalty().item() != 0


def test_a_copy_is_paused_too():
    model = Net()
    penalty = topoloss.attach(model)
    penalty.paused = True
    _, its_penalty = copy.deepcopy((model, penalty))
    assert its_penalty.paused


def test_paused_takes_true_or_false():
    with pytest.raises(topoloss.OptionError, match="paused=1"):
        topoloss.observe(Net()).paused = 1
