"""The door of the kit: what can be checked, and what is refused."""

import importlib
import logging
import unittest

import pytest
import torch
from testing.broken import plugins, samplers
from testing.unusual.regularisers import ByNumpy

import topoloss
import topoloss.testing
from topoloss.testing import CheckFailed, check, parametrize_with_checks
from topoloss.testing.cases import cases
from topoloss.testing.kinds import KINDS


def test_names_factories_and_instances_are_checked():
    check("sampler", "random")
    check("sampler", samplers.First)
    check("sampler", lambda **options: samplers.First(**options))
    check("sampler", samplers.First())
    with pytest.raises(CheckFailed, match="FromOne breaks"):
        check("sampler", samplers.FromOne())


@pytest.mark.parametrize(
    ("component", "reason"),
    [
        (samplers.First(), "an instance was given: check the class"),
        ("all", "it has no option fraction"),
        ("random[fraction=0.5]", "in its name"),
        (lambda: samplers.First(), "it has no option fraction"),
        (lambda **options: topoloss.sampler("all", **options), "it has no option fraction"),
    ],
)
def test_a_fraction_that_is_not_tried_has_a_true_reason(component, reason):
    (case,) = (c for c in cases("sampler", component) if c.rule == "fraction")
    with pytest.raises(unittest.SkipTest, match=reason):
        case()


@pytest.mark.parametrize(
    ("component", "error", "message"),
    [
        ("cosin", topoloss.UnknownNameError, "Did you mean 'cosine'"),
        (3, topoloss.OptionError, "3 was given; expected the name of a filtration"),
    ],
)
def test_what_cannot_be_checked_is_an_error_and_no_failure(component, error, message):
    with pytest.raises(error, match=message):
        check("filtration", component)


class ReadsANumber(ByNumpy):
    """Besides, reads a number out of a tensor, at which the compiler breaks its graph."""

    def compute(self, x):
        return super().compute(x) * torch.ones(()).item()


def test_a_graph_that_may_break_does_so_without_a_word(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("torch._dynamo"), "propagate", True)
    (case,) = (c for c in cases("regulariser", ReadsANumber) if c.rule == "compilation")
    case()
    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert told == []


@pytest.mark.parametrize("run", [check, parametrize_with_checks])
def test_an_unknown_kind_is_an_error(run):
    with pytest.raises(topoloss.OptionError, match="Did you mean 'filtration'"):
        run("filtrations", "cosine")


@pytest.mark.parametrize("seed", ["x", 1.5, True, -1, 2**70])
def test_a_seed_that_is_none_is_an_error(seed):
    with pytest.raises(topoloss.OptionError, match="seed"):
        check("sampler", "random", seed=seed)


# Names that were replaced


@pytest.mark.parametrize("kind", KINDS)
def test_a_function_of_one_kind_points_to_the_door(kind):
    with pytest.raises(ImportError, match=rf"use topoloss\.testing\.check\('{kind}', component\)"):
        getattr(topoloss.testing, f"check_{kind}")


def test_an_import_of_an_old_name_points_to_the_new_one():
    with pytest.raises(ImportError, match=r"use topoloss\.testing\.check\('loss', component\)"):
        exec("from topoloss.testing import check_loss")
    with pytest.raises(ImportError, match=r"use topoloss\.testing\.examples"):
        exec("from topoloss.testing import problems")


def test_other_unknown_names_are_plain_attribute_errors():
    assert not hasattr(topoloss.testing, "check_everything")


# Plugins


def test_a_plugin_is_checked_registered_or_not():
    plugin = plugins.Offers({"mine": samplers.First})
    check("plugin", plugin)
    with topoloss.registered(plugin) as name:
        check("plugin", name)


def test_an_unknown_plugin_is_an_error():
    with pytest.raises(topoloss.UnknownNameError, match="Did you mean 'euclidean'"):
        check("plugin", "euclidian")


def test_an_installed_plugin_must_require_the_library(tmp_path, monkeypatch):
    (tmp_path / "lonely.py").write_text("", encoding="utf-8")
    info = tmp_path / "lonely-1.0.dist-info"
    info.mkdir()
    header = "Metadata-Version: 2.1\nName: lonely\nVersion: 1.0\n"
    (info / "METADATA").write_text(header)
    (info / "entry_points.txt").write_text("[topoloss]\nlonely = lonely\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("lonely")
    requirement = {case.rule: case for case in cases("plugin", module)}["requirement"]
    with pytest.raises(CheckFailed, match='dependencies = \\["topoloss-framework"\\]'):
        requirement()
    (info / "METADATA").write_text(header + "Requires-Dist: topoloss_framework>=0.1\n")
    requirement()
