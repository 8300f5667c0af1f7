"""Deliberately broken components: each is caught by the rules meant for it, and by no other."""

import inspect
import unittest

import pytest
from testing.broken import (
    filtrations,
    losses,
    persistence,
    plugins,
    regularisers,
    samplers,
    unfit,
)

from topoloss.testing import CheckFailed, check
from topoloss.testing.cases import cases
from topoloss.testing.kinds import KINDS

BROKEN = {
    "filtration": filtrations,
    "persistence": persistence,
    "loss": losses,
    "regulariser": regularisers,
    "sampler": samplers,
}
ALL = [
    pytest.param(kind, component, rules, id=f"{kind}-{component.__name__}")
    for kind, module in BROKEN.items()
    for component, rules in module.BREAKS.items()
]


def failures_of(kind, component, rules=None):
    """The failures of a component, in the order in which its rules are checked: all, or some."""
    failures = []
    for case in cases(kind, component):
        if rules is not None and case.rule not in rules:
            continue
        try:
            case()
        except CheckFailed as failure:
            # Only some machines have a CUDA device; the rule `device` says the same on all.
            failures += [failure] if failure.rule != "cuda" else []
        except unittest.SkipTest:
            continue
    return failures


@pytest.mark.parametrize(("kind", "component", "rules"), ALL)
def test_a_component_breaks_the_rules_meant_for_it(kind, component, rules):
    failures = failures_of(kind, component, rules.split())
    assert " ".join(failure.rule for failure in failures) == rules
    if failures:
        # One thing is wrong: the first failure tells it, and all the others follow from that one.
        first, *others = failures
        assert first.root is None
        assert [other.root for other in others] == [first.rule] * len(others)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "component", "rules"), ALL)
def test_a_component_breaks_no_other_rule(kind, component, rules):
    assert {failure.rule for failure in failures_of(kind, component)} == set(rules.split())


@pytest.mark.parametrize("kind", BROKEN)
def test_every_component_of_the_file_is_tried(kind):
    module = BROKEN[kind]
    classes = [
        found
        for _, found in inspect.getmembers(module, inspect.isclass)
        if found.__module__ == module.__name__ and issubclass(found, KINDS[kind].base)
    ]
    assert set(classes) == set(module.BREAKS)


@pytest.mark.parametrize("kind", BROKEN)
def test_every_rule_is_the_first_that_some_component_of_the_kind_breaks(kind):
    first = {rules.split()[0] for rules in BROKEN[kind].BREAKS.values() if rules}
    elsewhere = {"construction", "definition", "cuda"}
    assert first == {rule.__name__ for rule in KINDS[kind].rules} - elsewhere


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize(
    "component", [unfit.ForgetsItsBase, unfit.NeedsAnOption, unfit.NotAComponent]
)
def test_what_cannot_be_made_is_caught_first(kind, component):
    with pytest.raises(CheckFailed) as failure:
        check(kind, component)
    assert failure.value.rule == "construction"


@pytest.mark.parametrize(("plugin", "rule", "message"), plugins.BREAKS)
def test_a_broken_plugin_is_caught(plugin, rule, message):
    with pytest.raises(CheckFailed, match=message) as failure:
        check("plugin", plugin)
    assert failure.value.rule == rule
