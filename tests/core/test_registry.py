"""Plugins, and the selection of components by name."""

import ast
import subprocess
import sys
import threading
import tomllib
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import metadata
from pathlib import Path

import pytest
import torch

import topoloss
from topoloss import plugins

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
        ("persistence", "mst", {"bakend": "torch"}, "Did you mean 'backend'"),
        ("loss", "t1", {"alpha": 1}, r"\['reduction'\]"),
        ("loss", "t2", {"gamma": 1}, r"\['alpha', 'beta'\]"),
        ("loss", "total-persistence", {"power": 0.5}, "power=0.5"),
        ("regulariser", "t2", {"alpa": 1}, "alpa"),
        ("regulariser", "t1", {"backend": "torch"}, r"backend.* 'persistence'"),
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
        ("mst", topoloss.persistence("mst", backend="reference")),
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


# registered


def test_a_plugin_is_registered_for_the_length_of_a_block():
    with topoloss.registered(Plugin({"median": Median})) as name:
        assert name == "Plugin"
        assert isinstance(topoloss.loss("median"), Median)
    assert everything_works()


def test_what_a_block_registered_is_undone_after_an_error():
    with (
        pytest.raises(RuntimeError, match="inside"),
        topoloss.registered(Plugin({"median": Median}), "mine"),
    ):
        raise RuntimeError("inside")
    assert everything_works()


def test_blocks_nest_and_take_out_their_own_plugin_only():
    with topoloss.registered(Plugin({"median": Median}), "outer"):
        with topoloss.registered(Plugin({"other": Median}), "inner"):
            assert {"median", "other"} <= set(topoloss.available("loss"))
        assert "other" not in topoloss.available("loss")
        assert "median" in topoloss.available("loss")
    assert everything_works()


def test_a_plugin_that_is_refused_never_enters_its_block():
    entered = False
    with (
        topoloss.registered(Plugin({"median": Median}), "first"),
        pytest.raises(topoloss.PluginError, match="'median', which 'first' offers"),
        topoloss.registered(Plugin({"median": Median}), "second"),
    ):
        entered = True
    assert not entered
    assert everything_works()


# Entry points


def test_each_shipped_plugin_is_loaded_from_this_distribution():
    for plugin in topoloss.installed_plugins():
        assert plugin.status == "loaded"
        assert plugin.source.startswith("topoloss-framework ")
        assert plugin.reason == ""
    assert info("norms").offers == {"regulariser": ("l1", "l2", "none")}


def test_an_installed_plugin_is_found(install):
    install("third_party_sum", OFFERS_A_LOSS)
    assert "third-party-sum" in topoloss.available("loss")
    assert info("third-party").source == "third_party_sum 1.2"
    x = torch.randn(5, 4)
    value = topoloss.pipeline("correlation", "mst", "third-party-sum")(x)
    assert torch.equal(value, -topoloss.regulariser("t1")(x))


