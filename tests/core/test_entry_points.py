"""Installed plugins: found, broken, disabled or in each other's way."""

import sys
import warnings
from importlib import metadata

import pytest
import torch
from offers import OFFERS_A_LOSS, SHIPPED, Median, Plugin, everything_works, info

import topoloss
from topoloss import plugins
from topoloss.testing.cases import cases


def test_each_shipped_plugin_is_loaded_from_this_distribution():
    for plugin in topoloss.installed_plugins():
        assert plugin.status == "loaded"
        assert plugin.source.startswith("topoloss-framework ")
        assert plugin.reason == ""
    assert plugins.clashes() == []
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
    assert not info("broken").shipped
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
        ("learn", OPTIONAL, "; perhaps an extra of third_party_broken provides it: fast, learn"),
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
    with pytest.raises(topoloss.PluginError, match=both) as error:
        topoloss.loss("third-party-sum")
    assert "write 'a:third-party-sum' or 'b:third-party-sum' for one of them" in str(error.value)
    for name in "ab":
        qualified = f"{name}:third-party-sum"
        assert qualified in topoloss.available("loss")
        assert type(topoloss.loss(qualified)).__module__ == f"third_party_{name}"
    assert "third-party-sum" not in topoloss.available("loss")
    assert len(plugins.clashes()) == 1
    topoloss.unregister("a")
    assert plugins.clashes() == []
    assert type(topoloss.loss("third-party-sum")).__module__ == "third_party_b"


def test_two_entry_points_of_one_name_both_load(install):
    install("third_party_a", OFFERS_A_LOSS, entry="same")
    install("third_party_b", OFFERS_A_LOSS.replace("third-party-sum", "other"), entry="same")
    assert {"third-party-sum", "other"} <= set(topoloss.available("loss"))
    qualified = {"same:third-party-sum", "same@third_party_b:other"}
    other_way_round = {"same@third_party_a:third-party-sum", "same:other"}
    assert can_be_made(qualified) or can_be_made(other_way_round)


def can_be_made(names):
    try:
        return [topoloss.loss(name) for name in sorted(names)]
    except topoloss.UnknownNameError:
        return []


# A stranger's plugin that offers names of ours

STRANGER = """
import topoloss

class T1(topoloss.Loss):
    def forward(self, diagrams):
        return 0 * diagrams[0].deaths.sum()

class Correlation(topoloss.Filtration):
    def vertices(self, x):
        return 0 * x.T

    def edge_values(self, v, i, j):
        return (v[i] - v[j]).sum(-1)

@topoloss.hookimpl
def topoloss_losses():
    return {"t1": T1}

@topoloss.hookimpl
def topoloss_filtrations():
    return {"correlation": Correlation}

@topoloss.hookimpl
def topoloss_regularisers():
    return {"t1": lambda: topoloss.pipeline("stranger:correlation", "mst", "stranger:t1")}
"""


@pytest.mark.parametrize("entry", ["stranger", "a-stranger", "decorrelation"])
def test_a_stranger_neither_disables_nor_changes_a_shipped_name(install, entry):
    x = torch.randn(9, 4)
    expected = topoloss.regulariser("t1")(x)
    model = torch.nn.Linear(4, 3)
    install("third_party_stranger", STRANGER, entry=entry)
    with pytest.warns(topoloss.PluginWarning) as warned:
        assert torch.equal(topoloss.regulariser("t1")(x), expected)
    assert sorted(str(w.message).split(" is offered")[0] for w in warned) == [
        "the filtration 'correlation'",
        "the loss 't1'",
        "the regulariser 't1'",
    ]
    # Once: where warnings are errors, as here, none of these raises.
    assert torch.equal(topoloss.regulariser("decorrelation:t1")(x), expected)
    with topoloss.attach(model, "t1") as penalty:
        model(x)
        assert penalty() < 0
    assert topoloss.regulariser("naive")(x) > 0


@pytest.mark.filterwarnings("ignore::topoloss.PluginWarning")
def test_a_strangers_component_is_reached_by_its_plugins_name(install):
    install("third_party_stranger", STRANGER, entry="stranger")
    assert topoloss.available("loss") == sorted([*SHIPPED["loss"], "stranger:t1"])
    told = "'t1' means the shipped one, write 'stranger:t1' for another"
    assert sum(told in clash for clash in plugins.clashes()) == 2  # a loss and a regulariser
    x = torch.randn(9, 4)
    assert topoloss.regulariser("stranger:t1")(x) == 0
    assert topoloss.regulariser("correlation/mst/stranger:t1")(x) == 0
    assert topoloss.regulariser("stranger:correlation/mst/t1")(x) == 0
    assert topoloss.regulariser("correlation/mst/t1")(x) < 0


@pytest.mark.filterwarnings("ignore::topoloss.PluginWarning")
def test_every_name_that_is_available_can_be_made(install):
    install("third_party_stranger", STRANGER, entry="stranger")
    install("third_party_a", OFFERS_A_LOSS, entry="a")
    install("third_party_b", OFFERS_A_LOSS, entry="b")
    for kind in ("filtration", "persistence", "loss", "regulariser", "sampler"):
        for name in topoloss.available(kind):
            assert getattr(topoloss, kind)(name)


@pytest.mark.filterwarnings("ignore::topoloss.PluginWarning")
def test_the_kit_checks_what_the_plugin_offers_and_not_its_namesake(install):
    install("third_party_stranger", STRANGER, entry="stranger")
    checked = {type(case.subject.make()).__module__ for case in cases("plugin", "stranger")[4:]}
    assert checked == {"third_party_stranger", "topoloss.pipelines"}


def test_a_plugins_name_goes_before_a_modules(install, own_module):
    module = own_module(OFFERS_A_LOSS)
    install("third_party_sum", OFFERS_A_LOSS.replace("third-party-sum", "Sum"), entry=module)
    # The plugin of this name offers Sum as a loss, and the module has a class Sum.
    assert type(topoloss.loss(f"{module}:Sum")).__module__ == "third_party_sum"
    topoloss.unregister(module)
    assert type(topoloss.loss(f"{module}:Sum")).__module__ == module


def test_register_loads_the_entry_points_first(install):
    install("third_party_sum", OFFERS_A_LOSS)
    with pytest.raises(topoloss.PluginError, match="which 'third-party' offers already"):
        topoloss.register(Plugin({"third-party-sum": Median}))


def test_plugins_are_disabled_by_name(monkeypatch, fresh):
    monkeypatch.setenv("TOPOLOSS_DISABLE_PLUGINS", "norms, samplers")
    fresh()
    others = [name for name in SHIPPED["regulariser"] if name not in ("l1", "l2", "none")]
    assert topoloss.available("regulariser") == others
    assert topoloss.available("sampler") == []
    assert info("norms").status == "disabled"
    assert info("norms").shipped
    assert info("mst").status == "loaded"
    with pytest.raises(topoloss.UnknownNameError, match="'norms' is disabled by TOPOLOSS_DISABLE"):
        topoloss.regulariser("l1")


def test_a_shipped_plugin_that_fails_is_shipped_all_the_same(monkeypatch, fresh):
    monkeypatch.setitem(sys.modules, "topoloss_plugins.norms", None)
    fresh()
    with pytest.warns(topoloss.PluginWarning, match="'norms' of distribution topoloss-framework"):
        assert "l1" not in topoloss.available("regulariser")
    assert info("norms").status == "failed"
    assert info("norms").shipped


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
