"""Measures of a trained network besides its score: calibration, robustness and rank."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from topoloss.attaching import observe
from topoloss.compare.data import Split
from topoloss.compare.neurons import AT_ONCE
from topoloss.compare.records import Measures, Protocol
from topoloss.compare.tasks import CLASSIFICATION, Task
from topoloss.extras import needs_extra
from topoloss.regularisers import side_by_side

__all__ = ["MASKED", "NOISE", "calibration_error", "effective_rank", "measure", "temperature"]

# How test inputs are corrupted: standard deviation of the noise, and share of values set to 0.
NOISE, MASKED = 0.3, 0.3
_BINS = 15


@torch.no_grad()
def measure(
    model: nn.Module, split: Split, task: Task, protocol: Protocol, seed: int = 0
) -> Measures:
    """Measure a trained network on the test part, in evaluation mode.

    Parameters
    ----------
    model : Module
        Left in evaluation mode.
    split : Split
        The temperature is fitted on the validation part; its first 1024 samples give the rank.
    task : Task
        Calibration is measured only for classification.
    protocol : Protocol
        Its ``layers`` and ``fraction`` choose the neurons.
    seed : int
        Seed of the noise and of the mask, which are the same for all arms.

    Returns
    -------
    Measures
    """
    model.eval()
    x, y = split.test
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(x.shape, dtype=x.dtype, generator=generator).to(x.device)
    kept = (torch.rand(x.shape, generator=generator) >= MASKED).to(x)
    found = {
        "noisy_score": task.score(_outputs(model, x + NOISE * noise), y),
        "masked_score": task.score(_outputs(model, x * kept), y),
        "effective_rank": effective_rank(_activations(model, split.validation.x, protocol)),
    }
    if task is CLASSIFICATION:
        found |= _calibration(_outputs(model, x), y, model, split)
    return Measures(**found)


def _calibration(
    logits: Float[Tensor, "samples classes"], labels: Tensor, model: nn.Module, split: Split
) -> dict[str, float]:
    cross_entropy: Callable[..., Tensor] = nn.functional.cross_entropy
    found = {
        "ece": calibration_error(logits, labels),
        "nll": cross_entropy(logits, labels).item(),
    }
    t = temperature(_outputs(model, split.validation.x), split.validation.y)
    if t is None:
        return found
    return found | {
        "temperature": t,
        "scaled_ece": calibration_error(logits / t, labels),
        "scaled_nll": cross_entropy(logits / t, labels).item(),
    }


def calibration_error(
    logits: Float[Tensor, "samples classes"], labels: Int[Tensor, " samples"]
) -> float:
    """Expected calibration error, in 15 bins of equal width.

    The mean over the bins, weighted by their numbers of samples, of the absolute difference
    between the mean confidence and the accuracy.

    References
    ----------
    Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural networks", PMLR 70 (2017),
    equation (3).

    Examples
    --------
    >>> import torch
    >>> from topoloss.compare.measures import calibration_error
    >>> logits = torch.log(torch.tensor([[0.75, 0.25], [0.75, 0.25]]))
    >>> round(calibration_error(logits, torch.tensor([0, 1])), 6)  # right half of the time
    0.25
    """
    confidence, predicted = logits.double().softmax(1).max(1)
    excess = confidence - (predicted == labels).double()
    # Bins are intervals (a, b], as in the paper.
    bins = ((confidence * _BINS).ceil().long() - 1).clamp(0, _BINS - 1)
    sums = excess.new_zeros(_BINS).index_add(0, bins, excess)
    return float(sums.abs().sum() / len(labels))


def temperature(
    logits: Float[Tensor, "samples classes"], labels: Int[Tensor, " samples"]
) -> float | None:
    """The divisor of the logits that makes the labels most likely, between 0.01 and 100.

    The negative log-likelihood is convex in the inverse of the temperature. If every sample is
    classified correctly, the likelihood rises without end as the temperature falls, so none is
    best: the result is None.

    References
    ----------
    Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural networks", PMLR 70 (2017),
    section 4.2.
    """
    with needs_extra("compare"):
        from scipy.optimize import minimize_scalar
    logits, labels = logits.double(), labels.to(logits.device)
    if bool((logits.argmax(1) == labels).all()):
        return None

    def loss(logarithm: float) -> float:
        return float(nn.functional.cross_entropy(logits * 10.0**logarithm, labels))

    return float(10.0 ** -minimize_scalar(loss, bounds=(-2, 2), method="bounded").x)


def effective_rank(x: Float[Tensor, "samples n"]) -> float:
    """The effective rank of centred activations: a soft count of the directions that they use.

    It is the exponential of the entropy of the singular values, which are first divided by their
    sum. It is 0 if all neurons are constant.

    References
    ----------
    Roy, Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO (2007).

    Examples
    --------
    >>> import torch
    >>> from topoloss.compare.measures import effective_rank
    >>> x = torch.tensor([[1.0, 0.0, 2.0], [-1.0, 0.0, -2.0], [0.0, 1.0, 0.0], [0.0, -1.0, 0.0]])
    >>> 1 < effective_rank(x) < 2  # the third neuron copies the first
    True
    """
    x = x.double()  # first: the rounding error of a float32 mean would count as variance
    values = torch.linalg.svdvals(x - x.mean(0))
    total = values.sum()
    if total == 0:
        return 0.0
    shares = values / total
    return float(torch.special.entr(shares).sum().exp())


def _activations(model: nn.Module, x: Tensor, protocol: Protocol) -> Tensor:
    with observe(
        model, layers=protocol.layers, sampler="importance", fraction=protocol.fraction
    ) as seen:
        model(x[:AT_ONCE])
        return side_by_side(seen.activations())


def _outputs(model: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([model(part) for part in torch.split(x, AT_ONCE)])
