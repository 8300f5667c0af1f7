"""Train one network, stop early, and restore the best weights."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor, nn

from topoloss import components
from topoloss.attaching import attach
from topoloss.attaching.attachment import options_of
from topoloss.compare import tasks
from topoloss.compare.data import Part, Split
from topoloss.compare.neurons import AT_ONCE, measure
from topoloss.compare.records import Epoch, Outcome, Protocol
from topoloss.compare.tasks import Task
from topoloss.errors import NonFiniteError
from topoloss.regularisers import Regulariser

__all__ = ["train"]


def train(
    model: nn.Module,
    split: Split,
    regulariser: str | Regulariser,
    weight: float,
    protocol: Protocol,
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
        Fixes the order of the batches.
    on_epoch : callable, optional
        Called after every epoch.

    Returns
    -------
    Outcome
    """
    made = components.regulariser(regulariser) if isinstance(regulariser, str) else regulariser
    task = tasks.of(split.train.y)
    before = measure(model, split.validation.x, protocol)
    best = _Best(model, protocol)
    number, diverged = 0, False
    start = time.perf_counter()
    with attach(model, made, **_options(made, protocol)) as penalty:
        trainer = _Trainer(model, task, penalty, weight, protocol)
        for number, batches in enumerate(_epochs(split.train, protocol, seed), start=1):
            diverged = not trainer.train(batches)
            if diverged:
                break
            epoch = Epoch(number, *_evaluate(model, split.validation, task))
            on_epoch(epoch)
            best.update(epoch)
            if best.stale > protocol.patience:
                break
    seconds = time.perf_counter() - start
    best.restore()
    return Outcome(
        metric=task.metric,
        test_score=_evaluate(model, split.test, task)[1],
        validation_score=_evaluate(model, split.validation, task)[1],
        epochs=number,
        seconds=seconds,
        diverged=diverged,
        off=0.0,
        train_size=len(split.train.y),
        validation_size=len(split.validation.y),
        test_size=len(split.test.y),
        before=before,
        after=measure(model, split.validation.x, protocol),
    )


def _options(regulariser: Regulariser, protocol: Protocol) -> dict[str, Any]:
    """What a protocol sets of `attach`'s options, as far as the regulariser takes them."""
    names = options_of(regulariser) & {"layers", "fraction", "eval_pass"}
    return {name: getattr(protocol, name) for name in names}


class _Best:
    """The best weights so far, and for how many epochs none were better."""

    def __init__(self, model: nn.Module, protocol: Protocol) -> None:
        self._model = model
        self._monitor = protocol.monitor
        self._merit = -inf
        self._weights = copy.deepcopy(model.state_dict())
        self.stale = 0

    def update(self, epoch: Epoch) -> None:
        loss, score = epoch.validation_loss, epoch.validation_score
        merit = score if self._monitor == "score" else -loss
        self.stale += 1
        if merit > self._merit and isfinite(loss):
            self._merit, self._weights = merit, copy.deepcopy(self._model.state_dict())
            self.stale = 0

    def restore(self) -> None:
        self._model.load_state_dict(self._weights)


class _Trainer:
    """Gradient steps on the loss of the task plus ``weight`` times the penalty."""

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        penalty: Callable[[], Tensor],
        weight: float,
        protocol: Protocol,
    ) -> None:
        self._model = model
        self._task = task
        self._penalty = penalty
        self._weight = weight
        self._optimiser = torch.optim.SGD(
            model.parameters(),
            lr=protocol.learning_rate,
            momentum=protocol.momentum,
            nesterov=protocol.nesterov,
        )
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimiser, lambda step: protocol.decay ** (step // protocol.decay_steps)
        )

    def train(self, batches: Iterable[Part]) -> bool:
        """Train on each batch; False as soon as the loss or an activation is not finite."""
        self._model.train()
        return all(self._step(x, y) for x, y in batches)

    def _step(self, x: Tensor, y: Tensor) -> bool:
        self._optimiser.zero_grad()
        loss = self._task.loss(self._model(x), y)
        try:
            loss = loss + self._weight * self._penalty()
        except NonFiniteError:
            return False
        if not isfinite(loss.item()):
            return False
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        self._schedule.step()
        return True


def _epochs(part: Part, protocol: Protocol, seed: int) -> Iterator[Iterator[Part]]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(protocol.max_epochs):
        order = torch.randperm(len(part.x), generator=generator)
        yield (Part(part.x[i], part.y[i]) for i in torch.split(order, protocol.batch_size))


@torch.no_grad()
def _evaluate(model: nn.Module, part: Part, task: Task) -> tuple[float, float]:
    """Loss and score in evaluation mode."""
    model.eval()
    outputs = torch.cat([model(x) for x in torch.split(part.x, AT_ONCE)])
    return task.loss(outputs, part.y).item(), task.score(outputs, part.y)
