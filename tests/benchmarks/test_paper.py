from dataclasses import replace
from statistics import fmean

import pytest
import torch

import topoloss
from benchmarks import networks, paper
from topoloss.compare import tables
from topoloss.compare.records import Arm, Protocol, Setup
from topoloss.compare.runs import read
from topoloss.compare.searches import Grid
from topoloss.compare.statistics import by_regulariser, corrected_t_test, scores, select

PROSE = (
    "net0-training-forward",
    "net0-fixed",
    "net1-training-forward",
    "net2-training-forward",
)
COMMITTED = [study for study in paper.STUDIES.values() if study.file.exists()]


def test_studies_are_those_that_are_asked_for():
    digits = [s for s in paper.STUDIES.values() if s.data == "digits" and s.searches is paper.GRID]
    for protocol in ("training-forward", "switch-off", "faithful"):
        splits = {s.model: s.splits for s in digits if s.protocol == protocol and s.patience == 20}
        assert splits == {"net0": 20, "net1": 8, "net2": 8}
    assert {s.data for s in paper.STUDIES.values()} == {"digits", "breast-cancer", "diabetes"}
    assert all(len(search.weights) == 5 for search in paper.GRID if search.regulariser != "none")


@pytest.mark.parametrize("study", COMMITTED, ids=lambda study: study.name)
def test_committed_runs_are_the_study_s(study):
    found = study.finished()
    assert found
    assert {run.setup for run in found} == {study.setup}
    points = [(run.arm, run.seed) for run in found]
    assert len(set(points)) == len(points)
    weights = {search.regulariser: search.weights for search in study.searches}
    for arm, seed in points:
        assert arm.weight in weights[arm.regulariser]
        assert seed < study.splits


def test_committed_tables_are_those_of_the_committed_runs(tmp_path, monkeypatch, undrawn):
    committed = {path: path.read_text(encoding="utf-8") for path in paper.FOLDER.rglob("*.md")}
    elsewhere = tmp_path / "paper"
    for study in COMMITTED:
        (elsewhere / study.name).mkdir(parents=True)
        (elsewhere / study.name / "runs.csv").write_bytes(study.file.read_bytes())
    monkeypatch.setattr(paper, "FOLDER", elsewhere)
    paper.write_reports(list(paper.STUDIES.values()))
    written = {
        paper.RESULTS / path.relative_to(tmp_path): path.read_text(encoding="utf-8")
        for path in elsewhere.rglob("*.md")
    }
    assert written == committed


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """A study of two runs of one epoch, whose files are written elsewhere."""

    class Quick(paper.Study):
        @property
        def setup(self):
            return Setup(self.model, self.data, Protocol(max_epochs=1))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paper, "FOLDER", tmp_path / "results")
    return Quick("net0", "digits", "training-forward", 2, (Grid("none", (0.0,)),))


def test_a_study_goes_on_where_its_committed_runs_end(quick, tmp_path, capsys):
    paper.run(replace(quick, splits=1), jobs=1)
    first = read(quick.file)
    (tmp_path / "runs" / "paper" / quick.name / "study.db").unlink()
    capsys.readouterr()
    paper.run(quick, jobs=1)
    both = read(quick.file)
    assert [run.seed for run in both] == [0, 1]
    assert both[:1] == first
    assert capsys.readouterr().out.count("\n") == 1


def test_fresh_does_finished_runs_again(quick):
    paper.run(quick, jobs=1)
    first = read(quick.file)
    paper.run(quick, jobs=1, fresh=True)
    # Seconds are measured, so runs that were done again differ.
    again = read(quick.file)
    assert len(again) == len(first) == 2
    assert not any(a == b for a, b in zip(first, again, strict=True))


def test_reports_are_of_whole_grids_and_lose_no_run(quick, monkeypatch):
    half = replace(quick, splits=1, searches=(Grid("none", (0.0,)), Grid("l2", (1e-4,))))
    paper.run(half, jobs=1)
    larger = replace(half, searches=(Grid("none", (0.0,)), Grid("l2", (1e-4, 1e-3))))
    paper.write_reports([larger])
    assert "l2" not in (larger.folder / "table.md").read_text(encoding="utf-8")
    assert len(read(larger.file)) == 2
    assert "2 of 3" in (paper.FOLDER / "studies.md").read_text(encoding="utf-8")


def test_a_misspelt_study_is_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["paper", "run", "digits-net9"])
    with pytest.raises(SystemExit):
        paper.main()
    assert "there is no study ['digits-net9']" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "neurons"), [("quarter", 259), ("half", 510), ("double", 2010)])
