"""Which neurons of a layer take part."""

import copy
from fractions import Fraction

import pytest
import torch
from torch import nn

import topoloss


def mlp():
    return nn.Sequential(
        nn.Linear(4, 20), nn.ReLU(), nn.Linear(20, 10), nn.Tanh(), nn.Linear(10, 3)
    )


def importance_by_rule(x, fraction):
    """The floor(P n) largest batch means of |activation|, lowest index first, in plain Python."""
    columns = x.double().abs().mean(0).tolist()
    count = Fraction(fraction) * len(columns) // 1
    ranked = sorted(range(len(columns)), key=lambda u: (-columns[u], u))
    return sorted(ranked[:count])


@pytest.mark.parametrize("fraction", ["0.01", "0.29", "0.5", "0.57", "0.999", "1.0"])
def test_importance_is_the_papers_rule(fraction):
    x = torch.randn(7, 100)
    sampler = topoloss.sampler("importance", fraction=float(fraction))
    assert sampler.select(x).tolist() == importance_by_rule(x, fraction)


def test_importance_breaks_ties_by_the_lowest_index():
    # Small integers tie exactly; a mean of negative numbers counts by its absolute value.
    x = torch.randint(-2, 3, (4, 200)).float()
    sampler = topoloss.sampler("importance", fraction=0.3)
    assert sampler.select(x).tolist() == importance_by_rule(x, "0.3")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_importance_does_not_rank_in_half_precision(dtype):
    # 256 and 256 + 1/64 are one number in either half precision, but not their means.
    x = torch.full((128, 3), 256.0, dtype=dtype)
    x[0, 1] += 2
    sampler = topoloss.sampler("importance", fraction=0.4)
    assert sampler.select(x).tolist() == [1]


@pytest.mark.parametrize("name", ["importance", "random"])
@pytest.mark.parametrize(
    ("fraction", "n", "count"),
    # In binary 0.29 * 100 is 28.999... and 0.57 * 100 is 56.999...; the paper's floor is exact.
    [(0.29, 100, 29), (0.57, 100, 57), (0.1, 30, 3), (0.005, 199, 0), (0.005, 200, 1), (1, 7, 7)],
)
def test_the_count_is_the_floor_of_the_decimal_fraction(name, fraction, n, count):
    chosen = topoloss.sampler(name, fraction=fraction).select(torch.randn(3, n))
    assert chosen.shape == (count,)
    assert chosen.dtype == torch.int64


@pytest.mark.parametrize("name", ["importance", "random", "all"])
def test_indices_ascend_without_repetition(name):
    options = {} if name == "all" else {"fraction": 0.5}
    chosen = topoloss.sampler(name, **options).select(torch.randn(5, 64)).tolist()
    assert chosen == sorted(set(chosen))


def test_all_takes_every_neuron():
    assert topoloss.sampler("all").select(torch.zeros(2, 5)).tolist() == [0, 1, 2, 3, 4]


def draws(sampler, times=3):
    return [sampler.select(torch.zeros(2, 50)).tolist() for _ in range(times)]


def test_random_is_fixed_by_its_seed_alone():
    def make(seed):
        return topoloss.sampler("random", fraction=0.5, seed=seed)

    first = draws(make(3))
    torch.manual_seed(99)
    assert draws(make(3)) == first
    assert draws(make(4)) != first
    assert len({tuple(d) for d in first}) == 3


def test_random_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    draws(topoloss.sampler("random", fraction=0.5))
    assert torch.equal(torch.get_rng_state(), before)


def test_random_reaches_every_neuron():
    sampler = topoloss.sampler("random", fraction=0.5)
    assert set().union(*draws(sampler, 20)) == set(range(50))


def test_a_copy_of_random_goes_on_with_the_same_draws():
    sampler = topoloss.sampler("random", fraction=0.5)
    draws(sampler)
    assert draws(copy.deepcopy(sampler)) == draws(sampler)


@pytest.mark.parametrize("fraction", [0, -0.5, 1.01, float("nan")])
@pytest.mark.parametrize("name", ["importance", "random"])
def test_a_fraction_outside_its_range_is_refused(name, fraction):
    with pytest.raises(topoloss.OptionError, match="0 < fraction <= 1"):
        topoloss.sampler(name, fraction=fraction)


# Attached to a model.


def test_importance_is_the_default_and_spares_the_last_layer():
    model, x = mlp(), torch.randn(16, 4)
    penalty = topoloss.attach(model, fraction=0.3)
    model(x)
    hidden = torch.relu(model[0](x))
    later = torch.tanh(model[2](hidden))
    chosen = {layer: index.tolist() for layer, index in penalty.neurons.items()}
    assert chosen == {
        "0": importance_by_rule(hidden.detach(), "0.3"),
        "2": importance_by_rule(later.detach(), "0.3"),
        "4": [0, 1, 2],
    }


