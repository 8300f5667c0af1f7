"""Recording keeps what was there, changes nothing, and refuses what does not match."""

import copy
import json
import shutil
from contextlib import suppress

import numpy as np
import pytest
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from torch import nn

import topoloss
from topoloss.compare.data import Dataset, split
from topoloss.compare.records import Protocol
from topoloss.compare.training import train
from topoloss.compare.watching import recorded
from topoloss.inspection import Recorder
from topoloss.inspection.pages import page
from topoloss.inspection.reading import read


def network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(2, 12), nn.ReLU(), nn.Dropout(0.2), nn.Linear(12, 3))


def blobs():
    generator = torch.Generator().manual_seed(1)
    y = torch.arange(3).repeat(20)
    x = 4 * nn.functional.one_hot(y, 3)[:, :2] + torch.randn(60, 2, generator=generator)
    return split(Dataset(x.float(), y, train=30, validation=15), seed=0)


def test_training_is_the_same_whether_it_is_recorded_or_not(tmp_path):
    protocol = Protocol(batch_size=16, max_epochs=40, patience=3, learning_rate=0.3)
    models, outcomes, epochs = [], [], []
    with Recorder(tmp_path) as recorder:
        for watch in (None, recorded(recorder, protocol)):
            models.append(network())
            torch.manual_seed(5)  # of dropout
            outcomes.append(
                train(
                    models[-1],
                    blobs(),
                    [("t1", 1e-3)],
                    protocol,
                    on_epoch=epochs.append,
                    watch=watch,
                )
            )
    first, second = (model.state_dict() for model in models)
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=0)
    run = read(tmp_path)
    assert run.finished
    assert [each.epoch for each in run.snapshots] == list(range(outcomes[1].epochs + 1))
    losses = [each.notes["validation loss"] for each in run.snapshots[1:]]
    assert losses == [each.validation_loss for each in epochs[len(losses) :]]
    assert run.kept == 1 + losses.index(min(losses)) < outcomes[1].epochs
    # What is recorded of the kept epoch is what the outcome tells of the restored weights.
    for epoch, told in ((0, outcomes[1].before), (run.kept, outcomes[1].after)):
        deaths = run.snapshots[epoch].deaths
        assert deaths[0] == pytest.approx(told.lowest, abs=1e-6)
        assert deaths[-1] == pytest.approx(told.highest, abs=1e-6)
        assert len(run.snapshots[epoch].constant) == told.constant


def test_weights_that_were_never_better_are_those_before_training(tmp_path):
    protocol = Protocol(batch_size=16, max_epochs=3, learning_rate=1e30)
    with Recorder(tmp_path) as recorder:
        outcome = train(network(), blobs(), [], protocol, watch=recorded(recorder, protocol))
    assert outcome.diverged
    assert read(tmp_path).kept == 0


def interrupted(folder):
    """Record three epochs, and be interrupted."""
    model = nn.Linear(3, 4)
    with topoloss.observe(model) as seen, Recorder(folder) as run:
        for epoch in range(3):
            model(torch.randn(9, 3))
            run.add(epoch, seen)
        raise KeyboardInterrupt


def test_an_interrupted_run_has_the_epochs_before(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path)
    found = read(tmp_path)
    assert not found.finished
    assert [each.epoch for each in found.snapshots] == [0, 1, 2]


def test_an_earlier_run_does_not_pass_for_one_that_was_cut_short(tmp_path, one):
    _, seen = one
    with Recorder(tmp_path) as first:
        first.add(0, seen)
    assert first.path.exists()
    with suppress(KeyboardInterrupt), Recorder(tmp_path):
        raise KeyboardInterrupt
    assert not first.path.exists()
    with pytest.raises(topoloss.TopolossError, match="the recording has ended"):
        first.add(1, seen)


def test_a_note_that_is_not_finite_is_shown_as_such(tmp_path):
    model = nn.Linear(3, 4)
    with topoloss.observe(model) as seen, Recorder(tmp_path) as run:
        model(torch.randn(9, 3))
        run.add(0, seen, {"loss": float("nan")})
    found = read(tmp_path)
    assert found.snapshots[0].notes == {"loss": None}
    assert '"loss":null' in page(found)


