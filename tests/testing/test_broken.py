"""Deliberately broken components: each is caught by the rules meant for it, and by no other."""

import contextlib
import importlib
import pickle
import re
import unittest

import broken
import pytest
import torch

import topoloss
from topoloss.testing import (
    CheckFailed,
    check_filtration,
    check_loss,
    check_persistence,
    check_plugin,
    check_regulariser,
    check_sampler,
    parametrize_with_checks,
    problems,
)
from topoloss.testing.suite import KINDS, cases

# The rules that each component breaks, in the order in which they are checked: what the
# component is about comes first.

FILTRATIONS = {
    "Cosine": "",
    "WrongSign": "gradient second_gradient change_of_tree",
    "DifferentiableOnce": "second_gradient",
    "Detached": "graph change_of_tree",
    "PartlyDetached": "gradient second_gradient change_of_tree",
    "OffByOne": "symmetry locality pairwise order_hint",
    "OffByOneAtBothEnds": "locality order_hint",
    "Asymmetric": "symmetry pairwise",
    "WrongOrder": "order_hint",
    "ReversedOrder": "order_hint",
    "MisspeltOrder": "order_hint",
    "CentresInPlace": "input_unchanged determinism pairwise graph gradient second_gradient "
    "finite_gradients change_of_tree compilation pickling deepcopy state_dict",
    "HalvesVerticesInPlace": "vertices_unchanged symmetry pairwise change_of_tree",
    "Noisy": "determinism precision symmetry locality pairwise order_hint gradient "
    "change_of_tree vmap compilation",
    "SeedsTheWorld": "random_state compilation",
    "NanAtConstants": "finite finite_gradients",
    "NanGradientAtDuplicates": "finite_gradients",
    "SinglePrecision": "precision gradient second_gradient change_of_tree",
    "RefusesHalf": "precision",
    "Branching": "vmap compilation",
    "Prints": "compilation",
    "KeepsALambda": "pickling",
    "KeepsALock": "pickling deepcopy",
    "RefusesToBeCopied": "deepcopy",
    "HidesAParameter": "state_dict",
    "SwitchesToEval": "module_state",
    "CountsCalls": "module_state",
    "OtherPairs": "pairwise",
    "PairsWithAGraph": "pairwise",
    "Column": "shapes vertices_unchanged symmetry locality pairwise order_hint change_of_tree",
    "Transposed": "shapes",
}

PERSISTENCE = {
    "Tree": "",
    "DropsZeroDeaths": "points spanning_tree reference",
    "CountsFromOne": "edges_of_vertices spanning_tree reference weight",
    "NextVertex": "reference weight",
    "Cycle": "spanning_tree reference weight",
    "Int32": "edges_of_vertices",
    "WithBirthsOfVertices": "edges_of_vertices",
    "HighestIndicesFirst": "reference",
    "Heaviest": "reference weight",
    "LowPrecision": "weight",
    "LooksAtTheDiagonal": "diagonal",
    "ClearsTheDiagonal": "input_unchanged determinism pickling deepcopy state_dict",
    "Shuffles": "determinism diagonal",
    "SeedsTheWorldOfTrees": "random_state",
    "CountsTrees": "module_state",
    "ClaimsToBeMapped": "vmap compilation",
    "UnknownOrder": "orders edges_of_vertices points input_unchanged determinism random_state "
    "module_state spanning_tree reference weight pickling deepcopy state_dict",
    "NegativeDots": "reference weight",
    "DiesBeforeItIsBorn": "higher_dimensions",
}

LOSSES = {
    "Sum": "",
    "SampleT2": "",
    "NegatedSum": "gradient",
    "DetachedSum": "gradient",
    "ForgetsTheDeaths": "graph empty",
    "Weightless": "weights",
    "Mean": "finite empty",
    "Norm": "finite_gradients",
    "NewZero": "empty",
    "EachPoint": "shapes weights",
    "HalvesDeaths": "input_unchanged determinism precision graph empty gradient "
    "second_gradient finite_gradients vmap compilation pickling deepcopy state_dict",
    "BranchingSum": "vmap compilation",
    "SingleSum": "precision gradient second_gradient",
    "RandomSum": "determinism precision weights gradient second_gradient vmap compilation",
    "TrainedSum": "module_state",
    "HiddenScale": "state_dict",
}

REGULARISERS = {
    "Mse": "",
    "DetachedMse": "gradient",
    "ForgetsTheGraph": "graph one_neuron",
    "NewZeroForOne": "one_neuron",
    "MeanOfPairs": "finite one_neuron finite_gradients",
    "NormOfNeurons": "finite_gradients",
    "TakesNan": "nonfinite",
    "OneForAll": "batch",
    "BranchingMse": "batch compilation",
    "SumsOverTheBatch": "batch",
    "CentresActivations": "input_unchanged determinism graph one_neuron gradient "
    "second_gradient finite_gradients compilation pickling deepcopy state_dict",
    "ByEdge": "change_of_tree",
    "ShortDiagrams": "diagrams compilation",
    "NegatedMse": "gradient",
    "HalfMse": "precision gradient second_gradient",
    "NoisyMse": "determinism precision gradient second_gradient batch compilation",
    "SeedingMse": "random_state compilation",
    "EachNeuron": "shapes batch",
    "DetachedNorm": "graph",
    "DoublesTheWeights": "input_unchanged gradient",
    "NormOfWeights": "finite_gradients",
}

