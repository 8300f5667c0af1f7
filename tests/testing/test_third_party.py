"""Third parties' distributions, from their own folders, in a fresh virtual environment."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

import topoloss

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[2] / "docs" / "examples"
EXAMPLES = sorted(path.parent for path in FOLDER.glob("*/pyproject.toml"))

MINE = """
import torch

def data():
    x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0] > 0).long()

def network():
    return torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Make an environment that sees the packages of this one; install the examples into it."""
    folder = tmp_path_factory.mktemp("third-party")
    venv.create(folder / "venv", symlinks=os.name != "nt")
    variables = {"base": str(folder / "venv"), "platbase": str(folder / "venv")}
    python = Path(sysconfig.get_path("scripts", "venv", variables)) / Path(sys.executable).name
    site_packages = Path(sysconfig.get_path("purelib", "venv", variables))
    # A path alone would leave out the .pth files there, and so what is installed editable.
    outer = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    (site_packages / "outer.pth").write_text(outer, encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    install = ["install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, *install, *map(str, EXAMPLES)], check=True, cwd=folder)

    def run(*arguments):
        done = subprocess.run(
            [str(python), *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=folder,
            env={**os.environ, "COLUMNS": "200"},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    (folder / "mine.py").write_text(MINE, encoding="utf-8")
    return run


def test_it_is_discovered_through_its_entry_point(environment):
    assert "distance-correlation" not in topoloss.available("filtration")
    listed = json.loads(environment("-m", "topoloss", "plugins", "--json"))["plugins"]
    (found,) = [p for p in listed if p["distribution"].startswith("topoloss-distance-correlation ")]
    assert found["status"] == "loaded"
    assert found["offers"] == {
        "filtration": ["distance-correlation"],
        "regulariser": ["t1-distance-correlation"],
    }


def test_it_is_compared_by_name(environment):
    command = ("-m", "topoloss", "compare", "none", "t1-distance-correlation=0.001")
    own = ("--model", "mine:network", "--data", "mine:data")
    out = environment(*command, *own, "--splits", 1, "--max-epochs", 2, "--out", "runs")
    assert "t1-distance-correlation=0.001, split 0: validation accuracy" in out


@pytest.mark.parametrize(
    ("name", "rule"),
    [("distance-correlation", "order_hint"), ("boundary-reduction", "boundary_reduction")],
)
def test_it_is_validated_from_the_command_line(environment, name, rule):
    out = environment("-m", "topoloss", "check", name)
    assert re.search(rf"\b{rule} +passed", out)
    assert "0 FAILED" in out


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_its_own_tests_pass(environment, example):
    out = environment(
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", "--doctest-modules"),
        *("-c", example / "pyproject.toml", "--rootdir", example, example / "tests"),
        *("--pyargs", example.name.replace("-", "_")),
    )
    assert " passed" in out
