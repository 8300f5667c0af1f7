"""Plugins, and the selection of components by name."""

import ast
import subprocess
import sys
import tomllib
import warnings
from importlib import metadata
from pathlib import Path

import pytest
import torch

import topoloss
from topoloss import registry

ROOT = Path(__file__).parents[2]

SHIPPED = {
    "filtration": ["correlation", "cosine", "euclidean"],
    "persistence": ["mst"],
    "loss": ["t1", "t2", "total-persistence"],
    "regulariser": ["l1", "l2", "naive", "none", "t1", "t2"],
    "sampler": ["all", "importance", "random"],
}
KINDS = tuple(SHIPPED)


class Median(topoloss.Loss):
    def forward(self, diagrams):
        return diagrams[0].deaths.median()


class Cosine(topoloss.Filtration):
    def vertices(self, x):
        return torch.nn.functional.normalize(x.T, dim=1)

    def edge_values(self, v, i, j):
        return 1 - (v[i] * v[j]).sum(-1).abs()


class Plugin:
    """Offers what it is given, and counts how often it is asked."""

    def __init__(self, losses, filtrations=None):
        self.losses, self.filtrations = losses, filtrations or {}
        self.asked = 0

    @topoloss.hookimpl
    def topoloss_losses(self):
        self.asked += 1
        return self.losses

    @topoloss.hookimpl
    def topoloss_filtrations(self):
        return self.filtrations


@pytest.fixture
def registered():
    """Register a plugin for the length of a test."""
    names = []

    def register(plugin, name=None):
        names.append(topoloss.register(plugin, name))
        return names[-1]

    yield register
    for name in reversed(names):
        topoloss.unregister(name)


@pytest.fixture
def fresh(monkeypatch):
    """Start again with a registry that has not looked for entry points yet."""

    def make():
        monkeypatch.setattr(registry, "_registry", registry._Registry())

    return make


@pytest.fixture
def install(tmp_path, monkeypatch, fresh):
    """Put a distribution of one module and one entry point on the path."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name, code, entry="third-party"):
        (tmp_path / f"{name}.py").write_text(code)
        info = tmp_path / f"{name}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[topoloss]\n{entry} = {name}\n")
        # Recorded so that the module is forgotten with the test.
        monkeypatch.setitem(sys.modules, name, None)
        del sys.modules[name]
        fresh()

    return write


OFFERS_A_LOSS = """
import topoloss

class Sum(topoloss.Loss):
    def forward(self, diagrams):
        return diagrams[0].deaths.sum()

@topoloss.hookimpl
def topoloss_losses():
    return {"third-party-sum": Sum}
