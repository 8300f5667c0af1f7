import pytest
import sklearn.metrics
import torch

import topoloss
from topoloss.compare import tasks


def test_integer_targets_are_classes_and_others_numbers():
    assert tasks.of(torch.tensor([1, 0])) is tasks.CLASSIFICATION
    assert tasks.of(torch.tensor([[1.0], [0.0]])) is tasks.REGRESSION


def test_r2_is_scikit_learns():
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(30, 2, generator=generator)
    outputs = targets + torch.tensor([0.3, 2.0]) * torch.randn(30, 2, generator=generator)
    expected = sklearn.metrics.r2_score(targets.numpy(), outputs.numpy())
    assert tasks.REGRESSION.score(outputs, targets) == pytest.approx(expected, rel=1e-6)


def test_r2_of_a_target_that_does_not_vary_is_refused():
    with pytest.raises(topoloss.InputError, match="same value for all 3 samples"):
        tasks.REGRESSION.score(torch.zeros(3, 2), torch.tensor([[1.0, 0], [1, 1], [1, 2]]))


def test_accuracy_by_hand():
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 2.0], [1.0, 0.0]])
    assert tasks.CLASSIFICATION.score(logits, torch.tensor([0, 1, 1, 0])) == 0.75
