from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from sklearn.metrics import log_loss
from torch import nn

from topoloss.compare.data import Part, Split
from topoloss.compare.measures import calibration_error, effective_rank, measure, temperature
from topoloss.compare.records import Protocol
from topoloss.compare.tasks import CLASSIFICATION, REGRESSION


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_calibration_error_by_hand():
    # Confidences 0.9 (right), 0.9 (wrong) in one of the 15 bins, and 0.6 (right) in another.
    p = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]]).double()
    error = calibration_error(p.log(), torch.tensor([0, 1, 1]))
    assert error == pytest.approx((abs(1.8 - 1) + abs(0.6 - 1)) / 3)
    # A bin contains its upper end, so 0.2 (right) is in (2/15, 3/15] and 0.25 (wrong) in the next.
    p = torch.tensor([[0.2, 0.2, 0.2, 0.2, 0.2], [0.25, 0.1875, 0.1875, 0.1875, 0.1875]]).double()
    error = calibration_error(p.log(), torch.tensor([0, 1]))
    assert error == pytest.approx((abs(0.2 - 1) + 0.25) / 2)


def test_calibration_error_equals_a_loop_over_bins():
    """Bins are right and wrong by turns, so errors of two that are taken for one cancel out."""
    logits = 0.01 * randn(500, 20) + torch.linspace(0, 9, 500)[:, None] * torch.eye(20)[0]
    confidence, predicted = logits.softmax(1).max(1)
    labels = (predicted + (15 * confidence).long() % 2) % 20
    p = np.exp(logits.numpy())
    p /= p.sum(1, keepdims=True)
    confidence, right = p.max(1), p.argmax(1) == labels.numpy()
    edges = np.linspace(0, 1, 16)
    expected, filled = 0, 0
    for low, high in pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            filled += 1
            gap = abs(right[inside].mean() - confidence[inside].mean())
            expected += inside.mean() * gap
    assert filled == 15
    assert calibration_error(logits, labels) == pytest.approx(expected)


def test_the_temperature_is_where_the_slope_of_the_likelihood_is_zero():
    logits = 5 * randn(400, 3)
    labels = (logits / 4 + randn(400, 3, seed=1)).argmax(1)

    def slope(t):
        # The mean logit of the labels equals the mean logit that the probabilities expect.
        p = (logits / t).softmax(1)
        return float((logits[torch.arange(400), labels] - (p * logits).sum(1)).mean())

    found = temperature(logits, labels)
    assert found > 1
    # Its logarithm to base 10 is found to 1e-5.
    assert found == pytest.approx(brentq(slope, 0.1, 50), rel=3e-5)
    assert temperature(logits * 3, labels) == pytest.approx(3 * found, rel=3e-5)


def test_no_temperature_is_best_where_every_sample_is_right():
    """The likelihood then rises for ever as the temperature falls."""
    labels = torch.arange(30) % 3
    logits = nn.functional.one_hot(labels, 3).double() + 0.1 * randn(30, 3)
    assert temperature(logits, labels) is None
    x = torch.cat((randn(30, 3), logits), 1)
    split = Split(*(Part(x, labels) for _ in range(3)))
    model = nn.Sequential(nn.Linear(6, 3, bias=False).double())
    model[0].weight.data = torch.eye(6).double()[3:]
    found = measure(model, split, CLASSIFICATION, Protocol())
    assert found.temperature is found.scaled_ece is found.scaled_nll is None
    assert found.nll == pytest.approx(log_loss(labels, logits.softmax(1)))


def test_effective_rank_is_the_number_of_equal_directions():
    q = torch.linalg.qr(randn(20, 6) - randn(20, 6).mean(0))[0]
    q = torch.linalg.qr(q - q.mean(0))[0]
    assert effective_rank(q) == pytest.approx(6)
    assert effective_rank(torch.cat((q, 2 * q, q[:, :1] + 3), 1)) < 6
    assert effective_rank(q[:, :1] * torch.ones(9)) == pytest.approx(1)
    assert effective_rank(torch.ones(20, 3)) == 0
    # In float32 the mean of 0.1 is not 0.1.
    assert effective_rank(torch.full((397, 50), 0.1) * torch.arange(1, 51)) == 0


def test_all_is_measured_on_the_test_part_with_the_temperature_of_the_validation_part():
    x, y = randn(300, 5), torch.arange(300) % 3
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    split = Split(*(Part(x[k::3], y[k::3].flip(0)) for k in range(3)))
    found = measure(model, split, CLASSIFICATION, Protocol())
    logits = model(split.test.x).detach()
    scaled = (logits / found.temperature).softmax(1)
    assert found.nll == pytest.approx(log_loss(split.test.y, logits.softmax(1), labels=[0, 1, 2]))
    assert found.scaled_nll == pytest.approx(log_loss(split.test.y, scaled, labels=[0, 1, 2]))
    assert found.ece == calibration_error(logits, split.test.y)
    assert found.scaled_ece == calibration_error(logits / found.temperature, split.test.y)
    assert found.scaled_ece != found.ece
    hidden, outputs = model[:2](split.validation.x), model(split.validation.x)
    assert found.effective_rank == effective_rank(torch.cat((hidden, outputs), 1).detach())
    assert found == measure(model, split, CLASSIFICATION, Protocol())
    other_seed = measure(model, split, CLASSIFICATION, Protocol(), seed=1)
    assert other_seed.nll == found.nll
    assert other_seed.noisy_score != found.noisy_score
    assert other_seed.masked_score != found.masked_score


def test_corrupted_inputs_are_as_declared():
    """A model that puts out its inputs shows them."""
    seen = []

    class Seeing(nn.Module):
        def forward(self, x):
            seen.append(x)
            return x

    x = 1 + torch.rand(1000, 4, generator=torch.Generator().manual_seed(0))
    split = Split(*(Part(x, x) for _ in range(3)))
    model = nn.Sequential(nn.Identity(), nn.Linear(4, 4, bias=False), Seeing())
    nn.init.eye_(model[1].weight)
    found = measure(model, split, REGRESSION, Protocol())
    noisy, masked = seen[:2]
    assert (noisy - x).std().item() == pytest.approx(0.3, rel=0.05)
    assert set(((masked / x).round(decimals=4)).unique().tolist()) == {0.0, 1.0}
    assert (masked == 0).double().mean().item() == pytest.approx(0.3, abs=0.03)
    assert found.ece is found.nll is found.temperature is None
    assert found.noisy_score == REGRESSION.score(noisy, x)
    assert found.masked_score == REGRESSION.score(masked, x)
    assert found.masked_score != found.noisy_score