def test_of_many_neurons_some_of_every_large_layer_are_watched(tmp_path):
    model = nn.Sequential(nn.Linear(3, 50), nn.Tanh(), nn.Linear(50, 150))
    x = torch.randn(30, 3)
    with topoloss.observe(model) as seen, Recorder(tmp_path, most=40, drawn=10) as run:
        model(x)
        run.add(0, seen)
        activations = np.concatenate([a.detach().numpy() for a in seen.activations().values()], 1)
    found = read(tmp_path)
    assert [(layer.name, layer.of) for layer in found.layers] == [("0", 50), ("2", 150)]
    assert [len(layer.units) for layer in found.layers] == [10, 30]
    chosen = found.layers[0].units + [50 + unit for unit in found.layers[1].units]
    r = np.abs(np.corrcoef(activations[:, chosen].T))
    (snapshot,) = found.snapshots
    at = [1 - r[i, j] for i, j in snapshot.edges]
    np.testing.assert_allclose(snapshot.deaths, at, atol=1e-6)
    joined = linkage(squareform(1 - r, checks=False).clip(0), "single")
    np.testing.assert_allclose(snapshot.deaths, joined[:, 2], atol=1e-6)


@pytest.mark.parametrize("level", [0.05, 0.2, 1.0])
def test_groups_are_scipys_single_linkage_at_the_recorders_level(tmp_path, level):
    model = nn.Sequential(nn.Linear(5, 30), nn.Tanh()).double()
    with topoloss.observe(model) as seen, Recorder(tmp_path, level=level) as run:
        out = model(torch.randn(40, 5, dtype=torch.float64)).detach()
        run.add(0, seen)
    found = read(tmp_path)
    r = np.corrcoef(out.numpy().T)
    joined = linkage(squareform(1 - np.abs(r), checks=False).clip(0), "single")
    clusters = fcluster(joined, level, "distance")
    members = [{int(k) for k in np.flatnonzero(clusters == each)} for each in set(clusters)]
    groups = found.snapshots[0].groups
    assert found.level == level
    assert {frozenset({first, *dict(rest)}) for first, rest in groups} == {
        frozenset(each) for each in members if len(each) > 1
    }
    for first, rest in groups:
        for k, correlation in rest:
            assert correlation == pytest.approx(r[first, k], abs=5e-5)  # four digits are kept


