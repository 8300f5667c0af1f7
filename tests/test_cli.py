import errno
import io
import json
import operator
import os
import re
import subprocess
import sys

import optuna
import pytest

import topoloss
from topoloss.__main__ import main
from topoloss.cli import words
from topoloss.cli.screen import Screen
from topoloss.compare import data, names, networks, protocols, treatments
from topoloss.compare.paper import networks as papers
from topoloss.compare.paper.protocols import setup
from topoloss.compare.records import Protocol
from topoloss.compare.runs import read
from topoloss.compare.storage import database, open_storage
from topoloss.files import write_whole
from topoloss.testing.kinds import KINDS

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command as a user would; returns exit status, output and errors.

    On one core, so that compare runs in this process unless it is told otherwise.
    """
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0}, raising=False)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["topoloss", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        status = 0
        try:
            main()
        except SystemExit as stop:
            status = stop.code or 0
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


def files_in(folder):
    return sorted(path.name for path in folder.rglob("*"))


def test_plugins_lists_every_installed_plugin(run):
    status, out, _ = run("plugins")
    assert status == 0
    for info in topoloss.installed_plugins():
        assert info.name in out
        for offered in info.offers.values():
            assert ", ".join(offered) in out


OFFERS_T1 = """
import topoloss

class Mine(topoloss.Loss):
    pass

@topoloss.hookimpl
def topoloss_losses():
    return {"t1": Mine}
"""


def test_plugins_lists_what_failed_with_distribution_and_cause(run, install):
    install("third_party_a", "import fast_trees", "a", "Requires-Dist: fast-trees; extra == 'f'\n")
    install("third_party_b", "raise SystemExit(3)", "b")
    status, out, err = run("plugins")
    assert status == 1
    for module, cause in (("a", "pip install 'third_party_a[f]'"), ("b", "SystemExit: 3")):
        assert f"third_party_{module} 1.2\n" in out
        (told,) = [line for line in out.splitlines() if cause in line]
        assert f"{module} failed: " in told
    assert "signed-correlation, cosine" in out
    assert err == ""


def test_plugins_tells_of_a_name_that_two_offer(run, install):
    install("third_party_t1", OFFERS_T1)
    status, out, _ = run("plugins")
    assert status == 1
    said = " ".join(out.split())
    assert "the loss 't1' is offered by 'decorrelation' (topoloss-framework" in said
    assert "'third-party' (third_party_t1 1.2); 't1' means the shipped one" in said
    assert "write 'third-party:t1' for another" in said


def test_train_prints_accuracy_and_writes_the_plot(run, tmp_path):
    plot = tmp_path / "deaths.png"
    status, out, _ = run("train", "--regulariser", "t2", "--max-epochs", 2, "--plot", plot)
    assert status == 0
    assert "test accuracy" in out
    assert "median death" in out
    assert plot.read_bytes().startswith(PNG)
    assert files_in(tmp_path) == ["deaths.png"]


def test_train_records_what_inspect_shows(run, tmp_path):
    folder = tmp_path / "run"
    status, out, _ = run("train", "--max-epochs", 1, "--out", folder)
    assert status == 0
    told = f"wrote {folder / 'run.jsonl'}; to see it: topoloss inspect {folder}"
    assert told in " ".join(out.split())
    status, out, _ = run("inspect", folder)
    assert (status, out) == (0, f"wrote {folder / 'inspect.html'}\n")
    page = (folder / "inspect.html").read_text(encoding="utf-8")
    assert '<h1 id="title">net0 on digits, t1=0.001, seed 0</h1>' in page
    elsewhere = tmp_path / "page.html"
    run("inspect", folder / "run.jsonl", "--out", elsewhere)
    assert elsewhere.read_text(encoding="utf-8") == page
    record = folder / "run.jsonl"
    again = folder / ".." / "run" / "run.jsonl"
    for given, taken in ((record, folder), (record, record), (record, again), (folder, record)):
        status, _, err = run("inspect", given, "--out", taken)
        assert status == 2
        assert f"--out {taken} is a folder or the record itself; name another file" in err
    # Without its end, as when the training still runs.
    lines = (folder / "run.jsonl").read_text(encoding="utf-8").splitlines()
    (folder / "run.jsonl").write_text("\n".join(lines[:-1]), encoding="utf-8")
    status, out, _ = run("inspect", folder)
    assert status == 0
    assert "is incomplete: training is still running, or was interrupted" in out


def test_train_repeats_a_run_of_compare(run, tmp_path):
    run("compare", "l2=1e-4", "--splits", 2, "--max-epochs", 1, "--out", tmp_path)
    (again,) = (one for one in read(tmp_path / "runs.csv") if one.seed == 1)
    same = ("--regulariser", "l2", "--weight", 1e-4, "--seed", 1, "--max-epochs", 1)
    status, out, _ = run("train", *same)
    assert status == 0
    assert f"test accuracy {100 * again.outcome.test_score:.2f} %, validation" in out


def test_train_takes_options_and_the_users_own(run, own_module):
    short = ("--max-epochs", 1, "--weight", 0.1)
    own = f"{own_module(OWN_REGULARISER)}:Mean[power=2]"
    for regulariser in (" t1[ reduction = mean ]", "cosine/mst/t2[alpha=1]", own):
        status, out, _ = run("train", "--regulariser", regulariser, *short)
        assert status == 0
        written = regulariser.replace(" ", "")
        assert f"net0 on digits, {written}=0.1, seed 0" in " ".join(out.split())


OWN_REGULARISER = """
import topoloss

