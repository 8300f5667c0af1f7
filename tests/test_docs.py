"""The site keeps in step with the code, and shows no code that is not run."""

import ast
import inspect
import re
import runpy
from importlib import metadata
from pathlib import Path

import pytest
from mutants.results import found

import topoloss
import topoloss.inspection
import topoloss.testing
from topoloss import hookspecs, plugins

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
HOOKS = [name for name, f in inspect.getmembers(hookspecs) if hasattr(f, "topoloss_spec")]


def page(name):
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def fences(text):
    """What stands behind the opening ticks of each block."""
    return re.findall(r"^(?:`{3,}|~{3,})(.*)\n(?:.*\n)*?(?:`{3,}|~{3,})$", text, re.MULTILINE)


def refusals(text):
    """What in a page is shown as code and not run, or run with its errors let through."""
    # What a terminal shows is compared with what commands print, in test_command_line.
    run_or_no_code = {"{code-cell}", "{eval-rst}", "{include}", "{toctree}", "console"}
    blocks = [fence for fence in fences(text) if fence.split(" ")[0] not in run_or_no_code]
    return blocks + re.findall(r"skip-execution|raises-exception|code-block|literalinclude", text)


def test_the_picture_of_the_concepts_is_what_its_script_draws(tmp_path, monkeypatch):
    script = runpy.run_path(str(ROOT / "docs" / "filtration.py"))
    path = tmp_path / "drawn.svg"
    monkeypatch.setitem(script["main"].__globals__, "PICTURE", path)
    script["main"]()
    drawn, committed = (
        re.findall(r"<text[^>]*>([^<]*)</text>", picture.read_text(encoding="utf-8"))
        for picture in (path, ROOT / "docs" / "images" / "filtration.svg")
    )
    assert drawn == committed
    assert {"up to 0: 7 components", "up to 1.4: 1 component"} <= set(drawn)


def test_there_are_pages():
    assert {"index", "quickstart", "concepts", "authors"} <= {path.stem for path in PAGES}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_code_block_is_run(path):
    assert not refusals(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "block",
    [
        "```python\nx = 1\n```",
        "````sh\nls\n````",
        "```\nx = 1\n```",
        "~~~python\nx = 1\n~~~",
        "```{code-block} python\nx = 1\n```",
        "```{code-cell}\n:tags: [skip-execution]\nx = 1\n```",
    ],
)
def test_a_block_that_is_not_run_is_refused(block):
    assert refusals(f"# Title\n\n{block}\n\nEnd.\n")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_with_cells_is_a_notebook(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith("---\nfile_format: mystnb\n") == ("{code-cell}" in text)


def documented():
    return set(re.findall(r"^\.\. (?:auto\w+|data):: (\S+)$", page("api.md"), re.MULTILINE))


def factories():
    """The shipped factories, by the public name under which they can be imported."""
    modules = {entry.name: entry.value for entry in metadata.entry_points(group="topoloss")}
    for info in topoloss.installed_plugins():
        for kind, names in info.offers.items():
            for name in names:
                factory = plugins.find(kind, name)
                yield f"{modules[info.name]}.{factory.__name__}"


def test_the_reference_has_every_public_name_and_every_shipped_component():
    public = {f"topoloss.{name}" for name in topoloss.__all__}
    kit = {f"topoloss.testing.{name}" for name in topoloss.testing.__all__}
    pictures = {f"topoloss.plot.{name}" for name in topoloss.plot.__all__}
    pages = {f"topoloss.inspection.{name}" for name in topoloss.inspection.__all__}
    assert documented() == public | kit | pictures | pages | set(factories())


def test_the_hooks_are_those_of_the_kinds():
    assert sorted(HOOKS) == sorted(hook for hook, _ in plugins.KINDS.values())


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_documented_with_signature_and_example(hook):
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", page("hooks.md"), re.DOTALL | re.M))
    assert f".. autofunction:: topoloss.hookspecs.{hook}\n" in sections[hook]
    cells = re.findall(r"```\{code-cell\}\n(.*?)```", sections[hook], re.DOTALL)
    assert any(f"def {hook}(self):" in cell for cell in cells)
    assert "Returns" in inspect.getdoc(getattr(hookspecs, hook))


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_behavioural_test(hook):
    tests = (ROOT / "tests" / "core" / "test_hooks.py").read_text(encoding="utf-8")
    assert f"\ndef test_{hook}():\n" in tests


def promises(text):
    """Each promise of a page and what it names as its test."""
    rows = re.findall(r"^\| (.+) \| (.+) \|$", text, re.MULTILINE)
    return {promise: test for promise, test in rows if promise != "promise"}


def is_a_test(named):
    """Whether `file::function` is a test of this repository."""
    match = re.fullmatch(r"`(tests/[\w/]+\.py)::(test_\w+)`", named)
    if match is None or not (ROOT / match[1]).is_file():
        return False
    body = ast.parse((ROOT / match[1]).read_text(encoding="utf-8")).body
    return any(isinstance(each, ast.FunctionDef) and each.name == match[2] for each in body)


def test_every_promise_names_a_test_that_exists():
    found = promises(page("promises.md"))
    rows = [line for line in page("promises.md").splitlines() if line.startswith("| ")]
    headers = rows.count("| promise | test |")
    assert len(found) == len(rows) - headers > 100
    assert {promise: test for promise, test in found.items() if not is_a_test(test)} == {}


@pytest.mark.parametrize(
    "named",
    [
        "`tests/test_docs.py::test_that_nobody_wrote`",
        "`tests/test_nothing.py::test_every_code_block_is_run`",
        "`tests/test_docs.py::is_a_test`",
        "`tests/test_docs.py`",
        "soon",
    ],
)
def test_a_promise_without_a_test_is_found(named):
    assert not is_a_test(
        promises(f"| promise | test |\n|-|-|\n| All is well. | {named} |")["All is well."]
    )


def test_the_figures_of_planted_bugs_are_those_of_the_committed_results():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for package, of in found().items():
        row = f"| {package} | {of.bugs} | {of.noticed} | {len(of.survivors)} | {of.equivalent} |"
        assert row in text.splitlines()


def test_each_planted_bug_that_survived_has_a_reason():
    for of in found().values():
        assert [row["key"] for row in of.survivors if row["reason"] == "no reason yet"] == []
