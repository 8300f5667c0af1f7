"""What an observation tells of itself: end points of edges, a table, and its state."""

import copy

import pytest
import torch
from attaching.helpers import Net, assert_layers, batch, by_hand, hooks, penalty_by_hand
from torch import nn

import topoloss

# Where the end points of edges are.


def test_the_end_points_of_edges_are_units_of_layers():
    model = Net()
    penalty = topoloss.attach(model)
    model(batch(4, samples=16))
    edges = torch.tensor([[0, 7], [8, 13], [14, 16], [3, 15]])
    assert penalty.locate(edges) == [
        (("first", 0), ("first", 7)),
        (("second", 0), ("second", 5)),
        (("last", 0), ("last", 2)),
        (("first", 3), ("last", 1)),
    ]


def test_the_end_points_are_units_of_the_whole_layer_where_some_take_part():
    model, x = Net(), batch(4, samples=16)
    penalty = topoloss.attach(model, fraction=0.5)
    model(x)
    columns = [(name, int(unit)) for name, index in penalty.neurons.items() for unit in index]
    death_edges = penalty.diagrams()[0].death_edges
    expected = [(columns[i], columns[j]) for i, j in death_edges.tolist()]
    assert penalty.locate(death_edges) == expected
    # Each edge is as long as its end points are apart.
    layers = by_hand(model, x)
    for edge, death in zip(expected, penalty.diagrams()[0].deaths, strict=True):
        one, other = (layers[name][:, unit] for name, unit in edge)
        distance = 1 - torch.corrcoef(torch.stack([one, other]))[0, 1].abs()
        torch.testing.assert_close(distance, death)


def test_the_edges_of_one_layers_diagram_are_located_in_that_layer():
    model, x = Net(), batch(4, samples=16)
    penalty = topoloss.attach(model, per="layer", fraction=0.5)
    model(x)
    for name, (diagram,) in penalty.diagrams().items():
        units = penalty.neurons[name].tolist()
        expected = [((name, units[i]), (name, units[j])) for i, j in diagram.death_edges.tolist()]
        assert penalty.locate(diagram.death_edges, layer=name) == expected
        assert len(expected) == len(units) - 1


def test_no_edges_have_no_end_points():
    model = Net()
    seen = topoloss.observe(model)
    model(batch(4))
    assert seen.locate(torch.empty(0, 2, dtype=torch.int64)) == []
    assert seen.locate(torch.tensor([[1, 9]])) == [(("first", 1), ("second", 1))]


@pytest.mark.parametrize(
    ("edges", "layer", "message"),
    [
        ([[0, 17]], None, "neuron 17, but the neurons that take part are 0 to 16"),
        ([[0, 8]], "first", "neuron 8, but the neurons that take part are 0 to 7"),
        ([[-1, 2]], None, "neuron -1, but the neurons that take part are 0 to 16"),
        ([0, 1], None, r"edges of shape \(2,\) and dtype torch.int64"),
        ([[0.0, 1.0]], None, r"edges of shape \(1, 2\) and dtype torch.float32"),
        ([[0, 1]], "frist", "layer='frist' is not one of .*'first'"),
    ],
)
def test_edges_between_neurons_that_there_are_not_are_an_error(edges, layer, message):
    model = Net()
    seen = topoloss.observe(model)
    model(batch(4))
    with pytest.raises(topoloss.TopolossError, match=message):
        seen.locate(torch.tensor(edges), layer=layer)


# The table.


def convolutional():
    return nn.Sequential(
        *(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5)),
        *(nn.Flatten(), nn.Linear(64, 3)),
    )


@pytest.mark.parametrize("make", [topoloss.observe, topoloss.attach])
def test_the_table_names_each_layer_its_shape_and_its_units(make):
    model = convolutional()
    seen = make(model, fraction=0.25)
    model(batch(2, 6, 6))
    description = seen.describe()
    assert description.rows == [("0", (6, 4, 4, 4), 64, 16), ("5", (6, 3), 3, 3)]
    lines = [line.split() for line in str(description).splitlines()]
    assert lines[:4] == [
        ["layer", "output", "neurons", "taking", "part"],
        ["0", "(6,", "4,", "4,", "4)", "64", "16"],
        ["5", "(6,", "3)", "3", "3"],
        ["all", "67", "19"],
    ]


def test_the_table_estimates_the_time_of_the_neurons_that_take_part():
    def described(width, **options):
        model = nn.Sequential(nn.Linear(4, width), nn.Linear(width, 3))
        seen = topoloss.observe(model, **options)
        model(batch(4))
        return seen.describe()

    half, whole = described(4000, fraction=0.5), described(2000)
    assert half.seconds == whole.seconds < described(4000).seconds
    assert f"a step of T1 over all of them: about {half.seconds:.2g} s " in str(half)