class Mean(topoloss.Regulariser):
    def __init__(self, *, power=1):
        super().__init__()
        self.power = power

    def compute(self, x):
        return x.abs().pow(self.power).mean()
"""


def test_modules_in_the_current_folder_are_importable(run, tmp_path, monkeypatch):
    name = "a_regulariser_in_this_folder"
    (tmp_path / f"{name}.py").write_text(OWN_REGULARISER, encoding="utf-8")
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    monkeypatch.chdir(tmp_path)
    status, out, _ = run("check", f"{name}:Mean[power=2]")
    assert status == 0
    assert out.startswith(f"{name}:Mean[power=2] as a regulariser\n")


def test_compare_names_arms_with_their_options(run, tmp_path, own_module, undrawn):
    own = f"{own_module(OWN_REGULARISER)}:Mean"
    arms = {
        "none": "none",
        "t1=1e-3": "t1",
        "t1[reduction=mean]=1e-3,1": "t1[reduction=mean]",
        "t2[beta=0, alpha=1.5]=1": "t2[alpha=1.5,beta=0]",
        "cosine[constant=drop]/mst/t1=1e-3": "cosine[constant=drop]/mst/t1",
        f"{own}=0.1": own,
        f"{own}[power=2]=0.1": f"{own}[power=2]",
    }
    command = ("compare", "--data", "wine", *arms, "--splits", 1, "--max-epochs", 1)
    command += ("--out", tmp_path)
    status, out, _ = run(*command)
    assert status == 0
    for arm in arms.values():
        assert f"\n{arm} " in out
    runs = read(tmp_path / "runs.csv")
    assert list(dict.fromkeys(r.arm.regulariser for r in runs)) == list(arms.values())
    # The options make a difference.
    assert len({r.outcome.after.correlation for r in runs}) == len(runs)
    table = (tmp_path / "table.md").read_text(encoding="utf-8").splitlines()
    assert [line.split(" | ")[0].removeprefix("| ") for line in table[2:]] == list(arms.values())
    # Equal seconds show that the runs of all arms were found again.
    first = (tmp_path / "runs.csv").read_text(encoding="utf-8")
    run(*command[:-6], "t2[alpha=1.5,beta=0]=1", *command[-6:])
    assert (tmp_path / "runs.csv").read_text(encoding="utf-8") == first


def test_compare_writes_a_report_and_resumes(run, tmp_path):
    command = ("compare", "none", "l2=1e-4", "--splits", 1, "--max-epochs", 1, "--out", tmp_path)
    status, _, _ = run(*command)
    assert status == 0
    assert files_in(tmp_path) == [
        *("differences.md", "figure.png", "measures.md", "neurons.md", "ranks.md", "report.md"),
        *("runs.csv", "study.db", "table.md", "weights.md", "weights.png"),
    ]
    first = (tmp_path / "runs.csv").read_text(encoding="utf-8")
    run(*command)
    # Seconds are measured, so an equal file shows that nothing was trained again.
    assert (tmp_path / "runs.csv").read_text(encoding="utf-8") == first
    run(*command, "--fresh")
    assert (tmp_path / "runs.csv").read_text(encoding="utf-8") != first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--regulariser", "t3"), "no regulariser is named 't3'"),
        (("train", "--model", "net9"), "no network is named 'net9'"),
        (("train", "--data", "nothing"), "no data set is named 'nothing'"),
        (("train", "--plot", "no/such/folder/p.png"), "there is no folder no/such/folder"),
        (("train", "--plot", "p.jpg"), "a name that ends in .png"),
        (("train", "--regulariser", "l1"), "l1 has no default weight"),
        (("train", "--regulariser", "t1[reduction=mean]"), "mean] has no default weight"),
        (("train", "--regulariser", "t1[reductoin=mean]"), "Did you mean 'reduction'?"),
        (("train", "--regulariser", "cosine/t1"), "a pipeline has three"),
        (("compare", "t1[reduction=sun]=1"), "reduction='sun' is not one of 'sum', 'mean'"),
        (("compare", "t1[reduction=mean"), "expected ',' or ']'"),
        (("compare", "t1[reduction=mean]"), "has no weight; write t1[reduction=mean]=WEIGHT"),
        (("compare", "nowhere:reg=1"), "there is no module 'nowhere'"),
        (("compare", "t1"), "'t1' has no weight"),
        (("compare", "none", "--model", "nowhere:f"), "no module 'nowhere'"),
        (("compare", "none", "--protocol", "fix"), "error: --protocol fix: there is no such"),
        (("compare", "none", "--protocol", "fix"), "faithful or today. Did you mean 'fixed'?"),
        (("train", "--protocol", "fix"), "Did you mean 'fixed'?"),
        (("train", "--layers", "all"), "--layers all: there is no such choice; choose auto or tr"),
        (("train", "--weight", "inf"), "--weight inf: expected a number between 0 and 1e+09"),
        (("train", "--weight", "nan"), "--weight nan: expected a number between 0 and 1e+09"),
        (("train", "--weight", "-1"), "--weight -1: expected a number between 0 and 1e+09"),
        (("train", "--seed", str(10**30)), "'--seed'"),
        (("check", "t1", "--seed", str(10**30)), "'--seed'"),
        (("train", "--splits", "3"), "no such option: --splits"),
        (("trane",), "no such command 'trane'"),
        (("compare",), "missing argument"),
        (("compare", "none", "--storage", "sqlite:///:memory:"), "would be lost with this process"),
        (("compare", "none", "--storage", "sqlite://"), "would be lost with this process"),
        (("train", "--device", "meta"), "the device 'meta' cannot be used here"),
        (("compare", "none", "--monitor", "los"), "Did you mean 'loss'?"),
        (
            ("compare", "none", "--search", "random"),
            "--search random: there is no such choice; choose grid or tpe",
        ),
        (("compare", "t1=1", "--search", "tpe"), "t1=1 is no range to search"),
        (("compare", "none", "--runs", "none.csv"), "cannot be read from none.csv"),
        (
            ("compare", "none", "--fresh", "--storage", "sqlite:///a.db"),
            "--storage names a shared database",
        ),
        (
            ("compare", "none", "--data", "breast-cancer", "--protocol", "faithful"),
            "no pixels to divide twice",
        ),
        (("compare", "none", "--device", "tpu9"), "the device 'tpu9' cannot be used here"),
        (("train", "--device", "tpu9"), "the device 'tpu9' cannot be used here"),
        (("report", "nowhere.csv"), "cannot be read from nowhere.csv"),
        (("inspect", "nowhere"), "there is no nowhere; record one with `topoloss train --out"),
    ],
)
def test_a_command_that_fails_says_why_and_writes_nothing(
    run, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    status, _, err = run(*arguments)
    assert status == 2
    assert err.startswith("error: ")
    assert message in err
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_compare_in_all_its_options(run, tmp_path, undrawn, jobs):
    command = (
        *("compare", "none", "l2=1e-5,1e-3", "--search", "tpe", "--trials", 2, "--splits", 2),
        *("--max-epochs", 1, "--protocol", "faithful", "--monitor", "score", "--jobs", jobs),
        *("--patience", 3, "--layers", "auto"),
    )
    shared = f"sqlite:///{tmp_path / 'shared.db'}"
    status, out, _ = run(*command, "--out", tmp_path / "a", "--storage", shared)
    assert status == 0
    assert out.count("validation accuracy") == 2 + 4
    assert "study.db" not in files_in(tmp_path / "a")
    runs = tmp_path / "a" / "runs.csv"
    assert {run.setup for run in read(runs)} == {
        setup(
            *("net0", "digits", "faithful"),
            max_epochs=1, monitor="score", patience=3, layers="auto",
        )
    }  # fmt: skip
    # A second machine finds every run in the storage; a new one in the file.
    for option in (("--storage", shared), ("--runs", runs)):
        run(*command, "--out", tmp_path / "b", *option)
        assert (tmp_path / "b" / "runs.csv").read_bytes() == runs.read_bytes()


def test_report_rebuilds_what_compare_wrote(run, tmp_path):
    run("compare", "none", "l2=1e-4", "--splits", 2, "--max-epochs", 1, "--out", tmp_path)
    written = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.name != "study.db"}
    for name in written.keys() - {"runs.csv"}:
        (tmp_path / name).unlink()
    status, _, _ = run("report", tmp_path)
    assert status == 0
    again = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.name != "study.db"}
    assert again == written


def test_report_joins_runs_and_counts_none_twice(run, tmp_path, undrawn):
    for each in ("digits", "breast-cancer"):
        run("compare", "none", "--data", each, "--max-epochs", 1, "--out", tmp_path / each)
    folders = [tmp_path / each for each in ("digits", "breast-cancer", "digits")]
    run("report", *folders, "--out", tmp_path / "both")
    assert len((tmp_path / "both" / "runs.csv").read_text(encoding="utf-8").splitlines()) == 1 + 6
    assert "## net0 on breast-cancer" in (tmp_path / "both" / "report.md").read_text("utf-8")


def test_a_smaller_comparison_loses_no_runs(run, tmp_path, undrawn):
    command = ("compare", "none", "--max-epochs", 1, "--out", tmp_path)
    run(*command, "--splits", 2)
    both = (tmp_path / "runs.csv").read_text(encoding="utf-8")
    run(*command, "--splits", 1, "--runs", tmp_path / "runs.csv")
    assert (tmp_path / "runs.csv").read_text(encoding="utf-8") == both
    assert "| none | - | 1 |" in (tmp_path / "table.md").read_text(encoding="utf-8")
    run(*command, "--splits", 1, "--fresh")
    assert len((tmp_path / "runs.csv").read_text(encoding="utf-8").splitlines()) == 1 + 1


def test_a_report_of_several_needs_a_folder_of_its_own(run, tmp_path):
    status, _, err = run("report", tmp_path / "a", tmp_path / "b")
    assert status == 2
    assert "needs a folder of its own: --out" in err


def test_out_that_is_a_file_is_refused(run, tmp_path):
    taken = tmp_path / "taken"
    taken.write_text("mine", encoding="utf-8")
    status, _, err = run("compare", "none", "--out", taken)
    assert status == 2
    assert "is a file; name a folder" in err
    assert taken.read_text(encoding="utf-8") == "mine"


def test_a_folder_with_runs_of_another_version_is_refused_before_training(run, tmp_path):
    (tmp_path / "runs.csv").write_text("model,wait\n", encoding="utf-8")
    status, _, err = run("compare", "none", "--out", tmp_path)
    assert status == 2
    assert "its columns differ" in err
    assert files_in(tmp_path) == ["runs.csv"]


def test_a_folder_that_cannot_be_made_is_refused_before_training(run, tmp_path):
    taken = tmp_path / "taken"
    taken.write_text("mine", encoding="utf-8")
    status, out, err = run("compare", "none", "--out", taken / "runs")
    assert status == 2
    assert f"files cannot be written into {taken / 'runs'}: Not a directory. Choose" in err
    assert "split 0" not in out


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_a_folder_that_cannot_be_written_to_is_refused_before_training(run, tmp_path):
    tmp_path.chmod(0o555)
    status, out, err = run("compare", "none", "--out", tmp_path)
    assert status == 2
    assert f"files cannot be written into {tmp_path}: Permission denied" in err
    assert "split 0" not in out


def test_a_report_that_finds_the_disk_full_says_so_and_loses_no_run(run, tmp_path, monkeypatch):
    command = ("compare", "none", "--splits", 1, "--max-epochs", 1, "--out", tmp_path)

    def fail(figure, file, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr("matplotlib.figure.Figure.savefig", fail)
        status, _, err = run(*command)
    assert status == 2
    assert "figure.png cannot be written: No space left on device. Make room" in err
    # Seconds are measured, so an equal file shows that nothing was trained again.
    first = (tmp_path / "runs.csv").read_text(encoding="utf-8")
    status, _, _ = run(*command)
    assert status == 0
    assert (tmp_path / "runs.csv").read_text(encoding="utf-8") == first


NARROW = """
import torch

