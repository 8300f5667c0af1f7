"""What imports what, and what is shipped."""

import ast
import inspect
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from offers import OFFERS_A_LOSS

import topoloss

ROOT = Path(__file__).parents[2]


def printed(script):
    """The words that a script prints in a process of its own."""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return ran.stdout.split()


def test_importing_the_core_loads_no_plugin_and_nothing_heavy():
    script = (
        "import sys, topoloss\n"
        "topoloss.attach\n"
        "heavy = {'numba', 'scipy', 'matplotlib', 'optuna', 'typer', 'rich', 'sklearn', 'pandas'}\n"
        "print([m for m in sys.modules if m.startswith('topoloss_') or m in heavy])"
    )
    assert printed(script) == ["[]"]


def test_importing_the_package_waits_for_nothing_and_offers_every_public_name():
    script = (
        "import sys, topoloss\n"
        "assert 'torch' not in sys.modules\n"
        "assert set(topoloss.__all__) <= set(dir(topoloss))\n"
        "wrong = ('nothing', 'no.thing', 'errors.nothing', 'errors.InputError', '')\n"
        "assert not any(hasattr(topoloss, name) for name in wrong)\n"
        "from topoloss import *\n"
        "print(attach.__name__, topoloss.plot.__name__, topoloss.errors.__name__)"
    )
    assert printed(script) == ["attach", "topoloss.plot", "topoloss.errors"]


def test_importing_the_core_loads_no_installed_plugin_before_the_first_lookup(install, tmp_path):
    install("third_party_sum", "print('loaded')\n" + OFFERS_A_LOSS)
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import topoloss\n"
        "class Mine(topoloss.Loss): pass\n"
        "print('imported')\n"
        "topoloss.available('filtration')\n"
        "topoloss.available('filtration')\n"
    )
    assert printed(script) == ["imported", "loaded"]


def test_loading_the_shipped_plugins_and_a_step_load_no_compiler_that_they_do_not_use():
    script = (
        "import sys, torch, topoloss\n"
        "topoloss.available('loss')\n"
        "print('numba' in sys.modules)\n"
        "x = torch.randn(9, 5, requires_grad=True)\n"
        "(topoloss.regulariser('t1')(x) + topoloss.regulariser('random-path')(x)).backward()\n"
        "print('torch._dynamo' in sys.modules)\n"
    )
    assert printed(script) == ["False", "False"]


def python_files(folder):
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    return [pytest.param(file, id=str(file.relative_to(ROOT))) for file in files]


def imported(tree):
    """Pairs (module, name or None), for ``from module import name`` and ``import module``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from ((node.module, alias.name) for alias in node.names)


@pytest.mark.parametrize("file", python_files("topoloss"))
def test_the_core_imports_no_plugin(file):
    modules = {module.split(".")[0] for module, _ in imported(ast.parse(file.read_text()))}
    assert not [module for module in modules if module.startswith("topoloss_")]


@pytest.mark.parametrize("file", python_files("plugins"))
def test_plugins_use_public_names_of_the_core_only(file):
    tree = ast.parse(file.read_text())
    public = set(topoloss.__all__)
    for module, name in imported(tree):
        assert not module.startswith("topoloss."), "submodules of the core are not public"
        if module == "topoloss":
            assert name is None or name in public
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "topoloss"
    }
    assert used <= public


def implements_a_hook(file):
    return "\n@topoloss.hookimpl\n" in file.read_text()


def module_of(file):
    parts = file.relative_to(ROOT / "plugins").with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def test_every_plugin_folder_is_shipped_and_every_module_with_hooks_has_one_entry_point():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    files = (ROOT / "plugins").rglob("*.py")
    modules = sorted(module_of(file) for file in files if implements_a_hook(file))
    assert sorted(project["project"]["entry-points"]["topoloss"].values()) == modules
    folders = {path.parent.name for path in (ROOT / "plugins").glob("*/__init__.py")}
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    others = ["pytest_topoloss", "topoloss"]
    assert sorted(packages) == sorted([*others, *(f"plugins/{folder}" for folder in folders)])


def test_every_public_name_exists():
    for name in topoloss.__all__:
        assert hasattr(topoloss, name)
    assert len(set(topoloss.__all__)) == len(topoloss.__all__)


def test_no_module_takes_the_place_of_a_public_name():
    """Importing ``topoloss.attach`` as a module would put it where the function was."""
    modules = {path.stem for path in (ROOT / "topoloss").iterdir() if path.suffix in ("", ".py")}
    named = {name for name in topoloss.__all__ if not inspect.ismodule(getattr(topoloss, name))}
    assert not modules & named