@pytest.mark.parametrize("sampler", ["importance", "random"])
def test_a_sampled_penalty_is_that_of_the_chosen_neurons(sampler):
    model, x = mlp(), torch.randn(16, 4)
    penalty = topoloss.attach(model, "t2", sampler=sampler, fraction=0.4)
    model(x)
    value = penalty()
    hidden = torch.relu(model[0](x))
    later = torch.tanh(model[2](hidden))
    layers = {"0": hidden, "2": later, "4": model[4](later)}
    chosen = torch.cat([layers[name][:, index] for name, index in penalty.neurons.items()], 1)
    torch.testing.assert_close(value, topoloss.regulariser("t2")(chosen))


def test_a_layer_with_fewer_neurons_than_one_over_the_fraction_takes_no_part():
    model, x = mlp(), torch.randn(16, 4)
    penalty = topoloss.attach(model, fraction=0.01)
    out = model(x)
    assert [len(index) for index in penalty.neurons.values()] == [0, 0, 3]
    torch.testing.assert_close(penalty(), topoloss.regulariser("t1")(out))


@pytest.mark.parametrize("eval_pass", [False, True])
def test_random_draws_once_for_each_forward_pass(eval_pass):
    model, x = mlp(), torch.randn(16, 4)
    penalty = topoloss.attach(model, sampler="random", fraction=0.5, eval_pass=eval_pass)
    drawn = []
    for _ in range(4):
        model(x)
        neurons, value = penalty.neurons, penalty()
        assert torch.equal(penalty(), value)
        assert penalty.neurons["0"].tolist() == neurons["0"].tolist()
        drawn.append(tuple(neurons["0"].tolist()))
    assert len(set(drawn)) == 4


def test_the_fraction_goes_to_a_sampler_that_is_given_by_name_only():
    sampler = topoloss.sampler("importance", fraction=0.5)
    with pytest.raises(topoloss.OptionError, match="give it to the sampler"):
        topoloss.attach(mlp(), sampler=sampler, fraction=0.5)
    with pytest.raises(topoloss.OptionError, match="fraction"):
        topoloss.attach(mlp(), sampler="all", fraction=0.5)
    with pytest.raises(topoloss.OptionError, match=r"topoloss\.Sampler"):
        topoloss.attach(mlp(), sampler=0.5)
    with pytest.raises(topoloss.UnknownNameError, match="importance"):
        topoloss.attach(mlp(), sampler="importence")


class Chosen(topoloss.Sampler):
    """Whatever `choose` returns; notes what it was asked about."""

    def __init__(self, choose):
        self.choose = choose
        self.asked = []

    def select(self, x):
        self.asked.append((tuple(x.shape), x.requires_grad))
        return self.choose(x)


def test_a_custom_sampler_is_asked_about_every_layer_but_the_last():
    model, x = mlp(), torch.randn(16, 4)
    sampler = Chosen(lambda x: torch.arange(0, x.shape[1], 5))
    penalty = topoloss.attach(model, sampler=sampler)
    model(x)
    value = penalty()
    assert sampler.asked == [((16, 20), False), ((16, 10), False)]
    assert [index.tolist() for index in penalty.neurons.values()] == [
        [0, 5, 10, 15],
        [0, 5],
        [0, 1, 2],
    ]
    hidden = torch.relu(model[0](x))
    later = torch.tanh(model[2](hidden))
    parts = [hidden[:, ::5], later[:, ::5], model[4](later)]
    torch.testing.assert_close(value, topoloss.regulariser("t1")(torch.cat(parts, 1)))


@pytest.mark.parametrize(
    "choose",
    [
        # As long as the layer itself, so easily taken for all of its neurons.
        pytest.param(lambda x: torch.zeros(x.shape[1], dtype=torch.bool), id="mask"),
        pytest.param(lambda x: torch.zeros(x.shape[1], dtype=torch.int64), id="repeated"),
        pytest.param(lambda x: [0, 1], id="list"),
        pytest.param(lambda x: None, id="nothing"),
        pytest.param(lambda x: torch.tensor([0.0, 1.0]), id="float"),
        pytest.param(lambda x: torch.tensor([[0, 1]]), id="matrix"),
        pytest.param(lambda x: torch.tensor([99]), id="beyond"),
        pytest.param(lambda x: torch.tensor([-1]), id="negative"),
    ],
)
def test_a_custom_sampler_that_returns_no_indices_is_an_error(choose):
    model = mlp()
    penalty = topoloss.attach(model, sampler=Chosen(choose))
    model(torch.randn(16, 4))
    with pytest.raises(topoloss.TopolossError, match="Chosen"):
        penalty()