def network():
    return torch.nn.Sequential(torch.nn.Linear(64, 10), torch.nn.ReLU(), Narrow())

class Narrow(torch.nn.Module):
    def forward(self, h):
        if self.training:
            raise topoloss.InputError("too narrow")
        return h

import topoloss
"""


def test_an_error_in_a_run_says_which_run_and_how_to_go_on(run, tmp_path, own_module):
    network = f"{own_module(NARROW)}:network"
    status, _, err = run("compare", "none", "--model", network, "--out", tmp_path / "runs")
    assert status == 2
    assert err.splitlines()[0] == "error: too narrow"
    assert re.search(r"The run none, split \d failed\.", err)
    assert "study.db has the finished runs: repeat the command to go on." in err


def test_an_interrupted_compare_says_how_to_go_on(run, tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("topoloss.compare.setups.train", interrupt)
    command = ("compare", "none", "--jobs", 1, "--out", tmp_path / "runs")
    status, _, err = run(*command)
    assert status == 130
    assert "repeat the command to go on" in err
    _, _, err = run(*command, "--fresh")
    assert "repeat the command without --fresh to go on" in err


def test_version_is_printed(run):
    assert run("--version") == (0, f"topoloss {topoloss.__version__}\n", "")


def test_an_interrupted_train_says_so(run, tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("topoloss.compare.setups.train", interrupt)
    status, _, err = run("train", "--plot", tmp_path / "p.png")
    assert status == 130
    assert "interrupted; nothing was written" in err
    assert files_in(tmp_path) == []
    status, _, err = run("train", "--out", tmp_path)
    assert status == 130
    assert "has the epochs so far" in err


def test_a_missing_extra_is_named(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "typer", None)
    for name in [name for name in sys.modules if name.startswith("topoloss.cli.")]:
        if name != "topoloss.cli.failures":
            monkeypatch.delitem(sys.modules, name)
    status, _, err = run("plugins")
    assert status == 2
    assert "typer is not installed; run: pip install 'topoloss-framework[cli]'" in err


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("train", ["'t1[reduction=mean]'", "[default: for t1 0.001, t2 1, naive 0.3]"]),
        ("compare", ["'t1[reduction=mean]=0.01'", "cosine/mst/t2=1", "[default: a file in the"]),
        ("check", ["'t1[reduction=mean]'", "--expected MODULE:FUNCTION"]),
    ],
)
def test_help_shows_what_stands_in_brackets(run, command, told):
    status, out, _ = run(command, "--help")
    assert status == 0
    for text in told:
        assert text in " ".join(out.split())


# topoloss check


def test_check_reports_every_rule(run):
    status, out, _ = run("check", "cosine")
    assert status == 0
    rules = [rule.__name__ for rule in KINDS["filtration"].rules]
    first, *lines, blank, last = out.splitlines()
    assert (first, blank) == ("cosine as a filtration", "")
    assert [line.split()[1] for line in lines] == rules
    outcome = {line.split()[1]: line.split(maxsplit=2)[2] for line in lines}
    passed = list(outcome.values()).count("passed")
    assert last == f"{passed} passed, {len(rules) - passed} skipped, 0 FAILED"
    assert outcome["order_hint"] == "passed"
    assert outcome["definition"] == "skipped: no definition was given with expected="


def test_check_takes_a_name_in_all_its_kinds_or_in_one(run):
    status, out, _ = run("check", "t1")
    assert status == 0
    assert "t1 as a loss\n" in out
    assert "t1 as a regulariser\n" in out
    _, out, _ = run("check", "t1", "--kind", "loss")
    assert "t1 as a regulariser" not in out


@pytest.mark.parametrize(
    ("given", "kinds"),
    [
        ("t1[reduction=mean]", ["loss", "regulariser"]),
        ("samplers:random", ["sampler"]),
        ("cosine[constant=drop]/mst/t2[alpha=0.25]", ["regulariser"]),
        ("importance[fraction=0.5]", ["sampler"]),
        ("topoloss_plugins.correlation:Cosine[constant=drop]", ["filtration"]),
        ("topoloss_plugins:samplers", ["plugin"]),
    ],
)
def test_check_takes_options_pipelines_and_qualified_names(run, given, kinds):
    status, out, _ = run("check", given)
    assert status == 0
    assert [line for line in out.splitlines() if line.startswith(given) and " as a " in line] == [
        f"{given} as a {kind}" for kind in kinds
    ]


DEFINITIONS = """
def sum_of_deaths(diagrams):
    return -sum(diagrams[0].deaths.tolist())

