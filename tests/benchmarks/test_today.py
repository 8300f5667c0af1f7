from collections import Counter, defaultdict
from dataclasses import replace
from math import inf
from pathlib import Path
from statistics import fmean

import pytest

import topoloss
from benchmarks.today import choices, choosing, declared, stages, work
from topoloss.compare import runs, setups
from topoloss.compare.protocols import name_of
from topoloss.compare.records import DEATH_BINS, Arm, Neurons, Outcome, Protocol, Run


def test_splits_serve_one_purpose_each():
    splits = {
        stage: {job.seed for job in stages.jobs_of(stage, choices.stand_in())}
        for stage in stages.STAGES
    }
    assert splits["rates"] | splits["alone"] | splits["top"] <= set(range(100, 120))
    assert splits["confirm"] == set(range(200, 220))
    assert not splits["rates"] & splits["alone"]


def test_the_comparison_is_the_declared_one():
    problems = {problem.name: problem for problem in declared.PROBLEMS}
    net0 = problems.pop("net0 on digits")
    assert set(net0.alone) == set(declared.GRIDS)
    assert set(net0.under) == set(declared.GRIDS) - {"none", "t1", "t2"}
    wanted = {"none", "t1", "t2", "naive", "dropout", "batch-norm", "decov", "covariance-tree"}
    controls = {"variance", "random-path"}
    own = {"net1 on digits": {"dropout"}, "conv on digits": {"batch-norm"}}
    for name, problem in problems.items():
        assert set(problem.alone) == (wanted | controls) - own.get(name, set())
        assert not problem.under
    assert {problem.block for problem in declared.PROBLEMS} >= {"breast-cancer", "wine", "diabetes"}
    assert Counter(p.block for p in declared.PROBLEMS)["digits"] == 7


def test_every_arm_fits_its_problem():
    for job in stages.jobs_of("confirm", choices.stand_in()):
        layers = ("dropout", "batch-norm", "label-smoothing")
        if job.seed == 200 and job.arm.regulariser in layers:
            assert name_of(job.setup) == "today"
            setups.check_arm(job.setup, job.arm)


SMALL = (
    declared.Problem("net2", "wine", ("none", "t1", "dropout"), ("dropout",)),
    declared.Problem("net2", "diabetes", ("none", "t1")),
)


