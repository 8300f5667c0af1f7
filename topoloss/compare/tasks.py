"""What a network learns: a class or numbers. The dtype of the targets decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch.nn.functional as F
from torch import Tensor

from topoloss.errors import InputError

__all__ = ["CLASSIFICATION", "REGRESSION", "Task", "of", "smoothed"]


@dataclass(frozen=True)
class Task:
    """A loss to train on and a score to judge by; both compare outputs with targets.

    Attributes
    ----------
    metric : str
        Name of the score.
    loss : callable
        Mean over the samples.
    score : callable
        Higher is better, and 1 is best.
    """

    metric: str
    loss: Callable[[Tensor, Tensor], Tensor]
    score: Callable[[Tensor, Tensor], float]


def of(targets: Tensor) -> Task:
    """The task of targets: `REGRESSION` for floating-point ones, else `CLASSIFICATION`.

    Examples
    --------
    >>> import torch
    >>> from topoloss.compare import tasks
    >>> tasks.of(torch.tensor([0, 2, 1])).metric
    'accuracy'
    """
    return REGRESSION if targets.is_floating_point() else CLASSIFICATION


def smoothed(task: Task, share: float) -> Task:
    """The task for training, with this share of each label spread over all classes.

    Raises
    ------
    InputError
        For a regression, which has no labels.
    """
    if task is not CLASSIFICATION:
        raise InputError(
            f"label-smoothing={share:g} was given, but targets of a regression are not labels; "
            "leave it out."
        )
    return replace(task, loss=partial(F.cross_entropy, label_smoothing=share))


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return (logits.argmax(1) == labels).double().mean().item()


def _r2(outputs: Tensor, targets: Tensor) -> float:
    """Coefficient of determination, the mean over the columns."""
    outputs, targets = outputs.double(), targets.double()
    total = (targets - targets.mean(0)).square().sum(0)
    if (total == 0).any():
        raise InputError(
            f"one target has the same value for all {len(targets)} samples of a part, so R2 is "
            "not defined; use larger parts, or leave that target out."
        )
    return (1 - (targets - outputs).square().sum(0) / total).mean().item()


CLASSIFICATION = Task("accuracy", F.cross_entropy, _accuracy)
REGRESSION = Task("R2", F.mse_loss, _r2)