def mean_of_deaths(diagrams):
    deaths = diagrams[0].deaths.tolist()
    return -sum(deaths) / max(len(deaths), 1)

number = 3
"""


def test_check_compares_with_a_definition(run, own_module):
    module = own_module(DEFINITIONS)
    for text, function, expected in (
        ("t1", "sum_of_deaths", 0),
        ("t1", "mean_of_deaths", 1),
        ("t1[reduction=mean]", "mean_of_deaths", 0),
        ("t1[reduction=mean]", "sum_of_deaths", 1),
    ):
        status, out, _ = run("check", text, "--kind", "loss", "--expected", f"{module}:{function}")
        assert status == expected
        assert ("breaks the rule 'definition'" in out) == bool(expected)


def test_a_definition_is_of_one_kind_and_a_function(run, own_module):
    module = own_module(DEFINITIONS)
    for arguments, message in (
        (("t1", "--expected", f"{module}:sum_of_deaths"), "loss, regulariser. Choose one with --k"),
        (("total-persistence", "--expected", f"{module}:number"), "expected=3 was given"),
        (("total-persistence", "--expected", f"{module}:nothing"), "no function 'nothing'"),
        (("mst", "--expected", f"{module}:sum_of_deaths"), "only the kinds filtration, loss"),
    ):
        status, out, err = run("check", *arguments)
        assert (status, out) == (2, "")
        assert message in err


def test_check_takes_a_plugin(run):
    status, out, _ = run("check", "samplers")
    assert status == 0
    assert out.startswith("samplers as a plugin\n")
    for name in ("all", "importance", "random"):
        assert f"sampler {name} " in out


WRONG = """
import topoloss

