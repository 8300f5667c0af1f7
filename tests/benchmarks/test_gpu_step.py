"""The benchmark of GPUs, on whatever device there is."""

import pytest
import torch
from triton_trees import DEVICE

from benchmarks import gpu_step, report, rows
from benchmarks.gpu_checks import check_tree, triton_tree
from benchmarks.inputs import INPUTS, RANDOM
from benchmarks.reference import DisagreementError

PRODUCT, HALF, OURS = gpu_step.CONTESTANTS[:3]


def measured(path, *contestants, name=RANDOM, **options):
    return gpu_step.measured(20, name, contestants, path=path, device=DEVICE, **options)


@pytest.fixture
def _quick(monkeypatch):
    monkeypatch.setattr(gpu_step, "SPELL", 0)
    monkeypatch.setattr(gpu_step, "SAMPLES", 9)


@pytest.mark.usefixtures("_quick")
def test_rows_are_written_as_they_come_and_not_measured_again(tmp_path):
    path = tmp_path / "rows.csv"
    first = measured(path, PRODUCT)
    assert rows.read(path) == first
    product, ours = measured(path, PRODUCT, OURS)
    assert product == first[0]
    assert rows.read(path) == [product, ours]
    assert float(ours["fraction_of_floor"]) >= 0
    assert product["fraction_of_floor"] == ""
    assert ours["timed"] == "3"
    again = measured(path, PRODUCT, again=True)
    assert rows.read(path) == [*again, ours]
    assert "| 20 | topoloss |" in report.gpu_table(rows.read(path))


@pytest.mark.usefixtures("_quick")
def test_who_takes_no_part_says_so(tmp_path):
    small = gpu_step.Contestant("topoloss_dense", OURS.prepare, OURS.computes, largest=10)
    (row,) = measured(tmp_path / "rows.csv", small)
    assert row["note"] == "not run: it takes part up to 10 neurons"
    assert not row["median_ms"]


def test_the_floor_is_half_of_the_product_of_all_with_all():
    product, ours = ({"computes": c, "median_ms": t} for c, t in (("product", "6"), ("T1", "4")))
    assert gpu_step.fraction_of_floor(ours, product) == 0.75
    assert gpu_step.fraction_of_floor(product, product) == ""
    assert gpu_step.fraction_of_floor(ours, None) == ""


def timed(name, median_ms):
    row = {"input": name, "neurons": "100", "contestant": "topoloss", "median_ms": median_ms}
    return row | {"device": "a GPU"}


def test_inputs_are_compared_with_ordinary_ones_of_their_filtration():
    names = (RANDOM, "copies", "random, euclidean", "outlier, euclidean", "one-hot")
    table = [timed(n, t) for n, t in zip(names, ("2", "3", "4", "8", ""), strict=True)]
    ratios = gpu_step.over_ordinary(table)
    assert ratios == {("copies", "100"): 1.5, ("outlier, euclidean", "100"): 2.0}
    assert "| copies | 100 | 1.5 |" in report.hostile_table(table)
    assert report.hostile_table([]) == "Not measured yet."


@pytest.mark.parametrize("by_the_cpu", [0, 100])
@pytest.mark.parametrize("name", [RANDOM, "outlier, euclidean"])
def test_only_minimum_spanning_trees_pass(name, by_the_cpu):
    given = INPUTS[name]
    x = given.activations(12, 30).to(DEVICE)
    edges = triton_tree(x, given)
    check_tree(x, given, edges, by_the_cpu)
    path = torch.stack((torch.arange(29), torch.arange(1, 30)), 1).to(DEVICE)
    with pytest.raises(DisagreementError, match="off by up to"):
        check_tree(x, given, path, by_the_cpu)
    with pytest.raises(DisagreementError, match="28 edges leave 30 neurons in 2 parts"):
        check_tree(x, given, edges[1:], by_the_cpu)
