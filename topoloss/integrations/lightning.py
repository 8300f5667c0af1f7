"""A penalty in PyTorch Lightning, as a callback."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from inspect import signature
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from topoloss.attaching import Attachment, attach
from topoloss.errors import AttachmentError, OptionError, check_number
from topoloss.extras import needs_extra
from topoloss.integrations.tensorboard import log
from topoloss.regularisers import Regulariser

__all__ = ["PenaltyCallback"]

# Two packages contain the same code, each with its own classes.
_PACKAGES = ("lightning.pytorch", "pytorch_lightning")
# Options that may differ when a run is resumed: the state does not depend on them.
_NOT_IN_STATE = frozenset({"max_neurons", "on_small_batch"})


def _flavours() -> list[Any]:
    """The packages that are imported already; otherwise the first that is installed."""
    loaded = [sys.modules[name] for name in _PACKAGES if name in sys.modules]
    if loaded:
        return loaded
    try:
        return [importlib.import_module(_PACKAGES[0])]
    except ModuleNotFoundError:
        with needs_extra("lightning"):
            return [importlib.import_module(_PACKAGES[1])]


if TYPE_CHECKING:
    from pytorch_lightning import Callback as _Callback
else:
    _Callback = type("_Callback", tuple(flavour.Callback for flavour in _flavours()), {})


class PenaltyCallback(_Callback):
    """Add a weighted penalty to the loss that ``training_step`` returns.

    Parameters
    ----------
    regulariser : str or Regulariser
        As for :func:`topoloss.attach`.
    weight : float
        What the penalty is multiplied by.
    module : str, optional
        The submodule that ``training_step`` calls, such as ``"net"``. By default the
        LightningModule itself if it has a ``forward`` of its own, otherwise its only child that
        has parameters.
    **options
        Options of :func:`topoloss.attach`.

    Attributes
    ----------
    penalty : Attachment or None
        The attachment while ``fit`` runs, otherwise None.

    Notes
    -----
    The penalty is added to the loss of each micro-batch, before Lightning divides it by the number
    of micro-batches and scales it for mixed precision. The model is observed from the start of
    ``fit`` to its end or failure, except in validation. Checkpoints hold the state of the penalty.

    Every ``log_every_n_steps`` steps the trainer's loggers get the numbers of
    :meth:`topoloss.Attachment.metrics`; TensorBoard's logger also gets a histogram of deaths.
    """

    def __init__(
        self,
        regulariser: str | Regulariser,
        weight: float,
        *,
        module: str | None = None,
        **options: Any,
    ) -> None:
        check_number("weight", weight)
        self.penalty: Attachment | None = None
        self._regulariser = regulariser
        self._weight = weight
        self._module = module
        self._options = options
        self._state: dict[str, Any] = {}
        self._loss: Tensor | None = None
        self._logged = 0

    @property
    def state_key(self) -> str:
        """The name of its state in checkpoints, different for each penalty of one trainer."""
        defaults = signature(attach).parameters
        options = {
            name: _stable(option)
            for name, option in sorted(self._options.items())
            if name not in _NOT_IN_STATE
            and (name not in defaults or option != defaults[name].default)
        }
        return self._generate_state_key(
            regulariser=self._regulariser, module=self._module, **options
        )

    # From the start of fit to its end

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        if not pl_module.automatic_optimization:
            raise AttachmentError(
                f"{type(pl_module).__name__} uses manual optimisation "
                "(automatic_optimization=False), so no callback can add to its loss; call "
                "topoloss.attach in it, and add the penalty in training_step."
            )
        self.penalty = attach(self._observed(pl_module), self._regulariser, **self._options)
        self._logged = trainer.global_step
        _Step.of(trainer.strategy).callbacks.append(self)
        # Last, as it may raise: on_exception then undoes the steps before.
        if self._state:
            self.penalty.load_state_dict(self._state)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self._detach(trainer)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._detach(trainer)

    def _detach(self, trainer: Any) -> None:
        if self.penalty is not None:
            self._state = self.penalty.state_dict()
            self.penalty.remove()
            self.penalty = None
            _Step.of(trainer.strategy).leave(self)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self._pause(True)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self._pause(False)

    def _pause(self, paused: bool) -> None:
        if self.penalty is not None:
            self.penalty.paused = paused

    # A step

    def add_to(self, output: Any) -> Any:
        """Return what ``training_step`` returned, with the weighted penalty in its loss."""
        if self.penalty is None or output is None:
            return output
        if isinstance(output, Mapping):
            return {**output, "loss": self._sum(output["loss"])}
        return self._sum(output)

    def _sum(self, loss: Tensor) -> Tensor:
        assert self.penalty is not None
        try:
            total = loss + self._weight * self.penalty()
        except AttachmentError as error:
            if self._module is None:
                error.add_note(
                    f"{type(self).__name__} observes {type(self.penalty.model).__name__}; if "
                    "training_step calls another module, name it: module='net'."
                )
            raise
        self._loss = total.detach()
        return total

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        # With accumulation, several batches make one step.
        due = step != self._logged and step % trainer.log_every_n_steps == 0
        if due and self.penalty is not None and self._loss is not None:
            self._logged = step
            self._log(trainer, step)

    def _log(self, trainer: Any, step: int) -> None:
        assert self.penalty is not None
        numbers = self.penalty.metrics(self._loss, self._weight)
        for logger in trainer.loggers:
            if hasattr(logger.experiment, "add_histogram"):
                log(logger.experiment, self.penalty, step, self._loss, self._weight)
            else:
                named = {f"topoloss/{name}": number for name, number in numbers.items()}
                logger.log_metrics(named, step)

    # Checkpoints

    def state_dict(self) -> dict[str, Any]:
        """The state of the penalty."""
        return self._state if self.penalty is None else self.penalty.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what ``state_dict()`` returned; some strategies do that after ``on_fit_start``."""
        self._state = state_dict
        if self.penalty is not None:
            self.penalty.load_state_dict(state_dict)

    # Which module

    def _observed(self, pl_module: nn.Module) -> nn.Module:
        name = type(pl_module).__name__
        children = {
            name: child
            for name, child in pl_module.named_children()
            if next(child.parameters(), None) is not None
        }
        if self._module is not None:
            modules: dict[str, nn.Module] = dict(pl_module.named_modules())
            if self._module not in modules:
                raise OptionError(
                    f"module={self._module!r} is not a module of {name}, whose children are "
                    f"{list(children)}."
                )
            return modules[self._module]
        if all(type(pl_module).forward is not each.LightningModule.forward for each in _flavours()):
            return pl_module
        if len(children) != 1:
            raise OptionError(
                f"{name} has no forward of its own, and {len(children)} children with parameters, "
                f"{list(children)}; say with module= which one training_step calls."
            )
        (child,) = children.values()
        return child