class Wrong(topoloss.Filtration):
    order = "dot_descending"

    def vertices(self, x):
        return x.T

    def edge_values(self, v, i, j):
        return (v[i] - v[j]).abs().sum(-1)

wrong = Wrong()

def make_wrong():
    return wrong
"""


ASYMMETRIC = """
import topoloss

class Asymmetric(topoloss.Filtration):
    def vertices(self, x):
        return x.T.float() if x.element_size() == 2 else x.T
    def edge_values(self, v, i, j):
        return (v[i] - v[j]).abs().sum(-1) + v[i, 0].abs()
"""


@pytest.mark.parametrize("name", ["Wrong", "wrong", "make_wrong"])
def test_check_of_a_users_own_object_tells_the_whole_failure(run, own_module, name):
    module = own_module(WRONG)
    status, out, _ = run("check", f"{module}:{name}", "--seed", 3)
    assert status == 1
    table, *failures, total = out.split("\n\n")
    assert " order_hint           FAILED\n" in table
    first = [failure for failure in failures if "breaks the rule 'order_hint'" in failure]
    assert "generic(samples=32, neurons=16, seed=3)" in first[0]
    assert "\n  fix " in first[0]
    # What follows from another failure is marked in the table, and told there alone.
    failed = [line for line in table.splitlines() if "FAILED" in line]
    following = [line for line in failed if "FAILED, probably follows from " in line]
    assert len(failures) == len(failed) - len(following)
    assert not any("\n  follows " in failure for failure in failures)
    assert total.endswith(f" {len(failed)} FAILED\n")


def test_check_tells_what_follows_from_another_failure(run, own_module):
    module = own_module(ASYMMETRIC)
    status, out, _ = run("check", f"{module}:Asymmetric")
    assert status == 1
    table, *failures, _ = out.split("\n\n")
    assert " symmetry             FAILED\n" in table
    assert " pairwise             FAILED, probably follows from symmetry" in table
    assert len(failures) == 1
    assert "breaks the rule 'symmetry'" in failures[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cosin",), "nothing is named 'cosin'; there are all, "),
        (("cosin",), "Did you mean 'cosine'?"),
        (("cosine", "--kind", "loss"), "no loss is named 'cosine'"),
        (("cosine", "--kind", "los"), "Did you mean 'loss'?"),
        (("nowhere:f",), "no module 'nowhere'; expected package.module:object"),
        (("topoloss:nothing",), "topoloss has no object 'nothing'"),
        (("math:pi",), "3.14159"),
        (("topoloss_plugins.samplers",), "nothing is named 'topoloss_plugins.samplers'"),
    ],
)
def test_what_cannot_be_checked_is_misuse(run, arguments, message):
    status, out, err = run("check", *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err


def test_check_refuses_a_plugin_class_as_register_does(run, own_module):
    module = own_module(
        "import topoloss\nclass P:\n    @topoloss.hookimpl\n"
        "    def topoloss_losses(self):\n        return {}\n"
    )
    status, _, err = run("check", f"{module}:P")
    assert status == 2
    assert "class P was given; expected an instance" in err


# What a terminal shows


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--version"], 0),
        (["--help"], 0),
        (["compare", "--help"], 0),
        (["trane"], 2),
        (["train", "--regulariser", "t3"], 2),
        (["train", "--model", "net9"], 2),
        (["train", "--data", "nothing"], 2),
        (["train", "--weight", "inf"], 2),
        (["compare", "none", "t3=1"], 2),
        (["compare", "none", "--protocol", "foo"], 2),
        (["compare", "none", "--search", "foo"], 2),
        (["check", "cosin"], 2),
        (["check", "cosin/mst/t1"], 2),
        (["check", "t1", "--kind", "los"], 2),
    ],
)
def test_nobody_waits_for_torch_to_be_told_of_a_typing_error(run, arguments, status, monkeypatch):
    """An import of torch would raise."""
    for name in [name for name in sys.modules if name.startswith("topoloss")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    found, _, err = run(*arguments)
    assert found == status
    assert "torch" not in err


def test_the_names_that_need_no_torch_are_those_of_a_comparison():
    assert set(names.MODELS) == {*papers.NETWORKS, *networks.NETWORKS}
    assert set(names.DATA) == set(data.DATASETS)
    assert names.PROTOCOLS == protocols.PROTOCOLS
    for option, known in {"layers": names.LAYERS, "monitor": names.MONITORS}.items():
        assert [getattr(Protocol(**{option: name}), option) for name in known] == list(known)
        with pytest.raises(topoloss.OptionError, match=f"is not one of {str(known)[1:-1]}\\."):
            Protocol(**{option: "nothing of the kind"})
    assert set(names.TREATMENTS) == set(treatments.TREATMENTS)


def test_the_names_in_the_source_of_plugins_are_those_that_they_offer():
    assert {kind: sorted(offered) for kind, offered in words.offered().items()} == {
        kind: topoloss.available(kind) for kind in words.HOOKS.values()
    }
    assert {hook: kind for kind, (hook, _) in topoloss.plugins.KINDS.items()} == words.HOOKS


UNREADABLE = [
    OFFERS_T1.replace('{"t1": Mine}', "dict(t1=Mine)"),
    OFFERS_T1.replace('{"t1": Mine}', '{"t1".lower(): Mine}'),
    OFFERS_T1.replace('{"t1": Mine}', '{**{"t1": Mine}}'),
    "from third_party_hooks import *",
]


@pytest.mark.parametrize("code", UNREADABLE)
def test_nothing_is_refused_early_where_a_plugin_may_offer_it(install, code):
    install("third_party_unreadable", code)
    words.check_components("whatever")
    words.check_name_of_any("whatever")


@pytest.mark.parametrize("width", [40, 80, 120])
def test_tables_fit_the_terminal_and_nothing_is_cut_short(monkeypatch, capsys, width):
    header = ("regulariser", "weight", "test accuracy (%)", "epochs")
    rows = [
        ("cosine[constant=drop]/mst/t1", "0.001 x 2, 0.01 x 1", "97.25 ± 0.50", "120"),
        ("none", "-", "96.00 ± 1.00", "12"),
    ]
    monkeypatch.setenv("COLUMNS", str(width))
    Screen().table(header, rows, "net0 on digits", ["none: 2 stopped at the limit of epochs"])
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= width
    for cell in (*header[1:], *(cell for row in rows for cell in row)):
        for word in cell.split():
            assert word in shown
    assert shown.index("none: 2") > shown.index("96.00")


def test_a_name_that_is_wider_than_the_terminal_is_folded(monkeypatch, capsys):
    name = "package.module:regulariser[" + 30 * "a" + "]"
    monkeypatch.setenv("COLUMNS", "40")
    Screen().table(("regulariser", "splits"), [(name, "3")])
    shown = capsys.readouterr().out
    assert name in shown.replace("\n", "")


def test_a_table_on_a_terminal_of_few_letters(monkeypatch):
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", shown)
    Screen().table(("a", "b"), [("1", "97.25 ± 0.50")])
    shown.flush()
    assert "97.25 +/- 0.50" in shown.buffer.getvalue().decode()


def terminal(monkeypatch, **environment):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def test_no_color_turns_colours_off(monkeypatch, capsys):
    terminal(monkeypatch)
    Screen().say("passed", "green")
    assert "\x1b[32m" in capsys.readouterr().out
    terminal(monkeypatch, NO_COLOR="1")
    Screen().say("passed", "green")
    Screen().table(("a",), [("1",)], "title")
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize("width", [40, 80])
def test_progress_shows_bar_and_time_left(monkeypatch, capsys, width):
    """One run took 30 seconds, and 10 seconds later five are left; four were found."""
    terminal(monkeypatch, COLUMNS=str(width), NO_COLOR="1")
    now = 0.0
    monkeypatch.setattr("rich.console.monotonic", lambda: now)
    long = "t1[reduction=mean]=0.001, split 3, epoch 100, validation 97.1 %"
    with Screen().progress(10, long) as steps:
        steps.found(4)
        now = 30.0
        steps.advance()
        now = 40.0
    last = re.split("[\r\n]", capsys.readouterr().out.replace("\x1b[2K", ""))
    line = next(line for line in reversed(last) if "5/10" in line)
    assert "5/10 0:02:20 left t1" in line
    assert "━━━" in line
    assert len(line.split("\x1b")[0]) <= width


# Results as JSON, and results alone


def test_plugins_as_json(run, install):
    install("third_party_a", "import fast_trees", "a")
    status, out, _ = run("plugins", "--json")
    assert status == 1
    told = json.loads(out)
    assert told["clashes"] == []
    by_name = {each["name"]: each for each in told["plugins"]}
    assert by_name["samplers"]["offers"] == {"sampler": ["importance", "random", "all"]}
    assert by_name["a"]["status"] == "failed"
    assert "fast_trees" in by_name["a"]["reason"]


def test_check_as_json_or_quietly(run, own_module):
    module = own_module(ASYMMETRIC)
    status, out, _ = run("check", f"{module}:Asymmetric", "--json")
    assert status == 1
    told = json.loads(out)
    broken = {rule["rule"] for rule in told["rules"] if rule["outcome"] == "failed"}
    assert {"symmetry", "pairwise"} <= broken
    assert told["counts"]["failed"] == len(broken)
    status, quiet, _ = run("check", f"{module}:Asymmetric", "--quiet")
    assert status == 1
    assert "breaks the rule 'symmetry'" in quiet
    assert "determinism" not in quiet


def test_train_as_json_or_quietly(run, tmp_path):
    short = ("train", "--max-epochs", 2, "--out", tmp_path)
    short += ("--patience", 1, "--layers", "trainable", "--monitor", "score")
    status, out, _ = run(*short, "--json")
    told = json.loads(out)
    assert status == 0
    assert (told["regulariser"], told["weight"], told["epochs"]) == ("t1", 0.001, 2)
    # Of the 450 + 350 + 200 hidden neurons and the 10 outputs, one death fewer than neurons.
    assert sum(told["after"]["deaths"]) == 1009
    status, out, _ = run(*short, "--quiet")
    assert status == 0
    assert "constant neurons" in out
    assert f"{told['after']['constant']} of 1010" in out
    assert "wrote" not in out


def test_json_has_null_for_what_is_no_number(capsys):
    Screen(as_json=True).json({"accuracy": float("nan"), "deaths": [float("inf"), 0.5]})
    assert json.loads(capsys.readouterr().out) == {"accuracy": None, "deaths": [None, 0.5]}


def test_compare_shows_the_table_alone_if_quiet(run, tmp_path, undrawn):
    status, out, _ = run("compare", "none", "--max-epochs", 1, "--quiet", "--out", tmp_path)
    assert status == 0
    assert out.startswith("net0 on digits, 3 splits\n")
    assert out.endswith("none: 3 stopped at the limit of epochs\n")
    assert "split 0" not in out


# Whose error it is


OWN_FAILURES = """
import sys
import torch