def test_a_pass_may_be_made_for_the_table_alone_and_leaves_no_trace():
    model, x = convolutional(), batch(2, 6, 6)
    penalty = topoloss.attach(model, sampler="random", fraction=0.5)
    twin = copy.deepcopy(model)
    state, random, drawn = (
        copy.deepcopy(model.state_dict()),
        torch.get_rng_state(),
        copy.deepcopy(penalty.state_dict()),
    )
    installed, flags = hooks(model), [m.training for m in model.modules()]
    assert "(6, 4, 4, 4)" in str(penalty.describe(x))
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), random)
    assert [m.training for m in model.modules()] == flags
    assert hooks(model) == installed
    torch.testing.assert_close(penalty.state_dict()["sampler"], drawn["sampler"])
    assert all(p.grad is None for p in model.parameters())
    with pytest.raises(topoloss.AttachmentError, match=r"call model\(inputs\)"):
        penalty()
    torch.manual_seed(5)
    out = model(x)
    torch.manual_seed(5)
    assert torch.equal(out, twin(x))


def test_the_table_does_not_replace_the_latest_pass():
    model, x = Net(), batch(4)
    seen = topoloss.observe(model)
    model(x)
    seen.describe(batch(4, samples=9))
    assert_layers(seen, by_hand(model, x))


def test_a_table_may_be_asked_for_with_keywords():
    class Scaled(nn.Linear):
        def forward(self, x, *, scale):
            return super().forward(scale * x)

    seen = topoloss.observe(Scaled(4, 3))
    assert "(6, 3)" in str(seen.describe(batch(4), scale=2.0))


def test_without_a_pass_there_is_no_table():
    seen = topoloss.observe(Net())
    with pytest.raises(topoloss.AttachmentError, match=r"call model\(inputs\)"):
        seen.describe()


# The state.


def draws(model, penalty, passes):
    found = []
    for _ in range(passes):
        model(batch(4))
        found.append(penalty.neurons["first"].tolist())
    return found


@pytest.mark.parametrize("through_file", [False, True])
def test_the_state_goes_on_where_the_sampler_was(through_file, tmp_path):
    model = Net()
    penalty = topoloss.attach(model, sampler="random", fraction=0.5)
    draws(model, penalty, 3)
    state = penalty.state_dict()
    if through_file:
        torch.save(state, tmp_path / "state.pt")
        state = torch.load(tmp_path / "state.pt")
    later = draws(model, penalty, 4)
    # Neither the state nor another attachment is changed by what is drawn meanwhile.
    for _ in range(2):
        resumed = topoloss.attach(model, sampler="random", fraction=0.5)
        resumed.load_state_dict(state)
        assert draws(model, resumed, 4) == later
    assert len({tuple(index) for index in later}) > 1


def test_the_state_holds_the_number_of_skipped_batches():
    model = Net()
    penalty = topoloss.attach(model, on_small_batch="skip")
    model(batch(4, samples=1))
    penalty()
    resumed = topoloss.attach(model, on_small_batch="skip")
    resumed.load_state_dict(penalty.state_dict())
    assert resumed.skipped == penalty.skipped == 1


def test_its_representation_names_the_model_and_the_regulariser():
    model, regulariser = Net(), topoloss.regulariser("t2")
    assert repr(topoloss.observe(model)) == "Observation(Net)"
    assert repr(topoloss.attach(model, regulariser)) == f"Attachment(Net, {regulariser!r})"


def test_the_state_of_something_else_is_refused():
    model = Net()
    observed, penalty = topoloss.observe(model), topoloss.attach(model)
    drawn = topoloss.attach(model, sampler="random", fraction=0.5)
    for state, match in (
        ({}, "expected"),
        (observed.state_dict(), "Attachment"),
        (drawn.state_dict(), "'?Random'?.*Importance"),
    ):
        with pytest.raises(topoloss.OptionError, match=match):
            penalty.load_state_dict(state)


def test_a_penalty_that_reaches_no_trained_parameter_is_told_once():
    model = Net()
    model.first.requires_grad_(False)
    penalty = topoloss.attach(model, layers="first")
    model(batch(4, samples=16))
    with pytest.warns(topoloss.AttachmentWarning, match=r"'first'.*changes nothing"):
        penalty()
    penalty()


def test_without_gradients_no_parameter_needs_to_be_reached():
    model = Net()
    model.first.requires_grad_(False)
    penalty = topoloss.attach(model, layers="first")
    model(x := batch(4, samples=16))
    with torch.no_grad():
        expected = topoloss.regulariser("t1")(by_hand(model, x)["first"])
        torch.testing.assert_close(penalty(), expected)


def test_a_frozen_model_may_be_valued():
    model = Net().requires_grad_(False)
    penalty = topoloss.attach(model)
    model(x := batch(4, samples=16))
    torch.testing.assert_close(penalty(), penalty_by_hand(model, x))
