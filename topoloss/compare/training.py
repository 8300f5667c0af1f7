"""One training run by the paper's protocol: early stopping, best weights restored."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from math import isfinite, nan
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from topoloss import components
from topoloss.attaching import attach
from topoloss.compare import tasks
from topoloss.compare.data import Part, Split
from topoloss.compare.degenerate import OffWhenDegenerate
from topoloss.compare.tasks import Task
from topoloss.errors import InputError, NonFiniteError, check_choice
from topoloss.regularisers import Regulariser

__all__ = [
    "DEATH_BINS",
    "PROTOCOLS",
    "Epoch",
    "Neurons",
    "Outcome",
    "Protocol",
    "protocol",
    "train",
]

DEATH_BINS = 50

# Samples that are evaluated at once.
_AT_ONCE = 1024


@dataclass(frozen=True)
class Protocol:
    """How to train; the defaults are the paper's for fully connected networks.

    Attributes
    ----------
    batch_size : int
        The last, partial batch of an epoch is kept.
    max_epochs : int
    patience : int
        Epochs without a strictly lower validation loss that are tolerated.
    learning_rate, momentum, nesterov, decay, decay_steps
        Of stochastic gradient descent, whose rate is
        ``learning_rate * decay ** (step // decay_steps)``.
    fraction : float
        Of the neurons of each layer, by largest mean activation, that the regulariser sees.
    monitor : {"loss", "score"}
        Of the validation part, without the penalty; what early stopping looks at. The
        authors' code takes the loss, their paper says accuracy.
    eval_pass : bool
        Value a separate pass in evaluation mode, as the authors did, not the training pass.
    off_when_degenerate : bool
        Switch the regulariser off in degenerate batches; see
        :class:`topoloss.compare.degenerate.OffWhenDegenerate`.
    divide_twice : bool
        Divide pixels by their range once more, as the authors did.

    References
    ----------
    Ballester, Casacuberta, Escalera, PMLR 228 (2024), section 5, and the authors' code.
    """

    batch_size: int = 256
    max_epochs: int = 1200
    patience: int = 20
    learning_rate: float = 0.01
    momentum: float = 0.9
    nesterov: bool = True
    decay: float = 0.95
    decay_steps: int = 3520
    fraction: float = 1.0
    monitor: str = "loss"
    eval_pass: bool = False
    off_when_degenerate: bool = False
    divide_twice: bool = False

    def __post_init__(self) -> None:
        check_choice("monitor", self.monitor, ("loss", "score"))


# The same experiment with the authors' behaviour, with one of its defects alone, with none of
# them, and with the values of the training pass, which `attach` takes by default.
PROTOCOLS: dict[str, dict[str, Any]] = {
    "faithful": {"eval_pass": True, "off_when_degenerate": True, "divide_twice": True},
    "switch-off": {"eval_pass": True, "off_when_degenerate": True, "divide_twice": False},
    "fixed": {"eval_pass": True, "off_when_degenerate": False, "divide_twice": False},
    "training-forward": {"eval_pass": False, "off_when_degenerate": False, "divide_twice": False},
}


def protocol(name: str, base: Protocol = Protocol()) -> Protocol:
    """Return the protocol of that name, in all else like `base`.

    Examples
    --------
    >>> from topoloss.compare.training import protocol
    >>> protocol("fixed").eval_pass
    True
    """
    check_choice("protocol", name, PROTOCOLS)
    return replace(base, **PROTOCOLS[name])


@dataclass(frozen=True)
class Epoch:
    """What is known after an epoch."""

    number: int
    validation_loss: float
    validation_score: float


@dataclass(frozen=True)
class Neurons:
    """How alike the neurons are that the regulariser sees, in evaluation mode.

    On the first 1024 samples of the validation part.

    Attributes
    ----------
    deaths : tuple of int
        Counts of the deaths in dimension 0 in 50 equal bins of [0, 1].
    lowest, median, highest : float
        Of the deaths.
    correlation : float
        Mean absolute correlation over all pairs.
    constant : int
        Neurons that do not vary, as dead ones. Their correlation counts as 0.
    """

    deaths: tuple[int, ...]
    lowest: float
    median: float
    highest: float
    correlation: float
    constant: int

    @property
    def varying_correlation(self) -> float:
        """Mean absolute correlation over the pairs of neurons that vary; NaN without a pair."""
        n = 1 + sum(self.deaths)
        varying = n - self.constant
        pairs = varying * (varying - 1)
        return self.correlation * n * (n - 1) / pairs if pairs else nan

    @property
    def varying_median(self) -> float:
        """Median death but for those of constant neurons, to the middle of a bin; NaN if none."""
        counts = [*self.deaths[:-1], self.deaths[-1] - self.constant]
        half = sum(counts) / 2
        middle = next((k for k, n in enumerate(accumulate(counts)) if n >= half > 0), nan)
        return (middle + 0.5) / DEATH_BINS


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes
    ----------
    metric : str
        Name of the score: accuracy or, for a regression, R2.
    test_score, validation_score : float
        Of the weights that early stopping restored.
    epochs : int
        Epochs trained.
    seconds : float
        Wall-clock time of the training loop.
    diverged : bool
        The loss or an activation became infinite or NaN, which ended the run.
    off : float
        Fraction of the batches in which the regulariser was switched off.
    train_size, validation_size, test_size : int
    before, after : Neurons
        Before training, and with the restored weights.
    """

    metric: str
    test_score: float
    validation_score: float
    epochs: int
    seconds: float
    diverged: bool
    off: float
    train_size: int
    validation_size: int
    test_size: int
    before: Neurons
    after: Neurons


def train(
    model: nn.Module,
    split: Split,
    regulariser: str | Regulariser,
    weight: float,
    protocol: Protocol = Protocol(),
    *,
    seed: int = 0,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> Outcome:
    """Train a network on the loss of its task plus ``weight`` times a regulariser.

    Parameters
    ----------
    model : Module
        From inputs to class logits or predictions; trained in place.
    split : Split
        On the device of the model.
    regulariser : str or Regulariser
    weight : float
    protocol : Protocol
    seed : int
        Of the order of the batches.
    on_epoch : callable, optional
        Called after every epoch.

    Returns
    -------
    Outcome
    """
    task = tasks.of(split.train.y)
    before = _neurons(model, split.validation, protocol.fraction)
    made, switch = _switched(regulariser, protocol)
    optimiser = torch.optim.SGD(
        model.parameters(),
        lr=protocol.learning_rate,
        momentum=protocol.momentum,
        nesterov=protocol.nesterov,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: protocol.decay ** (step // protocol.decay_steps)
    )
    best_merit, best = float("-inf"), copy.deepcopy(model.state_dict())
    number = stale = 0
    diverged = False
    start = time.perf_counter()
    with attach(model, made, eval_pass=protocol.eval_pass, fraction=protocol.fraction) as penalty:
        for batches in _epochs(split.train, protocol, seed):
            number += 1
            model.train()
            diverged = not _train_epoch(model, batches, task, penalty, weight, optimiser, schedule)
            if diverged:
                break
            loss, score = _evaluate(model, split.validation, task)
            on_epoch(Epoch(number, loss, score))
            stale += 1
            merit = score if protocol.monitor == "score" else -loss
            if merit > best_merit and isfinite(loss):
                best_merit, best, stale = merit, copy.deepcopy(model.state_dict()), 0
            if stale > protocol.patience:
                break
    seconds = time.perf_counter() - start
    model.load_state_dict(best)
    return Outcome(
        metric=task.metric,
        test_score=_evaluate(model, split.test, task)[1],
        validation_score=_evaluate(model, split.validation, task)[1],
        epochs=number,
        seconds=seconds,
        diverged=diverged,
        off=switch.off / switch.batches if switch is not None and switch.batches else 0.0,
        train_size=len(split.train.y),
        validation_size=len(split.validation.y),
        test_size=len(split.test.y),
        before=before,
        after=_neurons(model, split.validation, protocol.fraction),
    )


def _switched(
    regulariser: str | Regulariser, protocol: Protocol
) -> tuple[Regulariser, OffWhenDegenerate | None]:
    made = components.regulariser(regulariser) if isinstance(regulariser, str) else regulariser
    if protocol.off_when_degenerate and made.source == "activations":
        switch = OffWhenDegenerate(made)
        return switch, switch
    return made, None


def _epochs(part: Part, protocol: Protocol, seed: int) -> Iterator[Iterator[Part]]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(protocol.max_epochs):
        order = torch.randperm(len(part.x), generator=generator)
        yield (Part(part.x[i], part.y[i]) for i in torch.split(order, protocol.batch_size))


def _train_epoch(
    model: nn.Module,
    batches: Iterator[Part],
    task: Task,
    penalty: Callable[[], Tensor],
    weight: float,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> bool:
    """Train on each batch; False as soon as the loss or an activation is not finite."""
    for x, y in batches:
        optimiser.zero_grad()
        loss = task.loss(model(x), y)
        try:
            loss = loss + weight * penalty()
        except NonFiniteError:
            return False
        if not isfinite(loss.item()):
            return False
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return True


@torch.no_grad()
def _evaluate(model: nn.Module, part: Part, task: Task) -> tuple[float, float]:
    """Loss and score in evaluation mode."""
    model.eval()
    outputs = torch.cat([model(x) for x in torch.split(part.x, _AT_ONCE)])
    return task.loss(outputs, part.y).item(), task.score(outputs, part.y)


@torch.no_grad()
def _neurons(model: nn.Module, part: Part, fraction: float) -> Neurons:
    model.eval()
    x = part.x[:_AT_ONCE]
    with attach(model, "t1", fraction=fraction) as penalty:
        model(x)
        deaths: Float[Tensor, " deaths"] = penalty.diagrams()[0].deaths
    if not len(deaths):
        raise InputError("the network has one neuron, which has no other to be compared with.")
    with attach(model, "naive", fraction=fraction) as penalty:
        model(x)
        correlation = penalty().item()
    return Neurons(
        deaths=tuple(int(n) for n in deaths.float().histc(DEATH_BINS, 0, 1)),
        lowest=deaths.min().item(),
        median=deaths.median().item(),
        highest=deaths.max().item(),
        correlation=correlation,
        # A constant neuron has distance 1, exactly, to every other.
        constant=int((deaths == 1).sum()),
    )