class Custom(Exception):
    def __init__(self, first, second):
        super().__init__(first)

class Network(torch.nn.Linear):
    def __init__(self):
        super().__init__(64, 10)

    def forward(self, x):
        if self.training:
            fail()
        return super().forward(x)

def network():
    return Network()

def data():
    fail()
"""
FAILURES = {
    'raise ZeroDivisionError("too small")': "ZeroDivisionError: too small",
    'raise Custom("first", "second")': "Custom: first",
    "open('/no/such/file')": "FileNotFoundError: ",
    "sys.exit(0)": "sys.exit(0)",
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("where", ["network", "data"])
def test_an_error_in_the_users_code_is_said_to_be_theirs(run, own_module, failure, where):
    module = own_module(f"{OWN_FAILURES}\ndef fail():\n    {failure}\n")
    option = "--model" if where == "network" else "--data"
    status, _, err = run("train", option, f"{module}:{where}", "--max-epochs", 1)
    assert status == 2
    assert err.startswith("error: ")
    assert FAILURES[failure] in err
    if "exit" not in failure:
        assert "raised by code of your own, " in err
        assert "in fail\n" in err
    # Only their part of the traceback is shown.
    assert "topoloss/compare" not in err


@pytest.mark.slow
def test_an_error_that_no_process_can_be_given_is_told_all_the_same(run, tmp_path, monkeypatch):
    failure = 'raise Custom("first", "second")'
    (tmp_path / "custom_failure.py").write_text(f"{OWN_FAILURES}\ndef fail():\n    {failure}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    command = ("compare", "none", "--model", "custom_failure:network", "--jobs", 2)
    status, _, err = run(*command, "--max-epochs", 1)
    assert status == 2
    assert err.startswith("error: Custom: first\nIt was raised by code of your own, ")


def test_a_module_that_ends_python_does_not_end_a_command_well(run, own_module):
    module = own_module("import sys\nsys.exit(0)\n")
    for command in (("check",), ("compare",), ("train", "--model"), ("train", "--data")):
        arm = "=1" if command == ("compare",) else ""
        status, _, err = run(*command, f"{module}:f{arm}")
        assert status == 2
        assert "ended Python with sys.exit(0)" in err


def test_a_plugin_that_raises_is_named(run, install):
    install("third_party_loss", RAISES, "their-plugin")
    status, _, err = run("train", "--regulariser", "correlation/mst/theirs", "--weight", 1)
    assert status == 2
    assert err.startswith("error: ZeroDivisionError: in the plugin\n")
    assert "the plugin their-plugin of third_party_loss 1.2:" in err


RAISES = """
import topoloss

