"""A penalty in a training loop that uses Hugging Face's accelerate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

import topoloss
from topoloss.attaching import Attachment
from topoloss.errors import OptionError, check_flag
from topoloss.regularisers import Regulariser

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["attach"]


def attach(
    accelerator: Accelerator,
    model: nn.Module,
    regulariser: str | Regulariser = "t1",
    *,
    global_batch: bool = False,
    **options: Any,
) -> Attachment:
    """Attach a regulariser to a model, before or after ``accelerator.prepare``.

    Parameters
    ----------
    accelerator : Accelerator
    model : Module
        As it is, or as ``prepare`` returned it: wrappers of DDP, FSDP or ``torch.compile`` are
        taken off.
    regulariser : str or Regulariser
        As for :func:`topoloss.attach`.
    global_batch : bool
        Value the batches of all processes together, instead of each process its own batch.
    **options
        Options of :func:`topoloss.attach`.

    Returns
    -------
    Attachment
        Add its value to the loss before ``accelerator.backward(loss)``, which divides the sum by
        the number of micro-batches and scales it for mixed precision.

    Raises
    ------
    OptionError
        If both `global_batch` and ``group=`` are given, or where :func:`topoloss.attach` raises it.

    Notes
    -----
    The attachment is registered for checkpointing: ``accelerator.save_state()`` saves its state
    and ``load_state()`` loads it.
    """
    check_flag("global_batch", global_batch)
    if global_batch and options.get("group") is not None:
        raise OptionError(
            "global_batch=True and group= were given; expected one of them: global_batch=True "
            "values the batches of all processes together, group= those of the group's processes."
        )
    if global_batch and accelerator.num_processes > 1:
        options["group"] = torch.distributed.group.WORLD
    unwrapped = accelerator.unwrap_model(model, keep_torch_compile=False)
    penalty = topoloss.attach(unwrapped, regulariser, **options)
    accelerator.register_for_checkpointing(penalty)
    return penalty
