"""What is measured, and what is said about it."""

from functools import partial

import pytest
import torch

from benchmarks import clock, memory, recording, report, rows, t1_step, training
from benchmarks.cases import CASES, Case
from benchmarks.contestants import CONTESTANTS, LIMIT, OURS, Contestant
from benchmarks.reference import DisagreementError
from topoloss.compare.data import load

CASE = Case(neurons=20, samples=9, turns=2, steps=2)
GRAM, TOPOLOSS = CONTESTANTS["cpu"][:2]
TOO_SMALL = Contestant("too_small", TOPOLOSS.prepare, TOPOLOSS.computes, largest=10)
WRONG = Contestant("wrong", lambda x: lambda: torch.zeros(19), "forward", largest=100)


@pytest.fixture
def _no_processes(monkeypatch):
    monkeypatch.setattr(memory, "in_own_process", lambda contestant, case: 3 << 20)


def earlier(contestant, neurons, median_ms, extra_mib, samples=256):
    row = {"contestant": contestant, "neurons": neurons, "samples": samples}
    return rows.as_text(row | {"median_ms": median_ms, "extra_mib": extra_mib, "note": ""})


@pytest.mark.usefixtures("_no_processes")
def test_a_case_gives_a_row_for_each_contestant_measured_or_not():
    gram, ours, absent = t1_step.run(CASE, (GRAM, TOPOLOSS, TOO_SMALL), [])
    assert [row["contestant"] for row in (gram, ours, absent)] == [LIMIT, OURS, "too_small"]
    assert gram.keys() == ours.keys() == absent.keys()
    assert ours["timed"] == "4"
    assert ours["extra_mib"] == "3.0"
    assert gram["over_gram"] == gram["fraction_of_limit"] == ours["topoloss_faster"] == "1.0"
    times = [float(ours[f"{which}_ms"]) for which in ("lowest", "median", "highest")]
    assert times == sorted(times)
    assert absent["note"] == "not run: it takes part up to 10 neurons"
    assert not any(absent[name] for name in t1_step.MEASURED)


@pytest.mark.usefixtures("_no_processes")
def test_what_does_not_agree_is_not_timed():
    with pytest.raises(DisagreementError, match="wrong"):
        t1_step.run(CASE, (GRAM, TOPOLOSS, WRONG), [])


def test_the_estimate_for_a_size_left_out_grows_quadratically_from_the_largest_that_ran():
    ran = [earlier("too_small", 5, 1e9, 1e9), earlier("too_small", 10, 2000, 512)]
    absent = earlier("too_small", 15, "", "")
    note = t1_step.left_out(TOO_SMALL, CASE, [*ran, absent, earlier("other", 19, 1, 1)])
    assert note == "not run: would take about 8 s and 2.0 GiB"


def test_exponents_are_the_slopes_over_the_sizes_with_the_same_samples():
    sizes = (128, 1_010, 4_096, 10_000)
    scaling = [earlier("three_halves", n, 3 * n**1.5, n**2) for n in sizes[1:]]
    scaling += [
        earlier("three_halves", 128, 1e9, 1e9),
        earlier("three_halves", 20_000, 1e9, 1e9, samples=64),
        earlier("one_size", 1_010, 1, 1),
    ]
    assert report.exponents(scaling) == pytest.approx({"three_halves": 1.5})
    assert report.exponents(scaling, "extra_mib") == pytest.approx({"three_halves": 2})


def test_contestants_take_turns():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    times = clock.take_turns(calls, turns=2, steps=2)
    assert "".join(order) == "aabbaabb"
    assert [len(values) for values in times.values()] == [4, 4]


def test_extra_memory_is_the_peak_and_not_what_is_left():
    def call():
        torch.ones(64 << 20, dtype=torch.uint8)
        torch.ones(16 << 20, dtype=torch.uint8)

    # The kernel counts pages in batches.
    assert clock.extra_bytes(call) == pytest.approx(64 << 20, abs=1 << 20)


def test_rows_are_read_as_they_were_written(tmp_path):
    path = tmp_path / "rows.csv"
    assert rows.read(path) == []
    written = [earlier("a, quoted", 1, 2.5, 3)]
    rows.write(path, written)
    assert rows.read(path) == written


