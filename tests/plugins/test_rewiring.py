"""Cosine-similarity rewiring: which connections move by hand, and what training leaves sparse."""

import copy
import gc
import io
import itertools
import math
import weakref

import copying
import pytest
import torch
from oracles import cosines
from topoloss_rewiring import moved, rewire
from torch import nn

import topoloss

# Cosines of the inputs' columns with the output: 0, 1/sqrt(2), 1 and -1.
X = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 2.0, -3.0]])
Y = torch.tensor([[0.0], [5.0]])


def test_the_weakest_connection_gives_way_to_the_most_alike():
    """Of |w| 3 and 0.5 the second goes; of free |cos| 1 and 1 the first comes, sign or not."""
    connected = torch.tensor([[True, True, False, False]])
    weight = torch.tensor([[3.0, -0.5, 0.0, 0.0]])
    found = moved(connected, weight, X, Y, fraction=0.5)
    assert found.tolist() == [[True, False, True, False]]
    opposite = moved(connected, weight, X[:, [0, 1, 0, 3]], Y, fraction=0.5)
    assert opposite.tolist() == [[True, False, False, True]]


def test_what_goes_does_not_come_back_at_once():
    """The third has the least weight; of all it is most like the output, as is the fourth."""
    connected = torch.tensor([[True, True, True, False]])
    weight = torch.tensor([[3.0, 2.0, 0.1, 0.0]])
    found = moved(connected, weight, X, Y, fraction=0.4)
    assert found.tolist() == [[True, True, False, True]]


@pytest.mark.parametrize("fraction", [0.1, 0.4, 1.0])
def test_connections_of_all_outputs_compete_for_the_same_places(fraction):
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(7, size, generator=generator) for size in (6, 5))
    connected = torch.rand(5, 6, generator=generator) < 0.5
    # Many weights tie: of these the first goes, row by row.
    weight = torch.randint(-2, 3, (5, 6), generator=generator).float()
    alike = abs(cosines(torch.cat((x, y), 1))[6:, :6])
    places = list(itertools.product(range(5), range(6)))
    kept = sorted((at for at in places if connected[at]), key=lambda at: abs(weight[at].item()))
    free = sorted((at for at in places if not connected[at]), key=lambda at: -alike[at])
    count = min(math.floor(fraction * len(kept)), len(free))
    expected = torch.zeros(5, 6, dtype=torch.bool)
    for at in kept[count:] + free[:count]:
        expected[at] = True
    assert count > 0
    assert torch.equal(moved(connected, weight, x, y, fraction), expected)


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [
        (0.0, [True, True, True, False]),
        (0.3, [True, True, True, False]),  # floor(0.9)
        (1.0, [False, True, True, True]),  # one place is free, so that one moves
    ],
)
def test_no_more_move_than_asked_and_than_there_are_places(fraction, expected):
    connected = torch.tensor([[True, True, True, False]])
    weight = torch.tensor([[0.1, 2.0, 3.0, 0.0]])
    assert moved(connected, weight, X, Y, fraction).tolist() == [expected]


def test_the_share_that_moves_is_that_of_the_fraction_as_written():
    """0.29 of 100 are 29, though the product of floats is 28.999999999999996."""
    connected = torch.arange(200)[None] < 100
    x = torch.rand(5, 200, generator=torch.Generator().manual_seed(0))
    found = moved(connected, torch.rand(1, 200), x, x[:, :1], fraction=0.29)
    assert int((connected & ~found).sum()) == 29


def test_a_constant_zero_neuron_is_like_none():
    connected = torch.tensor([[True, False, False, False]])
    silent = X * torch.tensor([1.0, 1.0, 0.0, 0.0])
    found = moved(connected, torch.ones(1, 4), silent, Y, fraction=1)
    assert found.tolist() == [[False, True, False, False]]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 3))


def train(model, optimiser, penalty, x, steps=3):
    for _ in range(steps):
        optimiser.zero_grad()
        (model(x).square().sum() + penalty()).backward()
        optimiser.step()