SAMPLERS = {
    "First": "",
    "Mask": "indices fraction pickling deepcopy",
    "FromOne": "indices",
    "Descending": "indices",
    "WithReplacement": "indices fraction",
    "Rounds": "fraction",
    "Unseeded": "determinism fraction pickling deepcopy",
    "Global": "random_state",
    "Sorts": "input_unchanged",
}

TABLES = {
    "filtration": FILTRATIONS,
    "persistence": PERSISTENCE,
    "loss": LOSSES,
    "regulariser": REGULARISERS,
    "sampler": SAMPLERS,
}
ALL = [(kind, name, rules) for kind, table in TABLES.items() for name, rules in table.items()]
UNFIT = [broken.ForgetsItsBase, broken.NeedsAnOption, broken.NotAComponent]


def broken_rules(kind, component):
    """The rules that a component breaks, in the order in which they are checked."""
    failed = []
    for check in cases(kind, component):
        try:
            check()
        except CheckFailed:
            failed.append(check.rule)
        except unittest.SkipTest:
            continue
    return " ".join(failed)


@pytest.mark.parametrize(("kind", "name", "rules"), ALL)
def test_a_component_breaks_the_rules_meant_for_it_and_no_other(kind, name, rules):
    assert broken_rules(kind, getattr(broken, name)) == rules


@pytest.mark.parametrize("component", UNFIT, ids=lambda c: c.__name__)
@pytest.mark.parametrize("kind", TABLES)
def test_what_cannot_be_made_is_caught_first(kind, component):
    with pytest.raises(CheckFailed) as failure:
        {
            "filtration": check_filtration,
            "persistence": check_persistence,
            "loss": check_loss,
            "regulariser": check_regulariser,
            "sampler": check_sampler,
        }[kind](component)
    assert failure.value.rule == "construction"


def test_every_rule_is_the_first_that_some_component_breaks():
    first = {rules.split()[0] for _, _, rules in ALL if rules}
    elsewhere = {"construction", "definition", "cuda"}
    assert first | elsewhere == {rule.__name__ for kind in TABLES for rule in KINDS[kind].rules}


# What only a definition can tell


def t2(diagrams):
    deaths = diagrams[0].deaths.numpy()
    # numpy's std divides by the number of deaths, as the paper does.
    return (deaths.std() - deaths.mean()) / 2 if len(deaths) else 0.0


def test_the_divisor_of_a_standard_deviation_is_caught_by_a_definition():
    check_loss("t2", expected=t2)
    check_loss(broken.SampleT2)
    with pytest.raises(CheckFailed, match="correction=0") as failure:
        check_loss(broken.SampleT2, expected=t2)
    assert failure.value.rule == "definition"


def test_a_filtration_that_is_another_than_meant_is_caught_by_a_definition():
    def by_definition(x):
        centred = (x - x.mean(0)) / (x - x.mean(0)).norm(dim=0).clamp(min=1e-9)
        return 1 - (centred.T @ centred).abs()

    check_filtration("correlation", expected=by_definition)
    check_filtration("cosine")
    with pytest.raises(CheckFailed, match="the value by definition") as failure:
        check_filtration("cosine", expected=by_definition)
    assert failure.value.rule == "definition"


def test_a_regulariser_that_is_another_than_meant_is_caught_by_a_definition():
    check_regulariser(broken.Mse, expected=lambda x: x.numpy().var() + x.numpy().mean() ** 2)
    with pytest.raises(CheckFailed) as failure:
        check_regulariser(broken.Mse, expected=lambda x: x.numpy().var())
    assert failure.value.rule == "definition"


# What a failure says


def test_a_wrong_order_names_two_edges_and_both_their_numbers():
    with pytest.raises(CheckFailed) as failure:
        check_filtration(broken.WrongOrder, seed=5)
    error, message = failure.value, str(failure.value)
    assert (error.rule, error.component, error.seed) == ("order_hint", "WrongOrder", 5)
    assert message.splitlines()[0] == (
        "WrongOrder breaks the rule 'order_hint': Edge values ascend in the declared order of "
        "the features."
    )
    x = problems.generic(32, 16, seed=5)
    assert f"on        {x.name}" in message
    filtration = broken.WrongOrder()
    v = filtration.vertices(x.activations)
    edges = re.findall(r"the edge \((\d+), (\d+)\) of key (\S+)", message)
    received = re.search(r"edge values (\S+) and (\S+)", message).groups()
    (i, j, key), (k, m, other_key) = edges
    first, second = (
        filtration.edge_values(v, torch.tensor([int(a)]), torch.tensor([int(b)])).item()
        for a, b in ((i, j), (k, m))
    )
    assert float(key) < float(other_key)
    assert first > second
    assert (float(received[0]), float(received[1])) == pytest.approx((first, second), rel=1e-7)
    assert "order = None" in message
    assert "seed=5" in message