def _stable(option: Any) -> Any:
    """A form of an option that is the same in the process that loads the checkpoint.

    The ``repr`` of a function contains its address, and a set of names has no fixed order.
    """
    if isinstance(option, (list, tuple)):
        return [_stable(each) for each in option]
    if isinstance(option, (set, frozenset)):
        return sorted(str(_stable(each)) for each in option)
    if option is None or isinstance(option, (str, bool, int, float)):
        return option
    return getattr(option, "__qualname__", type(option).__qualname__)


class _Step:
    """Replaces the ``training_step`` of a strategy: calls it, and adds the penalties to its loss.

    A strategy that wraps the model, as DDP does, calls the model's own ``training_step`` inside a
    forward pass. That pass is over only when the strategy's ``training_step`` returns.
    """

    def __init__(self, strategy: Any) -> None:
        self.callbacks: list[PenaltyCallback] = []
        self._strategy = strategy
        self._step = strategy.training_step

    @classmethod
    def of(cls, strategy: Any) -> _Step:
        """Return the replacement of a strategy's ``training_step``; make it if there is none."""
        if not isinstance(strategy.training_step, cls):
            strategy.training_step = cls(strategy)
        step: _Step = strategy.training_step
        return step

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        output = self._step(*args, **kwargs)
        for callback in self.callbacks:
            output = callback.add_to(output)
        return output

    def leave(self, callback: PenaltyCallback) -> None:
        """Remove a callback; after the last one, restore the strategy's own ``training_step``."""
        self.callbacks.remove(callback)
        if not self.callbacks:
            del self._strategy.training_step
