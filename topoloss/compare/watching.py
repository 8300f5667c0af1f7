"""Let a recorder see a network while it is trained."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor, nn

from topoloss.attaching import observe
from topoloss.compare.neurons import AT_ONCE
from topoloss.compare.records import Epoch, Protocol
from topoloss.errors import NonFiniteError
from topoloss.inspection import Recorder

__all__ = ["Watch", "recorded"]

Watch = Callable[[Epoch, nn.Module, Tensor], None]


def recorded(recorder: Recorder, protocol: Protocol) -> Watch:
    """Return a function that records a network in evaluation mode, to be called after every epoch.

    It records all neurons of the protocol's layers, whatever its ``fraction``, on the first 1024
    samples.
    """

    @torch.no_grad()
    def watch(epoch: Epoch, model: nn.Module, x: Tensor) -> None:
        model.eval()
        notes = {
            "validation loss": epoch.validation_loss,
            "validation score": epoch.validation_score,
        }
        # Training itself stops at numbers that are not finite, and reports it.
        with suppress(NonFiniteError), observe(model, layers=protocol.layers) as seen:
            model(x[:AT_ONCE])
            recorder.add(epoch.number, seen, notes, kept=epoch.best)

    return watch