def test_training_keeps_the_connections_and_steps_move_them():
    model, x = network(), torch.randn(16, 10)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.1)
    with rewire(model, density=0.25, fraction=0.5) as sparse:
        assert [int(c.sum()) for c in sparse.connected.values()] == [20, 6]
        for _ in range(3):
            before = {name: c.clone() for name, c in sparse.connected.items()}
            train(model, optimiser, sparse, x)
            for name, connected in sparse.connected.items():
                assert not model.get_submodule(name).weight[~connected].any()
            sparse.step()
            assert [int(c.sum()) for c in sparse.connected.values()] == [20, 6]
            assert int((before["0"] & ~sparse.connected["0"]).sum()) == 10
    train(model, optimiser, lambda: 0, x)
    assert (model[0].weight != 0).all()  # weight by weight they learn again


def test_only_connected_weights_have_a_gradient_until_it_is_removed():
    """Those that are not connected count in no norm of the gradient, by which it may be clipped."""
    model, x = network(), torch.randn(16, 10)
    with rewire(model, density=0.25) as sparse:
        model(x).square().sum().backward()
        assert not model[0].weight.grad[~sparse.connected["0"]].any()
        assert torch.equal(model[2].weight.grad != 0, sparse.connected["2"])
    model.zero_grad()
    model(x).square().sum().backward()
    assert (model[2].weight.grad != 0).all()


def hidden_of(model, x):
    with torch.no_grad():
        return model[:2](x)


def test_a_step_is_that_of_the_latest_training_pass():
    """Inputs of the first layer, and its neurons after the activation."""
    model, x = network(), torch.randn(16, 10)
    sparse = rewire(model, density=0.5, fraction=0.3, layers=["0"])
    before, weight = sparse.connected["0"].clone(), model[0].weight.detach().clone()
    model(torch.randn(4, 10))
    model(x)
    expected = moved(before, weight, x, hidden_of(model, x), 0.3)
    model(x)
    sparse.step()
    assert torch.equal(sparse.connected["0"], expected)
    assert not torch.equal(expected, before)
    # What comes begins at 0, so that it changes nothing yet.
    assert torch.equal(model[0].weight, weight * (before & expected))
    sparse.remove()


def test_each_step_needs_a_training_pass_of_its_own():
    model, x = network(), torch.randn(16, 10)
    with rewire(model) as sparse:
        model(x)
        sparse.step()
        for use in (lambda: None, lambda: model.eval()(x)):
            use()
            with pytest.raises(topoloss.AttachmentError, match="since the last step"):
                sparse.step()


def test_a_pass_in_evaluation_mode_changes_no_step():
    """The validation after an epoch, of as many samples or of others."""
    x = torch.randn(16, 10)
    after = []
    for validation in (None, torch.randn(16, 10), torch.randn(5, 10)):
        model = network()
        with rewire(model, density=0.5, fraction=0.3) as sparse:
            model(x)
            if validation is not None:
                model.eval()
                for _ in range(2):
                    model(validation)
                model.train()
            sparse.step()
            after.append(sparse.connected)
    for connected in after[1:]:
        assert all(torch.equal(connected[name], after[0][name]) for name in connected)


def test_a_compiled_model_must_not_be_evaluated_before_a_step():
    model, x = network(), torch.randn(16, 10)
    with rewire(model, density=0.5) as sparse:
        before = sparse.connected["0"].clone()
        model(x)  # shows what follows each layer
        model.eval()(x)
        compiled = torch.compile(model.train(), backend="eager")
        compiled(x)
        sparse.step()
        assert not torch.equal(sparse.connected["0"], before)
        compiled(x)
        compiled.eval()
        compiled(x)
        with pytest.raises(topoloss.AttachmentError, match="after training and before evaluation"):
            sparse.step()


def test_a_layer_may_be_called_by_keyword_and_more_than_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x):
            return self.layer(input=torch.relu(self.layer(input=x)))

    torch.manual_seed(0)
    model, x = Twice(), torch.randn(9, 6)
    with rewire(model, density=0.5) as sparse:
        before = sparse.connected["layer"].clone()
        weight = model.layer.weight.detach().clone()
        model(x)
        expected = moved(before, weight, x, torch.relu(model.layer(x)).detach(), 0.3)
        sparse.step()
        assert torch.equal(sparse.connected["layer"], expected)