@pytest.mark.parametrize("component", [broken.Noisy, broken.DetachedNorm, broken.Heaviest])
def test_a_failure_comes_again_from_its_seed(component):
    kind = {broken.Noisy: "filtration", broken.DetachedNorm: "regulariser"}.get(
        component, "persistence"
    )

    def messages(seed):
        found = []
        for check in cases(kind, component, seed=seed):
            with contextlib.suppress(unittest.SkipTest):
                try:
                    check()
                except CheckFailed as error:
                    found.append(str(error))
        return found

    assert messages(3) == messages(3)
    assert messages(3) != messages(4)


def test_an_exception_of_the_component_is_told_with_its_input():
    with pytest.raises(CheckFailed, match="float16 is not implemented") as failure:
        check_filtration(broken.RefusesHalf)
    assert failure.value.rule == "precision"
    assert "in torch.float16" in str(failure.value)
    assert isinstance(failure.value.__cause__, ValueError)


def test_a_failure_can_be_pickled():
    failure = CheckFailed("message", "rule", "component", 3)
    copied = pickle.loads(pickle.dumps(failure))
    assert (str(copied), copied.rule, copied.component, copied.seed) == (
        *("message", "rule", "component"),
        3,
    )


# What can be checked


def test_names_factories_and_instances_are_checked():
    check_filtration("cosine")
    check_filtration(broken.Cosine)
    check_filtration(lambda: broken.Cosine())
    check_filtration(broken.Cosine())
    with pytest.raises(CheckFailed, match="WrongOrder breaks"):
        check_filtration(broken.WrongOrder())


@pytest.mark.parametrize(
    ("component", "error", "message"),
    [
        ("cosin", topoloss.UnknownNameError, "Did you mean 'cosine'"),
        (3, topoloss.OptionError, "3 was given; expected the name of a filtration"),
    ],
)
def test_what_cannot_be_checked_is_an_error_and_no_failure(component, error, message):
    with pytest.raises(error, match=message):
        check_filtration(component)


def test_an_unknown_kind_is_an_error():
    with pytest.raises(topoloss.OptionError, match="Did you mean 'filtration'"):
        parametrize_with_checks("filtrations", "cosine")


# Plugins


class Offers:
    """A plugin of one hook."""

    def __init__(self, offered):
        self.offered = offered

    @topoloss.hookimpl
    def topoloss_filtrations(self):
        return self.offered


class Fickle(Offers):
    """Offers one name less whenever it is asked."""

    @topoloss.hookimpl
    def topoloss_filtrations(self):
        self.offered = dict(list(self.offered.items())[1:])
        return self.offered


class Unmarked(Offers):
    def topoloss_losses(self):
        return {"never-asked": broken.Sum}


@pytest.mark.parametrize(
    ("plugin", "rule", "message"),
    [
        (Offers([broken.Cosine]), "registration", "expected a dictionary"),
        (Offers({"cosine": broken.Cosine}), "registration", "choose another name"),
        (object(), "registration", "implements no hook"),
        (Unmarked({"mine": broken.Cosine}), "hooks", "none on topoloss_losses"),
        (Fickle(dict.fromkeys("abcdef", broken.Cosine)), "names", "as before"),
        (Offers({"my=name": broken.Cosine}), "names", "'my=name'"),
        (Offers({"mine": broken.WrongOrder}), "order_hint", "filtration mine breaks"),
    ],
)
def test_a_broken_plugin_is_caught(plugin, rule, message):
    with pytest.raises(CheckFailed, match=message) as failure:
        check_plugin(plugin)
    assert failure.value.rule == rule


def test_a_plugin_is_checked_registered_or_not():
    plugin = Offers({"mine": broken.Cosine})
    check_plugin(plugin)
    name = topoloss.register(plugin)
    try:
        check_plugin(name)
    finally:
        topoloss.unregister(name)


def test_an_unknown_plugin_is_an_error():
    with pytest.raises(topoloss.UnknownNameError, match="Did you mean 'euclidean'"):
        check_plugin("euclidian")


def test_an_installed_plugin_must_require_the_library(tmp_path, monkeypatch):
    (tmp_path / "lonely.py").write_text("", encoding="utf-8")
    info = tmp_path / "lonely-1.0.dist-info"
    info.mkdir()
    header = "Metadata-Version: 2.1\nName: lonely\nVersion: 1.0\n"
    (info / "METADATA").write_text(header)
    (info / "entry_points.txt").write_text("[topoloss]\nlonely = lonely\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("lonely")
    requirement = {check.rule: check for check in cases("plugin", module)}["requirement"]
    with pytest.raises(CheckFailed, match='dependencies = \\["topoloss-framework"\\]'):
        requirement()
    (info / "METADATA").write_text(header + "Requires-Dist: topoloss_framework>=0.1\n")
    requirement()
