"""Which neurons copy which."""

import csv

import numpy as np
import pytest
import torch
from attaching.helpers import hooks
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from torch import nn

import topoloss


def planted():
    """Neuron 3 mirrors neuron 1, 4 is neuron 0 shifted, 5 is dead and 6 is always 2."""
    model = nn.Sequential(nn.Linear(3, 7), nn.Identity(), nn.Linear(7, 2)).double()
    first = model[0]
    with torch.no_grad():
        first.weight[3], first.bias[3] = -2 * first.weight[1], 1
        first.weight[4], first.bias[4] = first.weight[0], 5
        first.weight[5], first.bias[5] = 0, 0
        first.weight[6], first.bias[6] = 0, 2
    return model


def data(samples=40):
    return torch.randn(samples, 3, dtype=torch.float64)


def test_copies_mirror_images_and_constants_are_found():
    found = topoloss.redundancy(planted(), data(), level=1e-6, layers="0")
    groups = {
        frozenset({group.representative, *group.copies}): list(group.copies.values())
        for group in found.groups
    }
    mirrored, shifted = frozenset({("0", 1), ("0", 3)}), frozenset({("0", 0), ("0", 4)})
    assert groups == {mirrored: [pytest.approx(-1)], shifted: [pytest.approx(1)]}
    assert found.constant == {("0", 5): 0, ("0", 6): 2}
    assert found.neurons == {"0": 7}


@pytest.mark.parametrize("level", [0.0, 0.1, 0.3, 0.6, 1.0])
def test_groups_are_scipys_single_linkage(level):
    model = nn.Sequential(nn.Linear(3, 30), nn.Tanh()).double()
    x = data()
    found = topoloss.redundancy(model, x, level=level)
    r = np.corrcoef(model(x).detach().numpy().T)
    distances = squareform(1 - np.abs(r), checks=False).clip(0)
    labels = fcluster(linkage(distances, "single"), level, "distance")
    clusters = {}
    for unit, label in enumerate(labels):
        clusters.setdefault(label, set()).add(("0", unit))
    expected = {frozenset(members) for members in clusters.values() if len(members) > 1}
    assert {frozenset({g.representative, *g.copies}) for g in found.groups} == expected
    for group in found.groups:
        _, centre = group.representative
        members = [centre, *(unit for _, unit in group.copies)]
        # The representative correlates most with the others.
        assert np.abs(r[np.ix_(members, members)]).sum(1).argmax() == 0
        for (_, unit), correlation in group.copies.items():
            assert correlation == pytest.approx(r[centre, unit], abs=1e-12)
    assert [len(g.copies) for g in found.groups] == sorted(
        (len(members) - 1 for members in expected), reverse=True
    )


def test_copies_across_layers_are_found_on_request():
    model = nn.Sequential(nn.Linear(3, 4), nn.Identity(), nn.Linear(4, 2)).double()
    with torch.no_grad():
        model[2].weight[1] = torch.tensor([0.0, -3.0, 0.0, 0.0])
    within = topoloss.redundancy(model, data(), level=1e-6)
    across = topoloss.redundancy(model, data(), level=1e-6, per="network")
    assert within.groups == []
    (group,) = across.groups
    assert {group.representative, *group.copies} == {("0", 1), ("2", 1)}
    assert list(group.copies.values()) == [pytest.approx(-1)]


def test_batches_count_as_one():
    model, x = planted(), data()
    whole = topoloss.redundancy(model, x)
    assert topoloss.redundancy(model, [x[:13], x[13:]]) == whole
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=7)
    assert topoloss.redundancy(model, loader) == whole


def test_channels_of_images_are_neurons_and_positions_samples():
    model = nn.Conv2d(1, 4, 3)
    with torch.no_grad():
        model.weight[2], model.bias[2] = model.weight[0], model.bias[0]
    (group,) = topoloss.redundancy(model, torch.randn(2, 1, 9, 9), level=1e-6).groups
    assert {group.representative, *group.copies} == {("(model)", 0), ("(model)", 2)}


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout(), nn.Linear(5, 2))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.random.get_rng_state()
    x = torch.ones(4, 3) + torch.arange(4)[:, None]
    topoloss.redundancy(model, x)
    topoloss.prune(model, x)
    assert all(module.training for module in model.modules())
    assert torch.equal(random, torch.random.get_rng_state())
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert hooks(model) == []


def test_the_table_names_every_copy(tmp_path):
    found = topoloss.redundancy(planted(), data(), level=1e-6, layers="0")
    found.to_csv(tmp_path / "copies.csv")
    with (tmp_path / "copies.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found.rows()) == 4
    kinds = {(int(row["unit"]), row["kind"], row["value"]) for row in rows[2:]}
    assert kinds == {(5, "dead", "0.0"), (6, "constant", "2.0")}
    assert {row["copies_layer"] for row in rows[:2]} == {"0"}
    assert [line.split() for line in str(found).splitlines()] == [
        ["layer", "neurons", "copies", "constant", "dead"],
        ["0", "7", "2", "1", "1"],
        ["all", "7", "2", "1", "1"],
    ]


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (3.0, {}, "data is 3.0; expected what the model takes"),
        ([], {}, "no batch"),
        ("abc", {}, "data is 'abc'"),
        (torch.randn(1, 3), {}, "1 samples were given"),
        (torch.randn(5, 3), {"level": 2}, "level=2"),
        (torch.randn(5, 3), {"level": "a"}, "level='a'"),
        (torch.randn(5, 3), {"per": "unit"}, "per='unit'"),
        (torch.randn(5, 3), {"layers": "9"}, "'9'"),
    ],
)
def test_what_it_cannot_take_is_told(given, options, message):
    with pytest.raises(topoloss.TopolossError, match=message):
        topoloss.redundancy(planted().float(), given, **options)


def test_images_of_several_sizes_have_channels_in_common_and_no_units():
    model = nn.Sequential(nn.Conv2d(1, 3, 3))
    with torch.no_grad():
        model[0].weight[2], model[0].bias[2] = -model[0].weight[0], model[0].bias[0]
    images = [torch.randn(4, 1, 8, 8), torch.randn(4, 1, 9, 9)]
    (group,) = topoloss.redundancy(model, images).groups
    assert {group.representative, *group.copies} == {("0", 0), ("0", 2)}
    # 3 channels at 6 x 6 and at 7 x 7 positions.
    with pytest.raises(topoloss.InputError, match=r"'0' has 108 neurons in one .* and 147 in"):
        topoloss.redundancy(model, images, units="unit")


def test_labels_in_a_batch_are_told():
    with pytest.raises(TypeError) as raised:
        topoloss.redundancy(planted().float(), [(torch.randn(5, 3), torch.zeros(5))])
    assert "data without labels" in raised.value.__notes__[0]
