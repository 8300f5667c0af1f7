"""How far networks can be pruned: the docs show the committed runs."""

from pathlib import Path

import pytest
import torch

from benchmarks import pruning, rows
from topoloss.compare.data import load, split

DOCS = Path(__file__).parents[2] / "docs"


def test_the_table_of_the_docs_is_that_of_the_committed_rows():
    found = rows.read(pruning.PRUNING)
    runs = len(pruning.ARMS) * len(pruning.SPLITS)
    assert len(found) == runs * len(pruning.WAYS) * len(pruning.SHARES)
    assert pruning.table(found) in (DOCS / "pruning.md").read_text("utf-8")


def test_what_the_docs_say_of_t1_t2_and_decov_is_what_the_rows_say():
    text = " ".join((DOCS / "pruning.md").read_text("utf-8").split())
    assert "T2 is below the network without a penalty from 70% on, and T1 from 80% on" in text
    assert "with a refit, both are from 90% on." in text
    assert "from 90% on with one stand-in, at 95% with a refit (" in text
    accuracy = {}
    for row in rows.read(pruning.PRUNING):
        accuracy.setdefault((row["arm"], row["way"], float(row["removed"])), []).append(
            float(row["accuracy"])
        )
    mean = {key: sum(values) / len(values) for key, values in accuracy.items()}

    for arm, one_stand_in in (("t1", 0.8), ("t2", 0.7)):
        for way, since in {"copies": one_stand_in, "copies, refitted": 0.9}.items():
            better = [k for k in pruning.SHARES if mean[arm, way, k] >= mean["none", way, k]]
            # With a refit some smaller shares are a little worse, too.
            assert max(better) < since
            assert max(better) == max(k for k in pruning.SHARES if k < since)
    for way, since in {"copies": 0.9, "copies, refitted": 0.95}.items():
        for k in pruning.SHARES:
            best = max(pruning.ARMS, key=lambda arm: mean[arm, way, k])
            assert best == ("dropout" if k >= since else "decov")


def test_neurons_of_the_smallest_weights_are_removed_from_each_hidden_layer_alone():
    torch.manual_seed(0)
    linear = [torch.nn.Linear(3, 4), torch.nn.Linear(4, 2), torch.nn.Linear(2, 3)]
    torch.nn.utils.vector_to_parameters(torch.randn(39), torch.nn.ModuleList(linear).parameters())
    sizes = ([3.0, 1.0, 4.0, 2.0], [0.1, 5.0], [1.0, 1.0, 1.0])
    for layer, norms in zip(linear, sizes, strict=True):
        unit = torch.nn.functional.normalize(layer.weight.data)
        layer.weight.data = unit * torch.tensor(norms)[:, None]
    model = torch.nn.Sequential(linear[0], torch.nn.ReLU(), linear[1], torch.nn.ReLU(), linear[2])
    x = torch.randn(5, 3)
    first = linear[0](x).relu() * torch.tensor([1, 0, 1, 0])
    second = linear[1](first).relu() * torch.tensor([0, 1])
    found = pruning.smallest_first(model, x, share=0.5)(x)
    torch.testing.assert_close(found, linear[2](second))


@pytest.mark.parametrize("way", pruning.WAYS)
def test_nothing_removed_is_the_trained_network(way, monkeypatch):
    monkeypatch.setattr(pruning, "EPOCHS", 1)
    parts = split(load("digits"), 0)
    model = pruning.trained("dropout", parts, 0)
    smaller = pruning.WAYS[way]
    torch.testing.assert_close(smaller(model, parts.train.x, 0)(parts.test.x), model(parts.test.x))
    assert pruning.score(smaller(model, parts.train.x, 0.99), parts.test) < 0.5