def test_rows_of_other_columns_leave_the_file_as_it_was(tmp_path):
    path = tmp_path / "rows.csv"
    rows.write(path, [{"a": "1"}])
    with pytest.raises(ValueError, match="fields not in fieldnames"):
        rows.write(path, [{"a": "1"}, {"b": "2"}])
    assert rows.read(path) == [{"a": "1"}]


def test_training_is_timed_with_each_regulariser():
    found = training.overhead(load("digits"), steps=2)
    assert [row["regulariser"] for row in found] == list(training.REGULARISERS)
    assert found[0]["over_plain"] == 1


def test_the_profiles_shares_are_of_the_whole_step():
    found = training.profile(load("digits"), steps=2)
    assert len(found) == 3 * len(training.PARTS)
    for source in (("normal", 128), ("normal", 1_010), ("network 0", 1_010)):
        of = [row for row in found if (row["activations"], row["neurons"]) == source]
        shares = [row["share"] for row in of]
        assert len(shares) == len(training.PARTS)
        assert sum(shares) == pytest.approx(1, abs=2e-3)  # each is rounded to three digits


@pytest.mark.parametrize(
    ("make", "layers"),
    [
        (partial(recording.resnet18, samples=4, pixels=32), 21),
        # For each layer attention as a whole and two linear maps.
        (partial(recording.transformer, samples=4, tokens=3, width=8, layers=2), 6),
    ],
)
def test_recording_is_timed_beside_a_plain_pass(make, layers):
    plain, attached = recording.overhead("tiny", make, turns=2, steps=1)
    assert [row["passes"] for row in (plain, attached)] == ["plain", "attached"]
    assert plain["over_plain"] == 1
    assert attached["over_plain"] > 0
    assert {row["layers"] for row in (plain, attached)} == {layers}
    assert {row["timed"] for row in (plain, attached)} == {2}


@pytest.mark.parametrize(("kind", "largest"), [("bfloat16", 50_000), ("avx2", 100_000)])
def test_every_case_has_its_committed_row(kind, largest):
    timed = rows.read(rows.of_kind(kind, t1_step.T1_STEP))
    names = [c.name for c in CONTESTANTS["cpu"]]
    sizes = [case.neurons for case in CASES["cpu"] if case.neurons <= largest]
    expected = [(name, str(n)) for n in sizes for name in names]
    assert [(row["contestant"], row["neurons"]) for row in timed] == expected
    for row in timed:
        assert bool(row["median_ms"]) != row["note"].startswith("not run: ")


def test_the_figure_is_drawn_from_the_committed_rows(tmp_path):
    path = tmp_path / "new" / "benchmark.png"
    report.draw(report.of_kinds(t1_step.T1_STEP)["bfloat16"], path)
    assert path.read_bytes().startswith(b"\x89PNG")


def _neurons(row):
    return int(row["neurons"])


def test_tables_show_the_committed_rows():
    timed = report.of_kinds(t1_step.T1_STEP)
    for kind, of_kind in timed.items():
        ours, paper = (
            next(r for r in of_kind if (r["contestant"], r["neurons"]) == (name, "10000"))
            for name in (OURS, "paper")
        )
        (line,) = (
            line
            for line in report.speed_table(timed).splitlines()
            if line.startswith(f"| {report.in_words(kind)} | 10,000 |")
        )
        assert f"| {ours['over_gram']} |" in line
        assert line.endswith(f"| {paper['topoloss_faster']} |")
    lines = report.table_by_size(timed["avx2"], "extra_mib").splitlines()
    assert len(lines) == 2 + len(CONTESTANTS["cpu"])
    assert all(line.count("|") == lines[0].count("|") for line in lines)
    (gudhi,) = (line for line in lines if line.startswith("| gudhi |"))
    largest = max((r for r in timed["avx2"] if r["contestant"] == "gudhi"), key=_neurons)
    told = largest["note"].removeprefix("not run: would take about ").replace(" and ", ", ")
    assert gudhi.endswith(f"| ({told}) |")
    assert report.gpu_table([]) == report.recording_table([]) == "Not measured yet."
