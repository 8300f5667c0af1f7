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

from topoloss.attachment import attach
from topoloss.compare.data import Part, Split
from topoloss.errors import NonFiniteError
from topoloss.regularisers import Regulariser

__all__ = ["Epoch", "Outcome", "Protocol", "train"]


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
    eval_pass : bool
        Value a separate pass in evaluation mode, as the authors did, not the training pass.

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
    eval_pass: bool = False


@dataclass(frozen=True)
class Epoch:
    """What is known after an epoch."""

    number: int
    validation_loss: float
    validation_accuracy: float


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes
    ----------
    test_accuracy, validation_accuracy : float
        Of the weights with the lowest validation loss.
    epochs : int
        Epochs trained.
    seconds : float
        Wall-clock time of the training loop.
    diverged : bool
        Whether training stopped because a loss or an activation was no longer finite.
    deaths_before, deaths_after : list of float
        Deaths of the correlation dissimilarity on the validation part, over all neurons,
        in evaluation mode.
    """

    test_accuracy: float
    validation_accuracy: float
    epochs: int
    seconds: float
    diverged: bool
    deaths_before: list[float]
    deaths_after: list[float]


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
    deaths_before = _deaths(model, split.validation)
    optimiser = torch.optim.SGD(
        model.parameters(), lr=protocol.learning_rate, momentum=protocol.momentum, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: protocol.decay ** (step // protocol.decay_steps)
    )
    best_loss, best = float("inf"), copy.deepcopy(model.state_dict())
    number = stale = 0
    diverged = False
    start = time.perf_counter()
    with attach(model, regulariser, eval_pass=protocol.eval_pass) as penalty:
        for batches in _epochs(split.train, protocol, seed):
            number += 1
            model.train()
            diverged = not _train_epoch(model, batches, penalty, weight, optimiser, schedule)
            if diverged:
                break
            loss, accuracy = _evaluate(model, split.validation)
            on_epoch(Epoch(number, loss, accuracy))
            stale += 1
            if loss < best_loss:
                best_loss, best, stale = loss, copy.deepcopy(model.state_dict()), 0
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
        deaths_before=deaths_before,
        deaths_after=_deaths(model, split.validation),
    )


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
def _deaths(model: nn.Module, part: Part) -> list[float]:
    model.eval()
    with attach(model, "t1") as penalty:
        model(part.x[:4096])
        deaths: Float[Tensor, " deaths"] = penalty.diagrams()[0].deaths
    return [float(d) for d in deaths]
