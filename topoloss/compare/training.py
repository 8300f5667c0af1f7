"""One training run by the paper's protocol: early stopping, best weights restored."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isfinite

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from topoloss import registry
from topoloss.attachment import attach
from topoloss.compare.data import Part, Split
from topoloss.compare.degenerate import OffWhenDegenerate
from topoloss.errors import NonFiniteError, check_choice
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
    learning_rate, momentum, decay, decay_steps
        Nesterov momentum; the rate is ``learning_rate * decay ** (step // decay_steps)``.
    monitor : {"loss", "accuracy"}
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
    decay: float = 0.95
    decay_steps: int = 3520
    monitor: str = "loss"
    eval_pass: bool = False
    off_when_degenerate: bool = False
    divide_twice: bool = False

    def __post_init__(self) -> None:
        check_choice("monitor", self.monitor, ("loss", "accuracy"))


# The same experiment with the authors' behaviour, with its defects mended, and with the
# values of the training pass, which `attach` takes by default.
PROTOCOLS = {
    "faithful": Protocol(eval_pass=True, off_when_degenerate=True, divide_twice=True),
    "fixed": Protocol(eval_pass=True),
    "training-forward": Protocol(),
}


def protocol(name: str) -> Protocol:
    """Return the protocol of that name.

    Examples
    --------
    >>> from topoloss.compare.training import protocol
    >>> protocol("fixed").eval_pass
    True
    """
    check_choice("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]


@dataclass(frozen=True)
class Epoch:
    """What is known after an epoch."""

    number: int
    validation_loss: float
    validation_accuracy: float


@dataclass(frozen=True)
class Neurons:
    """How alike the neurons are, on the validation part, in evaluation mode.

    Attributes
    ----------
    deaths : tuple of int
        Counts of the deaths in dimension 0, of all neurons, in 50 equal bins of [0, 1].
    lowest, median, highest : float
        Of the deaths.
    correlation : float
        Mean absolute correlation over all pairs.
    """

    deaths: tuple[int, ...]
    lowest: float
    median: float
    highest: float
    correlation: float


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes
    ----------
    test_accuracy, validation_accuracy : float
        Of the weights that early stopping restored.
    epochs : int
        Epochs trained.
    seconds : float
        Wall-clock time of the training loop.
    diverged : bool
        The loss or an activation became infinite or NaN, which ended the run.
    off : float
        Fraction of the batches in which the regulariser was switched off.
    train_size, test_size : int
    before, after : Neurons
        Before training, and with the restored weights.
    """

    test_accuracy: float
    validation_accuracy: float
    epochs: int
    seconds: float
    diverged: bool
    off: float
    train_size: int
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
    """Train a classifier on cross-entropy plus ``weight`` times a regulariser.

    Parameters
    ----------
    model : Module
        From inputs to class logits; trained in place.
    split : Split
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
    before = _neurons(model, split.validation)
    made, switch = _switched(regulariser, protocol)
    optimiser = torch.optim.SGD(
        model.parameters(), lr=protocol.learning_rate, momentum=protocol.momentum, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: protocol.decay ** (step // protocol.decay_steps)
    )
    best_merit, best = float("-inf"), copy.deepcopy(model.state_dict())
    number = stale = 0
    diverged = False
    start = time.perf_counter()
    with attach(model, made, eval_pass=protocol.eval_pass) as penalty:
        for batches in _epochs(split.train, protocol, seed):
            number += 1
            model.train()
            diverged = not _train_epoch(model, batches, penalty, weight, optimiser, schedule)
            if diverged:
                break
            loss, accuracy = _evaluate(model, split.validation)
            on_epoch(Epoch(number, loss, accuracy))
            stale += 1
            merit = accuracy if protocol.monitor == "accuracy" else -loss
            if merit > best_merit:
                best_merit, best, stale = merit, copy.deepcopy(model.state_dict()), 0
            if stale > protocol.patience:
                break
    seconds = time.perf_counter() - start
    model.load_state_dict(best)
    return Outcome(
        test_accuracy=_evaluate(model, split.test)[1],
        validation_accuracy=_evaluate(model, split.validation)[1],
        epochs=number,
        seconds=seconds,
        diverged=diverged,
        off=switch.off / switch.batches if switch is not None and switch.batches else 0.0,
        train_size=len(split.train.y),
        test_size=len(split.test.y),
        before=before,
        after=_neurons(model, split.validation),
    )


def _switched(
    regulariser: str | Regulariser, protocol: Protocol
) -> tuple[Regulariser, OffWhenDegenerate | None]:
    made = registry.regulariser(regulariser) if isinstance(regulariser, str) else regulariser
    if protocol.off_when_degenerate and made.observes == "activations":
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
    penalty: Callable[[], Tensor],
    weight: float,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> bool:
    """Train on each batch; False as soon as the loss or an activation is not finite."""
    for x, y in batches:
        optimiser.zero_grad()
        loss = F.cross_entropy(model(x), y)
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
def _evaluate(model: nn.Module, part: Part) -> tuple[float, float]:
    """Mean cross-entropy and accuracy in evaluation mode."""
    model.eval()
    logits = torch.cat([model(x) for x in torch.split(part.x, 4096)])
    accuracy = (logits.argmax(1) == part.y).double().mean()
    return F.cross_entropy(logits, part.y).item(), accuracy.item()


@torch.no_grad()
def _neurons(model: nn.Module, part: Part) -> Neurons:
    model.eval()
    x = part.x[:4096]
    with attach(model, "t1") as penalty:
        model(x)
        deaths: Float[Tensor, " deaths"] = penalty.diagrams()[0].deaths
    with attach(model, "naive") as penalty:
        model(x)
        correlation = penalty().item()
    return Neurons(
        deaths=tuple(int(n) for n in deaths.float().histc(DEATH_BINS, 0, 1)),
        lowest=deaths.min().item(),
        median=deaths.median().item(),
        highest=deaths.max().item(),
        correlation=correlation,
    )