class Theirs(topoloss.Loss):
    def forward(self, diagrams):
        raise ZeroDivisionError("in the plugin")

@topoloss.hookimpl
def topoloss_losses():
    return {"theirs": Theirs}
"""


def test_a_defect_of_ours_is_one_line_and_asks_for_a_report(run, monkeypatch):
    # As a release of pluggy might that breaks ours: nobody else's code takes part.
    monkeypatch.setattr("topoloss.plugins.clashes", operator.truediv)
    status, _, err = run("plugins")
    assert status == 2
    assert "Traceback" not in err
    assert err.startswith("error: TypeError: ")
    assert "probably a bug in topoloss. Please report it" in err
    monkeypatch.setenv("TOPOLOSS_TRACEBACK", "1")
    assert "Traceback" in run("plugins")[2]


@pytest.mark.parametrize("given", ["json:dumps", "math:pow", "os:getcwd", "builtins:print"])
def test_what_makes_no_component_is_refused(run, given):
    status, _, err = run("check", given)
    assert status == 2
    assert err.startswith("error: ")
    assert "a bug in topoloss" not in err


SPARSE = """
import numpy, scipy.sparse, torch

def tensor():
    return torch.eye(50).to_sparse(), torch.arange(50) % 2

def matrix():
    return scipy.sparse.eye(50), numpy.arange(50) % 2
