"""Train one network, stop early, and restore the best weights."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from math import ceil, inf, isfinite

import torch
from torch import Tensor, nn

from topoloss import components
from topoloss.attaching import attach
from topoloss.attaching.attachment import Attachment, options_of
from topoloss.compare import measures, tasks
from topoloss.compare.data import Part, Split
from topoloss.compare.neurons import AT_ONCE, measure
from topoloss.compare.records import Epoch, Outcome, Protocol
from topoloss.compare.tasks import Task
from topoloss.compare.treatments import NO_TREATMENT, Treatment, attached, noisy
from topoloss.compare.watching import Watch
from topoloss.errors import NonFiniteError
from topoloss.regularisers import Regulariser

__all__ = ["train"]


def train(
    model: nn.Module,
    split: Split,
    penalties: Sequence[tuple[str | Regulariser, float]],
    protocol: Protocol,
    *,
    treatment: Treatment = NO_TREATMENT,
    seed: int = 0,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    watch: Watch | None = None,
) -> Outcome:
    """Train a network on the loss of its task plus weighted regularisers.

    Parameters
    ----------
    model : Module
        Maps inputs to class logits or predictions; trained in place.
    split : Split
        Data on the device of the model.
    penalties : sequence of (str or Regulariser, float)
        Regularisers, and their weights.
    protocol : Protocol
    treatment : Treatment
        What else the arm changes in training; its layers must be in the model already.
    seed : int
        Fixes the order of the batches, and the noise of a treatment.
    on_epoch : callable, optional
        Called after every epoch.
    watch : callable, optional
        Called before training and after every epoch with the epoch, the model in evaluation
        mode, and the inputs of the validation part.

    Returns
    -------
    Outcome
    """
    cpu_start = time.process_time()
    task = tasks.of(split.train.y)
    smoothing = treatment.label_smoothing
    training_task = tasks.smoothed(task, smoothing) if smoothing else task
    inputs = split.validation.x
    before = measure(model, inputs, protocol)
    best = _Best(model, protocol)
    number, diverged = 0, False
    start = time.perf_counter()
    with ExitStack() as until_the_end:
        weighted: list[tuple[Callable[[], Tensor], float]] = [
            (until_the_end.enter_context(_attach(model, regulariser, split, protocol)), weight)
            for regulariser, weight in penalties
        ]
        others = attached(model, treatment)
        for other in others:
            until_the_end.callback(other.remove)
            weighted.append((other, 1.0))
        if watch is not None:
            watch(Epoch(0, *_evaluate(model, split.validation, task), True), model, inputs)
        trainer = _Trainer(model, training_task, weighted, protocol, treatment, seed)
        for number, batches in enumerate(_epochs(split.train, protocol, seed), start=1):
            diverged = not trainer.train(batches)
            if diverged:
                break
            for other in others:
                getattr(other, "step", lambda: None)()
            epoch = Epoch(number, *_evaluate(model, split.validation, task))
            if number > protocol.warmup:
                epoch = best.update(epoch)
            on_epoch(epoch)
            if watch is not None:
                watch(epoch, model, inputs)
            if best.stale > protocol.patience:
                break
    seconds = time.perf_counter() - start
    best.restore()
    outcome = Outcome(
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
        after=measure(model, inputs, protocol),
        step_seconds=trainer.seconds / trainer.steps,
        measures=measures.measure(model, split, task, protocol, seed),
    )
    return replace(outcome, cpu_seconds=time.process_time() - cpu_start)


def _attach(
    model: nn.Module, regulariser: str | Regulariser, split: Split, protocol: Protocol
) -> Attachment:
    """Attach a regulariser, with those options of the protocol that it takes."""
    made = components.regulariser(regulariser) if isinstance(regulariser, str) else regulariser
    names = options_of(made) & {"layers", "fraction", "eval_pass"}
    options = {name: getattr(protocol, name) for name in names}
    steps_of_epoch = ceil(len(split.train.y) / protocol.batch_size)
    return attach(model, made, warmup=protocol.warmup * steps_of_epoch, **options)


class _Best:
    """The best weights so far, and the number of epochs without better ones."""

    def __init__(self, model: nn.Module, protocol: Protocol) -> None:
        self._model = model
        self._monitor = protocol.monitor
        self._merit = -inf
        self._weights = copy.deepcopy(model.state_dict())
        self.stale = 0

    def update(self, epoch: Epoch) -> Epoch:
        """Compare an epoch with the best so far, and return it with ``best`` set."""
        loss, score = epoch.validation_loss, epoch.validation_score
        merit = score if self._monitor == "score" else -loss
        self.stale += 1
        better = merit > self._merit and isfinite(loss)
        if better:
            self._merit, self._weights = merit, copy.deepcopy(self._model.state_dict())
            self.stale = 0
        return replace(epoch, best=better)

    def restore(self) -> None:
        self._model.load_state_dict(self._weights)


class _Trainer:
    """Gradient steps on the loss of the task plus the weighted penalties.

    Attributes
    ----------
    seconds : float
        Wall-clock time of all steps.
    steps : int
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        penalties: Sequence[tuple[Callable[[], Tensor], float]],
        protocol: Protocol,
        treatment: Treatment,
        seed: int,
    ) -> None:
        self._model = model
        self._task = task
        self._penalties = penalties
        self._noise = treatment.input_noise
        # Not the seed itself, from which the order of the batches is drawn.
        self._draws = torch.Generator().manual_seed(seed + 2**32)
        self._optimiser = _optimiser(model, protocol, treatment.weight_decay)
        self.seconds, self.steps = 0.0, 0
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimiser, lambda step: protocol.decay ** (step // protocol.decay_steps)
        )

    def train(self, batches: Iterable[Part]) -> bool:
        """Train on each batch; stop and return False if the loss or an activation is not finite."""
        self._model.train()
        start = time.perf_counter()
        finite = all(self._step(x, y) for x, y in batches)
        self.seconds += time.perf_counter() - start
        return finite

    def _step(self, x: Tensor, y: Tensor) -> bool:
        self._optimiser.zero_grad()
        self.steps += 1
        loss = self._task.loss(self._model(noisy(x, self._noise, self._draws)), y)
        try:
            for penalty, weight in self._penalties:
                loss = loss + weight * penalty()
        except NonFiniteError:
            return False
        if not isfinite(loss.item()):
            return False
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        self._schedule.step()
        return True


def _optimiser(model: nn.Module, protocol: Protocol, decay: float) -> torch.optim.Optimizer:
    if protocol.optimiser == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=protocol.learning_rate, weight_decay=decay)
    return torch.optim.SGD(
        model.parameters(),
        lr=protocol.learning_rate,
        momentum=protocol.momentum,
        nesterov=protocol.nesterov,
        weight_decay=decay,
    )


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