@pytest.fixture
def outcome():
    """An outcome with a given validation score and time."""
    neurons = Neurons((1,) * DEATH_BINS, 0.1, 0.5, 0.9, 0.5, 0)

    def make(validation, seconds):
        return Outcome(
            *("accuracy", 0.5, validation, 10, 1.0, False, 0.0, 90, 38, 50, neurons, neurons),
            cpu_seconds=seconds,
        )

    return make


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Two problems, whose runs are made up and whose files are elsewhere."""
    monkeypatch.setattr(declared, "FOLDER", tmp_path)
    monkeypatch.setattr(declared, "PROBLEMS", SMALL)


@pytest.fixture
def pretend(small, outcome):
    """Write the runs of a stage as if they had been done; a function scores them."""

    def write(stage, score, jobs=None):
        jobs = stages.jobs_of(stage, choices.Frozen.read()) if jobs is None else jobs
        made = [Run(j.setup, j.arm, j.seed, outcome(score(j), 36.0)) for j in jobs]
        runs.write(made, declared.file_of(stage))

    return write


def test_stages_freeze_what_the_next_ones_need(pretend):
    with pytest.raises(topoloss.InputError, match="not frozen; run and freeze the stages before"):
        stages.jobs_of("alone", choices.Frozen.read())
    with pytest.raises(topoloss.InputError, match="80 of 80 runs of the stage rates are missing"):
        choosing.freeze("rates")


def best_rate(job):
    protocol = job.setup.protocol
    good = {"wine": (1e-2, "score"), "diabetes": (1e-3, "loss")}[job.setup.data]
    # One split disagrees: means decide.
    agrees = (protocol.learning_rate, protocol.monitor) == good
    return 0.8 + 0.1 * agrees - 0.2 * (job.seed == declared.RATE_SPLITS[0] and agrees)


def best_weight(job):
    t1 = {"wine": 1e-3, "diabetes": 3e-4}[job.setup.data]
    wanted = {"t1": t1, "dropout": 0.02, "t1+dropout=0.02": 1e-2, "t2+dropout=0.02": 1.0}
    return 0.9 if job.arm.weight == wanted.get(job.arm.regulariser, 0.0) else 0.8


def test_what_is_chosen_has_the_best_mean_validation_score(pretend):
    pretend("rates", best_rate)
    frozen = choosing.freeze("rates")
    assert frozen.rates == {"net2 on wine": 1e-2, "net2 on diabetes": 1e-3}
    assert frozen.monitors == {"net2 on wine": "score", "net2 on diabetes": "loss"}
    trained = {(j.setup.data, j.setup.protocol.monitor) for j in stages.jobs_of("alone", frozen)}
    assert trained == {("wine", "score"), ("diabetes", "loss")}
    pretend("alone", best_weight)
    frozen = choosing.freeze("alone")
    assert frozen.weights["net2 on wine"] == {"none": 0.0, "t1": 1e-3, "dropout": 0.02}
    assert frozen.weights["net2 on diabetes"] == {"none": 0.0, "t1": 3e-4}
    pretend("top", best_weight)
    frozen = choosing.freeze("top")
    assert frozen.weights["net2 on wine"]["t1+dropout=0.02"] == 1e-2
    assert choices.Frozen.read() == frozen
    confirming = stages.jobs_of("confirm", frozen)
    assert len(confirming) == 20 * (3 + 2 + 2)
    assert {job.arm for job in confirming if job.setup.data == "diabetes"} == {
        Arm("none", 0.0),
        Arm("t1", 3e-4),
    }
    told = choosing.edges(frozen)
    assert "| net2 on wine | learning rate | 0.01 | highest |" in told
    assert "| net2 on wine | dropout | 0.02 | lowest |" in told
    assert "| net2 on wine | t1+dropout=0.02 | 0.01 | highest |" in told
    assert told.count("\n") == 1 + 3
    # The choice is final once a confirming run exists.
    pretend("confirm", best_weight, confirming[:1])
    with pytest.raises(topoloss.InputError, match="frozen for good"):
        choosing.freeze("alone")


def test_a_stage_that_is_chosen_again_undoes_the_stages_after_it(pretend):
    pretend("rates", best_rate)
    choosing.freeze("rates")
    pretend("alone", best_weight)
    choosing.freeze("alone")
    pretend("top", best_weight)
    assert "t1+dropout=0.02" in choosing.freeze("top").weights["net2 on wine"]
    assert set(choosing.freeze("alone").weights["net2 on wine"]) == {"none", "t1", "dropout"}
    assert choosing.freeze("rates").weights == {}
    with pytest.raises(topoloss.InputError, match="not frozen; run and freeze the stages before"):
        stages.jobs_of("confirm", choices.Frozen.read())


def test_only_a_whole_stage_is_reported(pretend):
    choices.stand_in().write()
    frozen = choices.Frozen.read()
    pretend("confirm", lambda job: 0.5, stages.jobs_of("confirm", frozen)[1:])
    with pytest.raises(topoloss.InputError, match="1 of 140 runs of the stage confirm are missing"):
        stages.finished("confirm", frozen)


def test_of_weights_that_tie_the_smallest_is_chosen(pretend):
    pretend("rates", lambda job: 0.5)
    choosing.freeze("rates")
    pretend("alone", lambda job: 0.5)
    assert choosing.freeze("alone").weights["net2 on diabetes"]["t1"] == 1e-4


@pytest.mark.parametrize(
    ("value", "grid", "end"),
    [(1, (1, 2, 3), "lowest"), (3, (1, 2, 3), "highest"), (2, (1, 2, 3), ""), (0, (0,), "")],
)
def test_an_edge_is_an_end_of_a_grid(value, grid, end):
    assert choosing.at_edge(value, grid) == end


def test_what_the_page_says_of_learning_rates_is_what_the_runs_say():
    found = runs.read(declared.file_of("rates"))

    def at_an_end(rates):
        """On how many problems the pair of best mean score has a rate at an end of these."""
        scores = defaultdict(list)
        for run in found:
            rate = run.setup.protocol.learning_rate
            if rate in rates:
                of_problem = (run.setup.model, run.setup.data)
                pair = (rate, run.setup.protocol.monitor)
                scores[of_problem, pair].append(run.outcome.validation_score)
        best = {}
        for (of_problem, pair), each in scores.items():
            best[of_problem] = max(best.get(of_problem, (-inf, None)), (fmean(each), pair))
        assert len(best) == len(declared.PROBLEMS)
        return sum(rate in (min(rates), max(rates)) for _, (rate, _) in best.values())

    page = " ".join((Path(__file__).parents[2] / "docs" / "today.md").read_text("utf-8").split())
    assert f"{at_an_end((3e-4, 1e-3, 3e-3))} of the 15 problems chose an end of that grid" in page
    assert f"{at_an_end(declared.RATES)} problems still choose an end" in page


def test_what_the_page_says_of_strengths_at_an_end_is_what_is_frozen():
    ends = {"alone": Counter(), "top": Counter()}
    for weights in choices.Frozen.read().weights.values():
        for name, weight in weights.items():
            added, _, under = name.partition("+")
            grid = declared.GRIDS[added]
            if len(grid) > 1:
                ends["top" if under else "alone"][choosing.at_edge(weight, grid)] += 1
    page = " ".join((Path(__file__).parents[2] / "docs" / "today.md").read_text("utf-8").split())
    alone, top = ends["alone"], ends["top"]
    assert f"59 of the {alone.total()} strengths were at an end of their grid" in page
    at_an_end = alone["lowest"] + alone["highest"]
    assert f"Now {at_an_end} are, {alone['lowest']} of them at the lowest value." in page
    told = f"Of the {top.total()} strengths of T1 and T2 on top of another arm, {top['lowest']} are"
    assert f"{told} at an end, all at the lowest value" in page
    assert not top["highest"]


def test_grids_reach_beyond_the_ends_that_were_chosen_often():
    means = defaultdict(lambda: defaultdict(list))
    for run in runs.read(declared.file_of("alone")):
        if run.arm.weight in declared.FIRST_GRIDS[run.arm.regulariser]:
            of = (run.setup.model, run.setup.data, run.arm.regulariser)
            means[of][run.arm.weight].append(run.outcome.validation_score)
    at_ends, problems = Counter(), Counter()
    for (_, _, name), scores in means.items():
        best = max(sorted(scores), key=lambda weight: fmean(scores[weight]))
        at_ends[name, choosing.at_edge(best, declared.FIRST_GRIDS[name])] += 1
        problems[name] += 1
    for name, grid in declared.FIRST_GRIDS.items():
        below, above = (at_ends[name, end] for end in ("lowest", "highest"))
        beyond = declared.BEYOND.get(name, ())
        if len(grid) > 1 and name not in ("variance", "random-path"):  # as for covariance-tree
            enough = min(4, problems[name])
            assert (min(declared.GRIDS[name]) < min(grid)) == (below >= enough)
            assert (max(declared.GRIDS[name]) > max(grid)) == (above >= enough)
        assert len(beyond) in (0, 2)


def test_what_the_page_says_of_stopping_is_what_the_runs_say():
    scores = defaultdict(dict)
    for run in runs.read(declared.file_of("rates")):
        if run.outcome.metric == "accuracy":
            protocol = run.setup.protocol
            of = (run.setup.model, run.setup.data, protocol.learning_rate, run.seed)
            scores[of][protocol.monitor] = run.outcome
    pairs = [(by["score"], by["loss"]) for by in scores.values()]
    validation = 100 * fmean(a.validation_score - b.validation_score for a, b in pairs)
    test = 100 * fmean(a.test_score - b.test_score for a, b in pairs)
    page = " ".join((Path(__file__).parents[2] / "docs" / "today.md").read_text("utf-8").split())
    assert f"looks better than training that stops by the loss: by {validation:.2f} points" in page
    assert f"though its test score is {-test:.2f} points lower" in page


def test_a_plan_counts_runs_and_their_hours(pretend):
    assert "| all |" in work.plan()
    assert "not measured" in work.plan()
    with pytest.raises(topoloss.InputError, match="not measured; run `measure` first"):
        work.run("rates", processes=1)
    kinds = [job for job in stages.jobs_of("confirm", choices.stand_in()) if job.seed == 200]
    pretend("measured", lambda job: 0.5, [replace(job, seed=99) for job in kinds])
    # Every run takes 36 seconds, a hundredth of an hour.
    counted = {
        "rates": 2 * 2 * 5 * 4,
        "alone": (1 + 5 + 7 + 1 + 5) * 6,
        "top": (5 + 7) * 6,
        "confirm": (5 + 2) * 20,
    }
    told = work.plan()
    for stage, count in counted.items():
        assert f"| {stage} | {count} | {count / 100:.1f} |" in told
    assert f"| all | {sum(counted.values())} | {sum(counted.values()) / 100:.1f} |" in told


def test_no_run_is_begun_beyond_the_budget(pretend, monkeypatch):
    kinds = [job for job in stages.jobs_of("confirm", choices.stand_in()) if job.seed == 200]
    pretend("measured", lambda job: 0.5, [replace(job, seed=99) for job in kinds])
    monkeypatch.setattr(declared, "CORE_HOURS", 1)
    with pytest.raises(topoloss.InputError, match="the budget is 1"):
        work.run("rates", processes=1)


def test_confirming_splits_are_not_run_with_another_choice(pretend):
    kinds = [job for job in stages.jobs_of("confirm", choices.stand_in()) if job.seed == 200]
    pretend("measured", lambda job: 0.5, [replace(job, seed=99) for job in kinds])
    pretend("confirm", lambda job: 0.5, kinds)
    choices.stand_in().write()
    frozen = choices.Frozen.read()
    frozen.rates["net2 on wine"] = 0.1
    frozen.write()
    with pytest.raises(topoloss.InputError, match="holds 5 runs that do not belong to this stage"):
        work.run("confirm", processes=1)


def test_missing_runs_are_done_and_told(small, monkeypatch, capsys):
    monkeypatch.setattr(declared, "PROBLEMS", SMALL[1:])
    monkeypatch.setattr(
        "topoloss.compare.protocols.TODAY", Protocol(max_epochs=2, warmup=1, optimiser="adamw")
    )
    work.measure()
    assert [run.arm.regulariser for run in runs.read(declared.file_of("measured"))] == [
        "none",
        "t1",
    ]
    assert "2/2 t1=0.001, net2 on diabetes, split 99: " in capsys.readouterr().out
    work.measure()
    assert capsys.readouterr().out == ""