"""


def info(name):
    return {i.name: i for i in topoloss.installed_plugins()}[name]


def everything_works():
    x = torch.randn(5, 4)
    return all(topoloss.available(kind) == SHIPPED[kind] for kind in KINDS) and torch.equal(
        topoloss.regulariser("t1")(x), topoloss.pipeline("correlation", "mst", "t1")(x)
    )


# Names


@pytest.mark.parametrize("kind", KINDS)
def test_the_shipped_names_are_available_and_can_be_made(kind):
    assert topoloss.available(kind) == SHIPPED[kind]
    base = getattr(topoloss, kind.capitalize())
    for name in SHIPPED[kind]:
        assert isinstance(getattr(topoloss, kind)(name), base)


def test_what_is_not_a_kind_is_an_error():
    with pytest.raises(topoloss.OptionError, match=r"'filtration', .* Did you mean 'filtration'"):
        topoloss.available("filtrations")


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_name_lists_the_known_ones(kind):
    with pytest.raises(topoloss.UnknownNameError) as error:
        getattr(topoloss, kind)("zebra")
    assert "'zebra'" in str(error.value)
    assert str(SHIPPED[kind]) in str(error.value)
    assert "Did you mean" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "given", "nearest"),
    [
        ("filtration", "corelation", "correlation"),
        ("persistence", "msts", "mst"),
        ("loss", "total_persistence", "total-persistence"),
        ("regulariser", "naiv", "naive"),
        ("sampler", "importanc", "importance"),
    ],
)
def test_an_unknown_name_names_the_nearest(kind, given, nearest):
    with pytest.raises(topoloss.UnknownNameError, match=f"Did you mean '{nearest}'"):
        getattr(topoloss, kind)(given)


@pytest.mark.parametrize("given", [None, 3, ["t1"]])
def test_a_name_that_is_no_string_is_an_error(given):
    with pytest.raises(topoloss.UnknownNameError, match="no loss is named"):
        topoloss.loss(given)


@pytest.mark.parametrize(
    ("kind", "name", "options", "message"),
    [
        ("filtration", "correlation", {"constnt": "drop"}, "Did you mean 'constant'"),
        ("filtration", "euclidean", {"p": 2}, "its options are none"),
        ("filtration", "correlation", {"constant": "zero"}, "'independent', 'drop'"),
        ("persistence", "mst", {"engin": "torch"}, "Did you mean 'engine'"),
        ("loss", "t1", {"alpha": 1}, "its options are none"),
        ("loss", "t2", {"gamma": 1}, r"\['alpha', 'beta'\]"),
        ("loss", "total-persistence", {"power": 0.5}, "power=0.5"),
        ("regulariser", "t2", {"alpa": 1}, "alpa"),
        ("regulariser", "t1", {"engine": "torch"}, r"engine.* 'persistence'"),
        ("regulariser", "t1", {"loss": "t2"}, "loss"),
        ("regulariser", "t1", {"on_nonfinite": "skp"}, "Did you mean 'skip'"),
        ("regulariser", "naive", {"alpha": 1}, "alpha"),
        ("regulariser", "naive", {"constant": "zero"}, "'independent', 'drop'"),
        ("regulariser", "l1", {"on_nonfinite": "skip"}, "its options are none"),
        ("sampler", "importance", {"fraction": 0.0}, "0 < fraction <= 1"),
        ("sampler", "all", {"fraction": 0.5}, "its options are none"),
    ],
)
def test_an_option_that_is_not_accepted_says_what_is(kind, name, options, message):
    with pytest.raises(topoloss.OptionError, match=message):
        getattr(topoloss, kind)(name, **options)


def test_a_pipeline_refuses_unknown_options():
    with pytest.raises(topoloss.OptionError, match="Did you mean 'check_finite'"):
        topoloss.pipeline("correlation", chek_finite=True)


# Pipelines


def test_a_pipeline_joins_names_and_instances_in_any_mixture():
    x = torch.randn(6, 5)
    stages = [
        ("cosine", topoloss.filtration("cosine")),
        ("mst", topoloss.persistence("mst", engine="reference")),
        ("t2", topoloss.loss("t2")),
    ]
    expected = topoloss.pipeline("cosine", "mst", "t2")(x)
    for mixture in range(8):
        parts = [pair[mixture >> k & 1] for k, pair in enumerate(stages)]
        assert torch.equal(topoloss.pipeline(*parts)(x), expected)


def test_a_class_in_the_place_of_an_instance_is_an_error():
    with pytest.raises(topoloss.OptionError, match="class Median; pass an instance"):
        topoloss.pipeline("correlation", "mst", Median)


@pytest.mark.parametrize("given", [3, torch.nn.ReLU(), topoloss.loss("t1")], ids=str)
def test_something_else_in_the_place_of_a_stage_is_an_error(given):
    with pytest.raises(topoloss.OptionError, match=r"expected a name or a topoloss\.Filtration"):
        topoloss.pipeline(given)


def test_a_component_that_forgets_its_base_class_is_told_so():
    class Forgetful(topoloss.Loss):
        def __init__(self):
            self.alpha = 1.0

    with pytest.raises(topoloss.OptionError, match=r"super\(\).__init__\(\)"):
        topoloss.pipeline("correlation", "mst", Forgetful())


def test_a_filtration_of_ones_own_is_used_by_name(registered):
    registered(Plugin({}, {"cosine-mine": Cosine}))
    assert "cosine-mine" in topoloss.available("filtration")
    x = torch.randn(20, 9, dtype=torch.float64)
    mine = topoloss.pipeline("cosine-mine", "mst", "t1")
    shipped = topoloss.pipeline("cosine", "mst", "t1")
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    mine(a).backward()
    shipped(b).backward()
    torch.testing.assert_close(mine(x), shipped(x))
    torch.testing.assert_close(a.grad, b.grad)
    by_name = topoloss.regulariser("t1", filtration="cosine-mine")
    assert torch.equal(by_name(x), mine(x))


# register, unregister


def test_registering_offers_names_until_it_is_undone():
    plugin = Plugin({"median": Median})
    assert topoloss.register(plugin) == "Plugin"
    assert isinstance(topoloss.loss("median"), Median)
    assert info("Plugin").source == "registered"
    assert info("Plugin").offers["loss"] == ("median",)
    topoloss.unregister("Plugin")
    assert everything_works()
    topoloss.register(plugin, name="again")
    assert isinstance(topoloss.loss("median"), Median)
    topoloss.unregister(plugin)
    assert everything_works()


def test_a_module_registers_under_its_name(registered, tmp_path, monkeypatch):
    (tmp_path / "module_as_plugin.py").write_text(OFFERS_A_LOSS)
    monkeypatch.syspath_prepend(tmp_path)
    import module_as_plugin

    assert registered(module_as_plugin) == "module_as_plugin"
    assert "third-party-sum" in topoloss.available("loss")


def test_a_factory_is_anything_that_returns_a_component(registered):
    registered(Plugin({"half": lambda *, alpha=0.5: topoloss.loss("t2", alpha=alpha, beta=0.0)}))
    assert topoloss.loss("half", alpha=0.25).alpha == 0.25
    with pytest.raises(topoloss.OptionError, match="Did you mean 'alpha'"):
        topoloss.loss("half", alph=1)


def test_what_is_not_registered_cannot_be_unregistered():
    for given in ("nobody", Plugin({})):
        with pytest.raises(topoloss.UnknownNameError, match=r"there are \['correlation', "):
            topoloss.unregister(given)


@pytest.mark.parametrize("taken", ["t1", "median"])
def test_a_name_that_is_taken_is_refused(registered, taken):
    registered(Plugin({"median": Median}), "first")
    owner = {"t1": "decorrelation", "median": "first"}[taken]
    with pytest.raises(topoloss.PluginError, match=f"loss '{taken}', which '{owner}' offers"):
        topoloss.register(Plugin({"new": Median, taken: Median}), "second")
    assert "new" not in topoloss.available("loss")


def test_one_name_may_serve_two_kinds(registered):
    registered(Plugin({"cosine": Median}))
    assert isinstance(topoloss.loss("cosine"), Median)
    assert not isinstance(topoloss.filtration("cosine"), Cosine)


def test_a_plugin_is_registered_once(registered):
    plugin = Plugin({"median": Median})
    registered(plugin)
    for name in (None, "other"):
        with pytest.raises(topoloss.PluginError, match="already"):
            topoloss.register(plugin, name)
    with pytest.raises(topoloss.PluginError, match="already there"):
        topoloss.register(Plugin({}), "correlation")
    assert isinstance(topoloss.loss("median"), Median)


class Misspelt:
    @topoloss.hookimpl
    def topoloss_losses(self):
        return {"median": Median}

    @topoloss.hookimpl
    def topoloss_filtration(self):
        return {}


class WrongArguments:
    @topoloss.hookimpl
    def topoloss_losses(self, config):
        return {"median": Median}


class NoHooks:
    def topoloss_losses(self):
        return {"median": Median}


class Unmarked:
    pass


REFUSED = {
    "misspelt hook": (Misspelt(), "topoloss_filtration.*Known hooks.*topoloss_filtrations"),
    "wrong arguments": (WrongArguments(), "config"),
    "unmarked hook": (NoHooks(), "implements no hook.*hookimpl"),
    "no hooks": (Unmarked(), "implements no hook"),
    "class": (Plugin, "instance"),
    "returns None": (Plugin(None), "returned None; expected a dictionary"),
    "offers an instance": (
        Plugin({"mine": topoloss.loss("t1")}),
        r"returned \{'mine': T1\(\)\}; expected a dictionary from name to factory",
    ),
    "returns a list": (Plugin([Median]), "expected a dictionary"),
    "name is no string": (Plugin({1: Median}), "expected a dictionary"),
    "factory is an instance": (Plugin({"median": 3}), "expected a dictionary"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_plugin_that_breaks_the_rules_is_refused_and_leaves_nothing(case):
    plugin, message = REFUSED[case]
    for _ in range(2):  # the second attempt finds nothing of the first
        with pytest.raises(topoloss.PluginError, match=rf"(?s)'refused'.*({message})"):
            topoloss.register(plugin, "refused")
    assert everything_works()
    topoloss.register(Plugin({"median": Median}), "refused")
    topoloss.unregister("refused")


def test_a_hook_that_raises_leaves_nothing():
    class Raises:
        @topoloss.hookimpl
        def topoloss_losses(self):
            raise RuntimeError("no licence")

    with pytest.raises(Exception, match="no licence"):
        topoloss.register(Raises())
    assert everything_works()
    topoloss.register(Plugin({"median": Median}), "Raises")
    topoloss.unregister("Raises")


@pytest.mark.parametrize("kind", ["loss", "filtration"])
def test_a_factory_that_returns_the_wrong_type_is_named(registered, kind):
    registered(Plugin({"wrong": lambda: torch.nn.ReLU()}, {"wrong": lambda: Median()}))
    with pytest.raises(topoloss.PluginError, match=f"{kind} 'wrong' returned"):
        getattr(topoloss, kind)("wrong")


# Entry points


def test_each_shipped_plugin_is_loaded_from_this_distribution():
    for plugin in topoloss.installed_plugins():
        assert plugin.status == "loaded"
        assert plugin.source.startswith("topoloss-framework ")
        assert plugin.problem == ""
    assert info("norms").offers == {"regulariser": ("l1", "l2", "none")}


def test_an_installed_plugin_is_found(install):
    install("third_party_sum", OFFERS_A_LOSS)
    assert "third-party-sum" in topoloss.available("loss")
    assert info("third-party").source == "third_party_sum 1.2"
    x = torch.randn(5, 4)
    value = topoloss.pipeline("correlation", "mst", "third-party-sum")(x)
    assert torch.equal(value, -topoloss.regulariser("t1")(x))


BROKEN = {
    "missing extra": "import a_module_that_is_not_installed",
    "syntax error": "def",
    "raises": "raise RuntimeError('no licence')",
    "exits": "raise SystemExit(3)",
    "no hooks": "",
    "misspelt": "import topoloss\n@topoloss.hookimpl\ndef topoloss_loses():\n    return {}\n",
    "arguments": "import topoloss\n@topoloss.hookimpl\ndef topoloss_losses(a):\n    return {}\n",
    "wrong type": "import topoloss\n@topoloss.hookimpl\ndef topoloss_losses():\n    return []\n",
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_warns_and_everything_else_works(install, case):
    install("third_party_broken", BROKEN[case], entry="broken")
    warned = r"'broken' of distribution third_party_broken 1\.2 did not load: .*Everything else"
    with pytest.warns(topoloss.PluginWarning, match=f"(?s){warned}") as caught:
        assert everything_works()
    assert len([w for w in caught if issubclass(w.category, topoloss.PluginWarning)]) == 1
    assert info("broken").status == "failed"
    assert info("broken").problem
    with pytest.raises(topoloss.UnknownNameError, match="'broken' failed to load"):
        topoloss.loss("offered-by-broken")


def test_a_broken_plugin_takes_nothing_down_where_warnings_are_errors(install):
    # It comes before every other in the order of names.
    install("third_party_broken", "raise RuntimeError('no licence')", entry="a-broken-one")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(topoloss.PluginWarning):
            topoloss.available("loss")
        assert everything_works()


def test_two_installed_plugins_that_offer_one_name_both_load(install, monkeypatch):
    install("third_party_a", OFFERS_A_LOSS, entry="a")
    other = OFFERS_A_LOSS.replace('{"third-party-sum": Sum}', '{"third-party-sum": Sum, "b": Sum}')
    install("third_party_b", other, entry="b")
    assert [info(name).status for name in "ab"] == ["loaded", "loaded"]
    assert topoloss.loss("b")
    both = r"offered by 'a' \(third_party_a 1.2\), 'b' \(third_party_b 1.2\)"
    with pytest.raises(topoloss.PluginError, match=both):
        topoloss.loss("third-party-sum")
    topoloss.unregister("a")
    assert type(topoloss.loss("third-party-sum")).__module__ == "third_party_b"


def test_two_entry_points_of_one_name_both_load(install):
    install("third_party_a", OFFERS_A_LOSS, entry="same")
    install("third_party_b", OFFERS_A_LOSS.replace("third-party-sum", "other"), entry="same")
    assert {"third-party-sum", "other"} <= set(topoloss.available("loss"))


def test_register_loads_the_entry_points_first(install):
    install("third_party_sum", OFFERS_A_LOSS)
    with pytest.raises(topoloss.PluginError, match="which 'third-party' offers already"):
        topoloss.register(Plugin({"third-party-sum": Median}))


def test_plugins_are_disabled_by_name(monkeypatch, fresh):
    monkeypatch.setenv("TOPOLOSS_DISABLE_PLUGINS", "norms, samplers")
    fresh()
    assert topoloss.available("regulariser") == ["naive", "t1", "t2"]
    assert topoloss.available("sampler") == []
    assert info("norms").status == "disabled"
    assert info("mst").status == "loaded"
    with pytest.raises(topoloss.UnknownNameError, match="'norms' is disabled by TOPOLOSS_DISABLE"):
        topoloss.regulariser("l1")


def test_disabling_silences_a_broken_plugin(install, monkeypatch):
    monkeypatch.setenv("TOPOLOSS_DISABLE_PLUGINS", "broken")
    install("third_party_broken", BROKEN["raises"], entry="broken")
    assert everything_works()


def test_without_entry_points_the_remedy_is_named(monkeypatch, fresh):
    monkeypatch.setattr(metadata, "entry_points", lambda **_: ())
    fresh()
    with pytest.warns(topoloss.PluginWarning, match=r"pip install -e \."):
        assert topoloss.available("loss") == []
    with pytest.raises(topoloss.UnknownNameError, match=r"pip install -e \."):
        topoloss.regulariser("t1")


# What asks the plugin manager, and what imports what


def test_a_hook_is_asked_once(registered):
    plugin = Plugin({"median": Median})
    registered(plugin)
    reg = topoloss.pipeline("correlation", "mst", "median")
    topoloss.loss("median")
    topoloss.available("loss")
    reg(torch.randn(4, 5))
    assert plugin.asked == 1


def test_forward_never_asks_the_registry(monkeypatch):
    class Untouchable:
        def __getattr__(self, name):
            raise AssertionError(f"the registry was asked for {name}")

    regs = {name: topoloss.regulariser(name) for name in SHIPPED["regulariser"]}
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    penalty = topoloss.attach(model, "t1")
    with monkeypatch.context() as patched:
        patched.setattr(registry, "_registry", Untouchable())
        with pytest.raises(AssertionError, match="registry was asked"):
            topoloss.loss("t1")
        for reg in regs.values():
            reg(model if reg.observes == "model" else torch.randn(2, 5, 4))
        regs["t1"].diagrams(torch.randn(5, 4))
        model(torch.randn(5, 3))
        penalty().backward()
        penalty.diagrams()
    penalty.remove()


def test_importing_the_core_loads_no_plugin_and_nothing_heavy():
    script = (
        "import sys, topoloss\n"
        "heavy = {'numba', 'scipy', 'matplotlib', 'optuna', 'typer', 'rich', 'sklearn', 'pandas'}\n"
        "print([m for m in sys.modules if m.startswith('topoloss_') or m in heavy])"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


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


def test_every_plugin_folder_is_shipped_and_has_one_entry_point():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = sorted(p.parent.name for p in (ROOT / "plugins").glob("*/__init__.py"))
    assert sorted(project["project"]["entry-points"]["topoloss"].values()) == folders
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    others = ["pytest_topoloss", "topoloss"]
    assert sorted(packages) == sorted([*others, *(f"plugins/{folder}" for folder in folders)])


def test_every_public_name_exists():
    for name in topoloss.__all__:
        assert hasattr(topoloss, name)
    assert len(set(topoloss.__all__)) == len(topoloss.__all__)