def test_attention_is_rewired_but_for_the_layer_that_it_does_not_call():
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    with rewire(model, density=0.3) as sparse:
        assert list(sparse.connected) == ["linear1", "linear2"]
        model(torch.randn(3, 5, 8))
        sparse.step()


def test_training_goes_on_from_a_checkpoint_with_its_connections():
    x, saved = torch.randn(16, 10), io.BytesIO()

    def make(seed):
        model = network()
        sparse = rewire(model, density=0.25, fraction=0.5, seed=seed)
        return model, sparse, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def epochs(model, sparse, optimiser, count):
        for _ in range(count):
            train(model, optimiser, sparse, x)
            sparse.step()

    first = make(seed=0)
    epochs(*first, 2)
    torch.save([each.state_dict() for each in first], saved)
    epochs(*first, 2)
    second = make(seed=1)
    saved.seek(0)
    for each, state in zip(second, torch.load(saved), strict=True):
        each.load_state_dict(state)
    epochs(*second, 2)
    for name, connected in first[1].connected.items():
        assert torch.equal(second[1].connected[name], connected)
    for ours, theirs in zip(first[0].parameters(), second[0].parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_loading_cuts_what_is_not_connected():
    model = network()
    with rewire(model, density=0.25) as sparse:
        state = sparse.state_dict()
        model.load_state_dict(network().state_dict())
        sparse.load_state_dict(state)
        for name, connected in state["connected"].items():
            assert torch.equal(model.get_submodule(name).weight != 0, connected)
        for wrong in ({}, {"connected": {}}, {"connected": {"0": torch.ones(2, 2)}}, None):
            with pytest.raises(topoloss.OptionError, match=r"expected \{'0': \(8, 10\)"):
                sparse.load_state_dict(wrong)


def test_a_copy_of_the_model_alone_is_not_kept_sparse_and_tells_the_original_nothing():
    model, x = network(), torch.randn(16, 10)
    with rewire(model, density=0.25) as sparse:
        model(x)
        alone = copy.deepcopy(model)
        train(alone, torch.optim.SGD(alone.parameters(), lr=0.1), lambda: 0, torch.randn(3, 10))
        assert (alone[0].weight != 0).all()
        expected = moved(
            sparse.connected["0"], model[0].weight.detach(), x, hidden_of(model, x), 0.3
        )
        sparse.step()
        assert torch.equal(sparse.connected["0"], expected)


@pytest.mark.parametrize("copied", copying.WAYS)
def test_model_and_rewiring_are_copied_together(copied):
    model, x = network(), torch.randn(16, 10)
    with rewire(model, density=0.25, fraction=0.5) as sparse:
        other, its = copied((model, sparse))
        before = its.connected["0"].clone()
        optimiser = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9)
        train(other, optimiser, its, x)
        its.step()
        assert int((before & ~its.connected["0"]).sum()) == 10
        assert torch.equal(sparse.connected["0"], before)
        train(other, optimiser, its, x)
        assert not other[0].weight[~its.connected["0"]].any()
        its.remove()
        _, removed = copied((other, its))
        with pytest.raises(topoloss.AttachmentError, match="was removed"):
            removed.step()


def test_a_model_that_moves_to_another_dtype_stays_sparse():
    model = network()
    with rewire(model, density=0.25) as sparse:
        model.double()
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
        train(model, optimiser, sparse, torch.randn(16, 10, dtype=torch.float64))
        sparse.step()
        assert not model[0].weight[~sparse.connected["0"]].any()


def frozen():
    return nn.Sequential(nn.Linear(4, 4).requires_grad_(False), nn.Linear(4, 2))


def tied():
    model = nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 8))
    model[1].weight = model[0].weight
    return model


