"""Plugins of this process: registered, taken out again, in many threads."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from offers import OFFERS_A_LOSS, SHIPPED, Cosine, Median, Plugin, everything_works, info

import topoloss
from topoloss import plugins

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


def test_what_is_not_registered_cannot_be_unregistered():
    for given in ("nobody", Plugin({})):
        with pytest.raises(topoloss.UnknownNameError, match=r"there are .*, samplers, "):
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
    with pytest.raises(topoloss.PluginError, match="already exists"):
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
    "name with a slash": (Plugin({"new": Median, "my/loss": Median}), "'my/loss', which nobody"),
    "name of a pipeline's term": (Plugin({"a+b": Median}), r"'a\+b', which nobody"),
    "name with a blank": (Plugin({"c d": Median}), "'c d', which nobody"),
    "name with a bracket": (Plugin({"c[": Median}), r"'c\[', which nobody"),
    "name of another plugin": (Plugin({"a:b": Median}), "'a:b', which nobody"),
    "empty name": (Plugin({"": Median}), "'', which nobody"),
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


# Threads


@pytest.fixture
def in_threads():
    """Run functions at the same moment, each in its thread; return what they returned."""
    interval = sys.getswitchinterval()
    # Switching often lets threads meet inside what ought to be indivisible.
    sys.setswitchinterval(1e-6)

    def run(functions):
        # A thread that fails to start would keep the others waiting.
        barrier = threading.Barrier(len(functions), timeout=60)

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


# What asks the plugin manager


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
    given = {
        "activations": torch.randn(2, 5, 4),
        "weights": {"0": model[0].weight, "2": model[2].weight},
        "parameters": dict(model.named_parameters()),
    }
    penalty = topoloss.attach(model, "t1")
    with plugins.using_registry(object.__new__(Untouchable)):
        with pytest.raises(AssertionError, match="registry was asked"):
            topoloss.loss("t1")
        for reg in regs.values():
            reg(given[reg.source])
        regs["t1"].diagrams(torch.randn(5, 4))
        model(torch.randn(5, 3))
        penalty().backward()
        penalty.diagrams()
    penalty.remove()
