"""What a failure says."""

import contextlib
import pickle
import re
import unittest

import pytest
import torch
from testing.broken import filtrations, persistence, regularisers

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
