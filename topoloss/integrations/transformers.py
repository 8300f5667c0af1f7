"""A penalty in the Trainer of Hugging Face's transformers."""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from topoloss import components
from topoloss.attaching import Attachment, attach
from topoloss.attaching.attachment import options_of
from topoloss.errors import AttachmentError, check_number
from topoloss.extras import needs_extra
from topoloss.regularisers import Regulariser

with needs_extra("transformers"):
    from transformers import Trainer, TrainerCallback
    from transformers.trainer_utils import get_last_checkpoint

__all__ = ["PenaltyMixin", "PenaltyTrainer"]

# In the folder of a checkpoint.
_FILE = "topoloss.pt"

if TYPE_CHECKING:
    _Base = Trainer
else:
    _Base = object


class PenaltyMixin(_Base):
    """Add a weighted penalty to the loss of a Trainer: ``class Mine(PenaltyMixin, Trainer)``.

    Parameters
    ----------
    *args, **kwargs
        Arguments of the Trainer.
    penalty : str or Regulariser
        As for :func:`topoloss.attach`.
    penalty_weight : float
        What the penalty is multiplied by.
    penalty_options : dict, optional
        Options of :func:`topoloss.attach`. By default batches of fewer than two samples are
        skipped; and if the model takes an ``attention_mask``, each token that the mask keeps is
        a sample, each channel a neuron, and each layer has a diagram of its own:
        ``units="channel", mask="attention_mask", per="layer"``.

    Attributes
    ----------
    attachment : Attachment or None
        The attachment during ``train``, from the first step on; otherwise None.

    Notes
    -----
    A step of the optimiser uses the mean of the penalties of its micro-batches, even where the
    model's loss is a sum over ``num_items_in_batch``. With several processes, each values its own
    batches.

    The penalty is attached at the first step, which is not compiled, to the model inside DDP or
    ``torch.compile``, which may be one of PEFT; it is removed at the end. The model is not observed
    in evaluation. Checkpoints hold the state of the penalty. Whenever the Trainer logs the loss, it
    also logs the numbers of :meth:`topoloss.Attachment.metrics`, as ``topoloss_value`` and so on.
    """

    def __init__(
        self,
        *args: Any,
        penalty: str | Regulariser,
        penalty_weight: float,
        penalty_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        check_number("penalty_weight", penalty_weight)
        super().__init__(*args, **kwargs)
        self.attachment: Attachment | None = None
        self._regulariser = penalty
        self._weight = penalty_weight
        self._options = penalty_options or {}
        self._resumed: str | None = None
        # The latest loss, and what its penalty was multiplied by.
        self._latest: tuple[Tensor | None, float] = (None, 0.0)
        self.add_callback(_Saving(self))

    def train(
        self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        resumed = resume_from_checkpoint
        if resumed is True:
            resumed = get_last_checkpoint(self.args.output_dir)  # type: ignore[no-untyped-call]
        self._resumed = resumed or None
        try:
            return super().train(resume_from_checkpoint, *args, **kwargs)
        finally:
            if self.attachment is not None:
                self.attachment.remove()
                self.attachment = None

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        first = self.attachment is None
        if self.attachment is None:
            self.attachment = self._attached(model)
        # The first pass shows which activation follows each layer, if it is not compiled.
        with torch.compiler.set_stance("force_eager") if first else nullcontext():
            loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        weight = self._weight / self._micro_batches(num_items_in_batch)
        loss = loss + weight * self.attachment().to(loss.device)
        self._latest = loss.detach(), weight
        return (loss, outputs) if return_outputs else loss

    def _micro_batches(self, num_items_in_batch: Tensor | int | None) -> int:
        """The number of micro-batches to divide the penalty by; 1 if the Trainer divides it."""
        scaled = getattr(self, "loss_is_scaled_for_ga", None)
        if scaled is None:
            accepted = self.model_accepts_loss_kwargs and num_items_in_batch is not None
            scaled = accepted or self.compute_loss_func is not None
        return int(self.current_gradient_accumulation_steps) if scaled else 1

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        if self.attachment is None:
            return super().evaluation_loop(*args, **kwargs)
        self.attachment.paused = True
        try:
            return super().evaluation_loop(*args, **kwargs)
        finally:
            self.attachment.paused = False

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        loss, weight = self._latest
        if self.attachment is not None and loss is not None and "loss" in logs:
            numbers = self.attachment.metrics(loss, weight)
            logs |= {f"topoloss_{name}": number for name, number in numbers.items()}
        super().log(logs, *args, **kwargs)

    def _attached(self, model: nn.Module) -> Attachment:
        unwrapped = self.accelerator.unwrap_model(model, keep_torch_compile=False)
        made = self._regulariser
        if isinstance(made, str):
            made = components.regulariser(made)
        options = _defaults(unwrapped, made) | self._options
        attachment = attach(unwrapped, made, **options)
        if self._resumed is not None:
            attachment.load_state_dict(_read(Path(self._resumed) / _FILE))
        return attachment


class PenaltyTrainer(PenaltyMixin, Trainer):
    """A Trainer that adds a weighted penalty to the loss.

    Parameters
    ----------
    *args, **kwargs
        As for :class:`PenaltyMixin`.

    Examples
    --------
    ::

        trainer = PenaltyTrainer(model, args, train_dataset=data, penalty="t1", penalty_weight=1e-3)
        trainer.train()
    """


class _Saving(TrainerCallback):
    """Puts the state of the penalty into each checkpoint."""

    def __init__(self, trainer: PenaltyMixin) -> None:
        self._trainer = trainer

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        attachment = self._trainer.attachment
        # A hyperparameter search has folders of its own, and does not resume.
        if attachment is not None and args.should_save and folder.is_dir():
            torch.save(attachment.state_dict(), folder / _FILE)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise AttachmentError(
            f"the checkpoint {path.parent} holds no {path.name}, the state of the penalty; it was "
            "saved by a Trainer without one. Train from its weights instead: load the model from "
            "it, and do not pass resume_from_checkpoint."
        )
    state: dict[str, Any] = torch.load(path)
    return state


def _defaults(model: nn.Module, regulariser: Regulariser) -> dict[str, Any]:
    """Options that fit the model, without those that make no difference to the regulariser."""
    options: dict[str, Any] = {"on_small_batch": "skip"}
    adapted = getattr(model, "get_base_model", lambda: model)()
    if "attention_mask" in inspect.signature(adapted.forward).parameters:
        options |= {"units": "channel", "mask": "attention_mask"}
        if type(regulariser).of_layers is Regulariser.of_layers:
            options["per"] = "layer"
    return {name: value for name, value in options.items() if name in options_of(regulariser)}