def test_an_attachment_is_recorded_like_an_observation(tmp_path):
    model = nn.Linear(3, 4)
    penalty = topoloss.attach(model, "t1")
    with Recorder(tmp_path) as run:
        model(torch.randn(9, 3))
        run.add(0, penalty)
    deaths = penalty.diagrams()[0].deaths.tolist()
    assert read(tmp_path).snapshots[0].deaths == pytest.approx(deaths, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_pass_without_gradients_is_recorded(tmp_path, dtype):
    model = nn.Linear(3, 4).to(dtype)
    with topoloss.observe(model) as seen, Recorder(tmp_path) as run:
        with torch.no_grad():
            model(torch.randn(9, 3, dtype=dtype))
            (x,) = seen.activations().values()
        run.add(0, seen)
    expected = topoloss.regulariser("t1").diagrams(x)[0].deaths.tolist()
    assert read(tmp_path).snapshots[0].deaths == pytest.approx(expected, abs=1e-6)


@pytest.fixture
def one(tmp_path):
    """A recorder with one epoch, and what it observed."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with topoloss.observe(model) as seen, Recorder(tmp_path) as run:
        model(torch.randn(9, 3))
        run.add(5, seen)
        yield run, seen


def test_epochs_ascend(one):
    run, seen = one
    with pytest.raises(topoloss.OptionError, match="epoch=5 was given after 5"):
        run.add(5, seen)


def test_what_is_recorded_is_observed(one):
    run, _ = one
    with pytest.raises(topoloss.InputError, match=r"expected what topoloss\.observe or attach"):
        run.add(6, torch.randn(9, 3))


def test_the_neurons_are_the_same_each_time(one):
    run, _ = one
    other = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    with topoloss.observe(other) as seen:
        other(torch.randn(9, 3))
        with pytest.raises(topoloss.InputError, match=r"other neurons of the layers \['0'\] are"):
            run.add(6, seen)


def test_one_neuron_is_refused_and_nothing_is_written(tmp_path):
    model = nn.Linear(3, 1)
    with topoloss.observe(model) as seen, Recorder(tmp_path) as run:
        model(torch.randn(9, 3))
        with pytest.raises(topoloss.InputError, match="neurons observed: 1; expected at least two"):
            run.add(0, seen)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_refused_at_once(tmp_path):
    (tmp_path / "taken").write_text("mine", encoding="utf-8")
    with pytest.raises(topoloss.InputError, match="files cannot be written into"):
        Recorder(tmp_path / "taken" / "run")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The lines of a recorded run of three epochs."""
    folder = tmp_path_factory.mktemp("whole")
    model = nn.Linear(3, 4)
    with topoloss.observe(model) as seen, Recorder(folder) as run:
        for epoch in range(3):
            model(torch.randn(9, 3))
            run.add(epoch, seen)
    lines = run.path.read_text(encoding="utf-8").splitlines()
    shutil.rmtree(folder)
    return [json.loads(line) for line in lines]


def changed(lines, number, **values):
    lines = copy.deepcopy(lines)
    lines[number] |= values
    return lines


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [], "is empty; record one with"),
        (lambda lines: lines[:1], "holds no epoch"),
        (lambda lines: [*lines[:2], *lines[3:]], "it has 2 epochs, and its end says 3"),
        (lambda lines: lines[1:], "its format is None, expected 'topoloss run 1'"),
        (lambda lines: changed(lines, 0, format="topoloss run 2"), "format is 'topoloss run 2'"),
        (lambda lines: changed(lines, 0, layers=[]), "line 1 is cut off or damaged: fewer than"),
        (lambda lines: changed(lines, 0, layers=7), "line 1 is cut off or damaged"),
        (lambda lines: changed(lines, 0, drawn=[9]), "neuron [9] is not one of the 4"),
        (lambda lines: changed(lines, 2, deaths=[0.1]), "line 3 is cut off or damaged: it has 1"),
        (lambda lines: changed(lines, 2, deaths=[0.3, 0.1, 0.2]), "its deaths do not ascend"),
        (lambda lines: changed(lines, 2, deaths=["<b>"] * 3), "['<b>'] is not a finite number"),
        (lambda lines: changed(lines, 2, edges=[[0, 1], [1, 2], [3, 4]]), "neuron [4] is not"),
        (lambda lines: changed(lines, 2, correlations="AAAA"), "3 correlations, and 4 neurons"),
        (lambda lines: changed(lines, 2, groups=[[0, [[9, 1.0]]]]), "neuron [9] is not"),
        (lambda lines: changed(lines, 2, constant=[-1]), "neuron [-1] is not"),
        (lambda lines: changed(lines, 2, notes={"loss": "<b>"}), "['<b>'] is not a finite number"),
        (lambda lines: changed(lines, 2, more=1), "line 3 is cut off or damaged"),
        (lambda lines: changed(lines, 2, notes=[]), "its notes are not an object"),
        (lambda lines: changed(lines, 2, epoch="1"), "its epoch is not an integer"),
        (lambda lines: changed(lines, 2, epoch=0), "epoch 0 comes after epoch 0"),
        (lambda lines: [*lines[:2], [1, 2]], "line 3 is cut off or damaged: it is not a JSON"),
    ],
)
def test_a_run_that_is_empty_or_damaged_is_refused(tmp_path, whole, change, message):
    file = tmp_path / "run.jsonl"
    file.write_text("".join(f"{json.dumps(line)}\n" for line in change(whole)), encoding="utf-8")
    with pytest.raises(topoloss.InputError) as error:
        read(tmp_path)
    assert str(file) in str(error.value)
    assert message in str(error.value)
    assert "topoloss train --out" in str(error.value)


def test_a_file_that_is_cut_off_anywhere_is_refused_or_known_to_have_no_end(tmp_path, whole):
    text = "".join(f"{json.dumps(line)}\n" for line in whole)
    file = tmp_path / "run.jsonl"
    ends = [k for k, letter in enumerate(text, start=1) if letter == "\n"]
    for length in range(0, len(text) - 1, 7):
        file.write_text(text[:length], encoding="utf-8")
        # Without its line feed a line is still whole.
        complete = sum(end - 1 <= length for end in ends)
        at_an_end = length in ends or length + 1 in ends
        if at_an_end and complete > 1:
            assert not read(file).finished
        else:
            with pytest.raises(topoloss.InputError):
                read(file)


def test_a_folder_with_nothing_or_with_a_comparison_is_told_apart(tmp_path):
    with pytest.raises(topoloss.InputError, match="there is no"):
        read(tmp_path)
    (tmp_path / "runs.csv").touch()
    with pytest.raises(topoloss.InputError, match="which `topoloss report` shows"):
        read(tmp_path)