"""


def test_sparse_data_are_refused_with_what_to_do(run, own_module):
    module = own_module(SPARSE)
    for function in ("tensor", "matrix"):
        status, _, err = run("train", "--data", f"{module}:{function}")
        assert status == 2
        assert "they are sparse; return .toarray(), or .to_dense()" in err


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    command = [sys.executable, "-m", "topoloss", "--help"]
    read, write = os.pipe()
    os.close(read)
    ran = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, cwd=tmp_path, check=False)
    os.close(write)
    assert ran.returncode == 141
    assert ran.stderr == b""


def test_python_m_topoloss_is_the_command(tmp_path):
    command = [sys.executable, "-m", "topoloss", "--version"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    ran = subprocess.run(command, capture_output=True, cwd=tmp_path, env=environment, check=True)
    assert ran.stdout.decode() == f"topoloss {topoloss.__version__}\n"


# Files


@pytest.mark.parametrize("name", ["what? 50%25 größe&", "a#b {x}"])
def test_any_letter_may_stand_in_the_path_of_a_folder(run, tmp_path, undrawn, name):
    folder = tmp_path / name
    command = ("compare", "none", "--data", "wine", "--splits", 1, "--max-epochs", 1)
    status, _, _ = run(*command, "--out", folder)
    assert status == 0
    assert "study.db" in files_in(folder)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert optuna.study.get_all_study_names(open_storage(database(folder), 20))


def test_a_file_that_another_process_is_writing_is_left_alone(tmp_path):
    """Two comparisons write their report into one folder, the second while the first does."""
    path = tmp_path / "report.md"

    def second(partial):
        partial.write_text("first", encoding="utf-8")
        write_whole(path, lambda other: other.write_text("second", encoding="utf-8"))
        assert partial.read_text(encoding="utf-8") == "first"

    write_whole(path, second)
    assert path.read_text(encoding="utf-8") == "first"
    assert files_in(tmp_path) == ["report.md"]


@pytest.mark.filterwarnings("default:.*was cut short")
def test_runs_that_were_cut_short_are_mended_from_the_study(run, tmp_path, undrawn):
    command = ("compare", "none", "l2=1e-4", "--data", "wine", "--splits", 2, "--max-epochs", 1)
    command += ("--out", tmp_path)
    run(*command)
    file = tmp_path / "runs.csv"
    whole = file.read_bytes()
    lines = whole.splitlines(keepends=True)
    for cut in (0, 7, len(lines[0]) + 20, len(whole) - 2, len(whole) - 40):
        file.write_bytes(whole[:cut])
        status, _, err = run(*command)
        assert status == 0
        assert "runs.csv was cut short" in err
        # Equal seconds show that nothing was trained again.
        assert file.read_bytes() == whole
    (tmp_path / "study.db").unlink()
    file.write_bytes(whole[:-40])
    status, out, err = run(*command)
    assert status == 2
    assert "line 5 holds no run" in err
    assert "split 0" not in out  # told before training


# Completion


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("topoloss trai", {"train"}),
        ("topoloss train --protocol fa", {"faithful"}),
        ("topoloss train --model vgg256-d", {"vgg256-dense2", "vgg256-dropout"}),
        ("topoloss check corr", {"correlation"}),
        ("topoloss compare weight", {"weight-decay"}),
    ],
)
def test_a_shell_completes_names(run, monkeypatch, typed, completed):
    monkeypatch.setenv("_TOPOLOSS_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split()) - 1))
    status, out, _ = run()
    assert status == 0
    assert completed <= set(out.split())
    assert all(word.startswith(typed.split()[-1]) for word in out.split())