def normed():
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (frozen, "layer '0' is frozen"),
        (tied, "layer '1' shares its weight: it is '0.weight' and '1.weight'"),
        (normed, "layer '0' computes its weight"),
    ],
)
def test_a_weight_that_is_not_a_layers_own_is_refused(make, message):
    with pytest.raises(topoloss.OptionError, match=message):
        rewire(make())


def test_a_layer_is_kept_sparse_once():
    model = network()
    sparse = rewire(model)
    with pytest.raises(topoloss.OptionError, match="layer '0' is kept sparse already"):
        rewire(model)
    sparse.remove()
    rewire(model).remove()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_nothing_is_alike_to_what_is_not_finite(bad):
    model = network()
    with rewire(model) as sparse:
        model(torch.full((3, 10), bad))
        with pytest.raises(topoloss.NonFiniteError, match="x and y hold NaN or infinity"):
            sparse.step()


def test_the_same_seed_begins_alike():
    one, two, other = (rewire(network(), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.connected["0"], two.connected["0"])
    assert not torch.equal(one.connected["0"], other.connected["0"])
    for sparse in (one, two, other):
        sparse.remove()


def test_removed_it_leaves_nothing_behind():
    model, other = network(), nn.Linear(2, 2)
    sparse = rewire(model, density=0.1)
    # Optimisers of other models are none of its business.
    optimiser = torch.optim.SGD(other.parameters(), lr=0.1)
    other(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    assert (other.weight != 0).all()
    sparse.remove()
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("trained", [False, True])
def test_model_and_rewiring_are_freed_together(trained):
    model = network()
    sparse = rewire(model)
    if trained:
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
        train(model, optimiser, sparse, torch.randn(16, 10))
        sparse.step()
        del optimiser
    gone = weakref.ref(model), weakref.ref(sparse)
    del model, sparse
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


def test_a_model_stays_sparse_where_nobody_keeps_the_rewiring():
    model = network()
    rewire(model, density=0.25)
    gc.collect()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    train(model, optimiser, lambda: 0, torch.randn(16, 10))
    assert int((model[0].weight != 0).sum()) == 20


def test_a_removed_rewiring_is_copied_beside_the_one_that_came_after_it():
    """The copy of the removed one neither touches the model nor frees its layers to be rewired."""
    model = network()
    removed = rewire(model)
    removed.remove()
    with rewire(model) as sparse:
        other, its, gone = copy.deepcopy((model, sparse, removed))
        with pytest.raises(topoloss.OptionError, match="layer '0' is kept sparse already"):
            rewire(other)
        its.remove()
        with pytest.raises(topoloss.AttachmentError, match="was removed"):
            gone.step()
        gone.remove()


def test_a_removed_rewiring_is_copied_with_a_frozen_model():
    model = network()
    removed = rewire(model)
    removed.remove()
    other, gone = copy.deepcopy((model.requires_grad_(False), removed))
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in other.modules())
    with pytest.raises(topoloss.AttachmentError, match="was removed"):
        gone.step()


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: rewire(None), "expected a Module"),
        (lambda: rewire(network(), density=0), "0 < density <= 1"),
        (lambda: rewire(network(), fraction=2), "0 <= fraction <= 1"),
        (lambda: rewire(network(), layers=["1"]), "linear layers, .'0', '2'"),
        (lambda: rewire(network(), layers=["0", "0"]), "each once"),
        (lambda: rewire(network(), layers=[]), "each once"),
        (lambda: rewire(nn.Sequential(nn.ReLU())), "Sequential has no linear layer that it calls"),
        (lambda: rewire(nn.MultiheadAttention(4, 2)), "MultiheadAttention has no linear layer"),
        (lambda: rewire(network(), layers=3), "a list of at least one name"),
        (lambda: rewire(network()).step(), "run the model in training mode"),
        (lambda: moved(X > 0, X, X, Y, 0.5), r"'y': \(2, 1\)"),
        (lambda: moved(X[:1] > 0, X[:1], X, Y, 2), "0 <= fraction <= 1"),
    ],
)
def test_wrong_uses_are_errors_of_the_library(use, message):
    with pytest.raises(topoloss.TopolossError, match=message):
        use()
