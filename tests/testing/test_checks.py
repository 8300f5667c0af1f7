"""What a failure says."""

import contextlib
import pickle
import re
import unittest

import pytest
import torch
from testing.broken import filtrations, persistence, regularisers

import topoloss
from topoloss.testing import CheckFailed, check, examples
from topoloss.testing.cases import cases


def test_a_wrong_order_names_two_edges_and_both_their_numbers():
    with pytest.raises(CheckFailed) as failure:
        check("filtration", filtrations.WrongOrder, seed=5)
    error, message = failure.value, str(failure.value)
    assert (error.rule, error.component, error.seed) == ("order_hint", "WrongOrder", 5)
    assert message.splitlines()[0] == (
        "WrongOrder breaks the rule 'order_hint': Edge values ascend in the declared order of "
        "the features."
    )
    x = examples.generic(32, 16, seed=5)
    assert f"on        {x.name}" in message
    filtration = filtrations.WrongOrder()
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


@pytest.mark.parametrize(
    ("kind", "component"),
    [
        ("filtration", filtrations.Noisy),
        ("regulariser", regularisers.DetachedNorm),
        ("persistence", persistence.Heaviest),
    ],
)
def test_a_failure_comes_again_from_its_seed(kind, component):
    def messages(seed):
        found = []
        for case in cases(kind, component, seed=seed):
            if case.rule == "compilation":  # it takes most of the time
                continue
            with contextlib.suppress(unittest.SkipTest):
                try:
                    case()
                except CheckFailed as error:
                    found.append(str(error))
        return found

    assert messages(3) == messages(3)
    assert messages(3) != messages(4)


def test_an_exception_of_the_component_is_told_with_its_example():
    with pytest.raises(CheckFailed, match="float16 is not implemented") as failure:
        check("filtration", filtrations.RefusesHalf)
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


# The root of a failure, and what follows from it


class TwoFaults(filtrations.SlightlyAsymmetric):
    """Asymmetric, which breaks other rules too; and its weights are wrong besides."""

    def edge_values(self, v, i, j):
        return super().edge_values(v, i, j) + 0.01 * v[i, 0]

    def edge_weights(self, v, i, j):
        return torch.full(i.shape, torch.nan, dtype=v.dtype)


def test_a_check_tells_the_root_and_names_what_follows_and_what_else_is_broken():
    with pytest.raises(CheckFailed) as failure:
        check("filtration", filtrations.Noisy)
    assert (failure.value.rule, failure.value.root) == ("determinism", None)
    (line,) = [line for line in str(failure.value).splitlines() if line.startswith("  follow ")]
    assert "probably from this failure: memory, precision, edges_alone" in line
    assert "  others " not in str(failure.value)


def test_two_faults_are_two_roots():
    with pytest.raises(CheckFailed) as failure:
        check("filtration", TwoFaults)
    assert failure.value.rule == "symmetry"
    assert "  follow    probably from this failure: pairwise" in str(failure.value)
    assert "  others    also broken: " in str(failure.value)


class OtherGradient(filtrations.AsymmetricWeights):
    def edge_values(self, v, i, j):
        values = super().edge_values(v, i, j)
        return 2 * values - values.detach()


def test_what_follows_from_another_root_is_named_too():
    with pytest.raises(CheckFailed) as failure:
        check("filtration", OtherGradient)
    assert failure.value.rule == "edge_weights"
    (line,) = [line for line in str(failure.value).splitlines() if line.startswith("  others ")]
    assert "gradient, ties (probably from gradient)" in line


def test_a_test_that_fails_for_another_rule_says_so_first():
    case = {case.rule: case for case in cases("filtration", filtrations.Noisy)}["symmetry"]
    with pytest.raises(CheckFailed) as failure:
        case()
    assert failure.value.root == "determinism"
    assert str(failure.value).splitlines()[1] == (
        "  follows   probably from the rule 'determinism', which is broken too: fix it first"
    )
    assert pickle.loads(pickle.dumps(failure.value)).root == "determinism"


# What was received can be received again


def calls_in(message):
    """The Python that a failure prints below its last line."""
    _, _, code = message.partition("or with the component itself:\n")
    code, _, _ = code.partition("\n  ") if "\n  follow" in code else (code, "", "")
    return [line.strip() for line in code.splitlines() if line.startswith(" " * 12)]


@pytest.mark.parametrize("seed", [0, 5])
@pytest.mark.parametrize(
    ("component", "rule"),
    [
        (filtrations.SlightlyAsymmetric, "symmetry"),
        (filtrations.OffByOne, "locality"),
        (filtrations.RelativeToTheLargest, "edges_alone"),
        (filtrations.WrongFrom300, "locality"),
        (filtrations.WrongPairsOfOddMany, "pairwise"),
        (filtrations.WeightsOfTheEdgeBefore, "edge_weights"),
    ],
)
def test_the_calls_of_a_failure_give_what_it_says_was_received(component, rule, seed):
    case = {case.rule: case for case in cases("filtration", component, seed=seed)}[rule]
    with pytest.raises(CheckFailed) as failure:
        case()
    message = str(failure.value)
    *setup, call = calls_in(message)
    names = {"topoloss": topoloss, "torch": torch, "component": component()}
    for line in setup:
        exec(line, names)
    received = float(re.search(r"received  (\S+)", message).group(1))
    assert eval(call, names).item() == pytest.approx(received, rel=1e-15)


def test_no_asymmetry_is_told_where_single_edges_are_symmetric():
    class ByPosition(filtrations.Cosine):
        """Depends on the place of an edge in the call, so that only whole calls look asymmetric."""

        def edge_values(self, v, i, j):
            lower = (i < j).to(v.dtype) if len(i) > 1 else 0
            return super().edge_values(v, i, j) + 0.1 * lower

    with pytest.raises(CheckFailed) as failure:
        check("filtration", ByPosition)
    assert failure.value.rule == "edges_alone"
    assert "symmetry" not in str(failure.value)


@pytest.mark.parametrize(
    ("component", "rule", "derivative"),
    [
        (filtrations.WrongSign, "gradient", "the derivative of value ["),
        (filtrations.WrongSign, "second_gradient", "the derivative of gradient"),
    ],
)
def test_a_wrong_derivative_shows_its_worst_entry_alone(component, rule, derivative):
    case = {case.rule: case for case in cases("filtration", component)}[rule]
    with pytest.raises(CheckFailed) as failure:
        case()
    message = str(failure.value)
    assert derivative in message
    assert re.search(r"with respect to entry \[\d, \d\] of tensor 0", message)
    assert "tensor(" not in message
    wanted = float(re.search(r"expected  (\S+) by finite", message).group(1))
    received = float(re.search(r"received  (\S+) by autograd", message).group(1))
    if rule == "gradient":
        assert received == pytest.approx(-wanted, rel=1e-4)
        x = examples.generic(7, 4).activations.requires_grad_()
        i, j = torch.triu_indices(4, 4, 1)
        right = torch.autograd.functional.jacobian(
            lambda x: filtrations.Cosine().edge_values(filtrations.Cosine().vertices(x), i, j), x
        )
        assert right.abs().max().item() == pytest.approx(abs(wanted), rel=1e-4)