BROKEN = {
    "import error": "import a_module_that_is_not_installed",
    "import of a name": "from topoloss import no_such_name",
    "syntax error": "def",
    "raises": "raise RuntimeError('no licence')",
    "exits": "raise SystemExit(3)",
    "no hooks": "",
    "misspelt": "import topoloss\n@topoloss.hookimpl\ndef topoloss_loses():\n    return {}\n",
    "arguments": "import topoloss\n@topoloss.hookimpl\ndef topoloss_losses(a):\n    return {}\n",
    "wrong type": "import topoloss\n@topoloss.hookimpl\ndef topoloss_losses():\n    return []\n",
    "looks up": "import topoloss\ntopoloss.loss('t1')\n",
}
CAUSES = {
    "import error": "ModuleNotFoundError: No module named 'a_module_that_is_not_installed'",
    "import of a name": "ImportError: cannot import name 'no_such_name'",
    "syntax error": "SyntaxError: ",
    "raises": "RuntimeError: no licence",
    "exits": "SystemExit: 3",
    "no hooks": "PluginError: plugin 'broken' implements no hook",
    "misspelt": "unknown hook 'topoloss_loses'",
    "arguments": "topoloss_losses(a)",
    "wrong type": "PluginError: plugin 'broken': topoloss_losses returned []",
    "looks up": "PluginError: a plugin used the registry while the installed plugins were being",
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_warns_and_everything_else_works(install, case):
    install("third_party_broken", BROKEN[case], entry="broken")
    warned = r"'broken' of distribution third_party_broken 1\.2 did not load: .*Everything else"
    with pytest.warns(topoloss.PluginWarning, match=f"(?s){warned}") as caught:
        assert everything_works()
    assert len([w for w in caught if issubclass(w.category, topoloss.PluginWarning)]) == 1
    assert info("broken").status == "failed"
    assert CAUSES[case] in info("broken").reason
    with pytest.raises(topoloss.UnknownNameError, match="'broken' failed to load"):
        topoloss.loss("offered-by-broken")


OPTIONAL = """Requires-Dist: numpy
Requires-Dist: Fast.Trees>=2; python_version >= "3" and extra == "fast"
Requires-Dist: scikit-learn; extra == 'learn'
"""


@pytest.mark.parametrize(
    ("module", "requires", "remedy"),
    [
        ("fast_trees.tree", OPTIONAL, "; run: pip install 'third_party_broken[fast]'"),
        ("learn", OPTIONAL, "; perhaps an extra of third_party_broken brings it: fast, learn"),
        ("fast_trees", "", ""),
    ],
)
@pytest.mark.filterwarnings("ignore::topoloss.PluginWarning")
def test_a_missing_extra_is_named_with_its_distribution(install, module, requires, remedy):
    install("third_party_broken", f"import {module}", entry="broken", metadata=requires)
    missing = module.partition(".")[0]
    expected = f"ModuleNotFoundError: No module named '{missing}'{remedy}"
    assert info("broken").reason == expected


def test_every_broken_plugin_is_reported_once(install):
    for case in ("raises", "exits", "misspelt"):
        install(f"third_party_{case}", BROKEN[case], entry=case)
    with pytest.warns(topoloss.PluginWarning) as caught:
        assert everything_works()
    said = [str(w.message) for w in caught]
    assert [m.split(" did not load")[0] for m in said] == [
        f"plugin '{case}' of distribution third_party_{case} 1.2"
        for case in ("exits", "misspelt", "raises")
    ]
    # Where it happens again, warnings are errors.
    assert everything_works()
    topoloss.installed_plugins()


def test_a_plugin_that_is_interrupted_is_loaded_at_the_next_lookup(install, monkeypatch):
    monkeypatch.setattr("builtins.interrupts", [KeyboardInterrupt()], raising=False)
    interrupted = "if interrupts:\n    raise interrupts.pop()\n" + OFFERS_A_LOSS
    install("third_party_slow", interrupted)
    with pytest.raises(KeyboardInterrupt):
        topoloss.available("loss")
    assert "third-party-sum" in topoloss.available("loss")
    assert {plugin.status for plugin in topoloss.installed_plugins()} == {"loaded"}


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
    both = r"loss 'third-party-sum' is offered by 'a' \(third_party_a 1.2\), 'b' \(third_party_b "
    with pytest.warns(topoloss.PluginWarning, match=both):
        assert [info(name).status for name in "ab"] == ["loaded", "loaded"]
    assert topoloss.loss("b")
    with pytest.raises(topoloss.PluginError, match=both):
        topoloss.loss("third-party-sum")
    assert len(plugins.clashes()) == 1
    topoloss.unregister("a")
    assert plugins.clashes() == []
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


# Threads


@pytest.fixture
def in_threads():
    """Run functions at the same moment, each in its thread; return what they returned."""
    interval = sys.getswitchinterval()
    # Switching often lets threads meet inside what ought to be indivisible.
    sys.setswitchinterval(1e-6)

    def run(functions):
        barrier = threading.Barrier(len(functions))

        def start(function):
            barrier.wait()
            return function()

        with ThreadPoolExecutor(len(functions)) as pool:
            return list(pool.map(start, functions))

    yield run
    sys.setswitchinterval(interval)


def test_threads_that_look_up_first_load_every_plugin_once(install, in_threads):
    install("third_party_sum", OFFERS_A_LOSS)
    found = in_threads([lambda: topoloss.available("loss")] * 8)
    assert found == [sorted([*SHIPPED["loss"], "third-party-sum"])] * 8
    assert {plugin.status for plugin in topoloss.installed_plugins()} == {"loaded"}


def test_threads_register_and_look_up_beside_each_other(in_threads):
    def register_and_undo(k):
        name = f"mine-{k}"
        for _ in range(100):
            with topoloss.registered(Plugin({name: Median}), name):
                assert isinstance(topoloss.loss(name), Median)
                assert info(name).offers["loss"] == (name,)
            assert name not in topoloss.available("loss")

    def look_up():
        for _ in range(100):
            assert set(SHIPPED["loss"]) <= set(topoloss.available("loss"))
            with pytest.raises(topoloss.UnknownNameError, match="no loss is named 'nobody'"):
                topoloss.loss("nobody")

    in_threads([*(partial(register_and_undo, k) for k in range(4)), look_up, look_up])
    assert everything_works()


def test_of_threads_that_claim_one_name_one_gets_it(in_threads):
    def claim(k):
        try:
            return topoloss.register(Plugin({"median": Median}), f"claimant-{k}")
        except topoloss.PluginError as error:
            return str(error)

    for _ in range(50):
        answers = in_threads([partial(claim, k) for k in range(4)])
        (winner,) = (name for name in answers if name.startswith("claimant"))
        refusals = [answer for answer in answers if answer != winner]
        assert all(f"'median', which '{winner}' offers already" in said for said in refusals)
        topoloss.unregister(winner)
    assert everything_works()


# What asks the plugin manager, and what imports what


def test_a_hook_is_asked_once(registered):
    plugin = Plugin({"median": Median})
    registered(plugin)
    reg = topoloss.pipeline("correlation", "mst", "median")
    topoloss.loss("median")
    topoloss.available("loss")
    reg(torch.randn(4, 5))
    assert plugin.asked == 1


def test_forward_never_asks_the_registry():
    class Untouchable(plugins.PluginRegistry):
        def __getattribute__(self, name):
            raise AssertionError(f"the registry was asked for {name}")

    regs = {name: topoloss.regulariser(name) for name in SHIPPED["regulariser"]}
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    parameters = dict(model.named_parameters())
    penalty = topoloss.attach(model, "t1")
    with plugins.using_registry(object.__new__(Untouchable)):
        with pytest.raises(AssertionError, match="registry was asked"):
            topoloss.loss("t1")
        for reg in regs.values():
            reg(torch.randn(2, 5, 4) if reg.source == "activations" else parameters)
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
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["imported", "loaded"]


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
    folders = {module.partition(".")[0] for module in modules}
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    others = ["pytest_topoloss", "topoloss"]
    assert sorted(packages) == sorted([*others, *(f"plugins/{folder}" for folder in folders)])


def test_every_public_name_exists():
    for name in topoloss.__all__:
        assert hasattr(topoloss, name)
    assert len(set(topoloss.__all__)) == len(topoloss.__all__)


def test_a_name_in_other_letters_is_recognised():
    with pytest.raises(topoloss.UnknownNameError, match="Did you mean 't1'"):
        topoloss.regulariser("T1")


def test_a_plugin_is_taken_out_by_identity():
    class Equal:
        def __eq__(self, other):
            return isinstance(other, Equal)

        __hash__ = object.__hash__

        @topoloss.hookimpl
        def topoloss_losses(self):
            return {"equal": topoloss.Loss}

    with topoloss.registered(Equal()):
        with pytest.raises(topoloss.UnknownNameError):
            topoloss.unregister(Equal())
        assert "equal" in topoloss.available("loss")