def test_networks_of_other_widths_have_the_neurons_that_weights_are_scaled_by(name, neurons):
    model = getattr(networks, name)()
    penalty = topoloss.attach(model, "t1")
    model(torch.zeros(2, 64))
    assert sum(map(len, penalty.neurons.values())) == neurons
    study = paper.STUDIES[f"digits-{name}-training-forward"]
    (weights,) = (search.weights for search in study.searches if search.regulariser == "t1")
    assert min(abs(weight * neurons - 1) for weight in weights) < 1e-3


def prose():
    docs = paper.RESULTS.parents[1] / "docs"
    return " ".join(
        word
        for page in ("results", "paper", "authors-code", "regularisers")
        for word in (docs / f"{page}.md").read_text("utf-8").split()
    )


def test_what_the_pages_say_in_prose_is_what_the_runs_say():
    text = prose()
    digits = {name: paper.STUDIES[f"digits-{name}"].finished() for name in PROSE}
    gains = {
        name: {row.regulariser: row.gain for row in tables.summarise(digits[name])}
        for name in ("net0-training-forward", "net1-training-forward")
    }
    for name, said in zip(gains, ("1.6", "0.8"), strict=True):
        assert all(abs(gains[name][t] - float(said)) <= 0.05 for t in ("t1", "t2"))
        assert f"{said} points above" in text

    def learnt(name, *regularisers):
        runs = [run for run in digits[name] if run.arm.regulariser in regularisers]
        return [run for run in runs if run.outcome.validation_score > 0.5], runs

    few, plain = learnt("net2-training-forward", "none")
    none, penalised = learnt("net2-training-forward", "t1", "t2")
    assert (len(few), len(plain), len(none), len(penalised)) == (2, 8, 0, 80)
    assert max(run.outcome.epochs for run in plain if run not in few) == 33
    assert "on two of eight splits and stops at chance on the others, within 33 epochs" in text
    assert "none of the 80 runs leaves chance" in text

    for arm, chosen_on, failed in ((Arm("t1", 1e-3), 18, 1), (Arm("t2", 2.0), 10, 6)):
        chosen = [run.arm for run in select(digits["net0-training-forward"])]
        runs = [run for run in digits["net0-training-forward"] if run.arm == arm]
        assert chosen.count(arm) == chosen_on
        assert sum(run.outcome.validation_score < 0.5 for run in runs) == failed
    assert "at 1e-3, which 18 of 20 splits chose for T1, one split fails" in text
    assert "at T2's 2, which 10 chose, six do" in text

    other = {(r.arm, r.seed): r.outcome.test_score for r in digits["net0-training-forward"]}
    fixed = digits["net0-fixed"]
    alike = sum(run.outcome.test_score == other[run.arm, run.seed] for run in fixed)
    assert f"{alike} of {len(fixed)} runs of network 0 have the same test score in both" in text


def test_what_the_pages_say_of_constant_neurons_is_what_the_runs_say():
    chosen = by_regulariser(select(paper.STUDIES["digits-net0-training-forward"].finished()))
    mean = {name: fmean(r.outcome.after.constant for r in runs) for name, runs in chosen.items()}
    assert max(mean, key=mean.__getitem__) == "naive"
    none, t1, t2 = (f"{mean[name]:.0f}" for name in ("none", "t1", "t2"))
    assert f"({t1} against {none}), T2 with fewer ({t2})" in prose()
    assert f"{t1} constant neurons of 1,010, and without a penalty with {none}" in prose()


def test_what_the_pages_say_of_new_images_is_what_the_runs_say():
    def p(network, name, learnt_from):
        table = scores(select(paper.STUDIES[f"digits-{network}-training-forward"].finished()))
        return corrected_t_test(table[name] - table["none"], 800 / learnt_from)[1]

    t1, t2 = (p("net0", name, 600) for name in ("t1", "t2"))
    assert f"p = {t1:.2f} for T1 and {t2:.2f} for T2 in the first column" in prose()
    # Whether the validation part was learnt from or not.
    assert min(p("net1", name, n) for name in ("t1", "t2") for n in (600, 997)) > 0.2
    assert "the corrected p-values are above 0.2" in prose()


def test_what_the_pages_say_of_more_patience_is_what_the_runs_say():
    def without(name):
        runs = paper.STUDIES[f"digits-net2-training-forward{name}"].finished()
        return {r.seed: r.outcome.test_score for r in runs if r.arm.regulariser == "none"}

    hasty, patient = without(""), without("-patience200")
    learnt = {seed: (hasty[seed] > 0.5, score > 0.5) for seed, score in patient.items()}
    assert learnt == {0: (False, True), 1: (True, True)}
    assert f"reaches {100 * patient[0]:.1f}% with 200" in prose()
