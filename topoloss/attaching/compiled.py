"""A compiled forward pass cannot be watched: its layers are those of the latest watched pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from topoloss.attaching.functions import tensors_within, version_of
from topoloss.attaching.reading import Record, Step
from topoloss.errors import AttachmentError

__all__ = ["CompiledPass", "Followed"]

# The layers of a watched pass, each with the way to find it again; None if there is no way.
Followed: TypeAlias = Sequence[tuple[Record, Step | None]]


class CompiledPass:
    """The layers of a compiled pass, found at its modules' outputs.

    Parameters
    ----------
    training : bool
        The model's training flag.
    arguments : tuple
        The model's positional arguments and keyword arguments.
    """

    def __init__(self, training: bool, arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
        self.training = training
        self.arguments = arguments
        self._found: list[tuple[Record, Tensor, bool]] = []
        self._calls: dict[str, int] = {}
        self._whole = False

    def note(self, name: str, output: Any, last: bool, followed: Followed) -> None:
        """Keep the tensors of the layers that are found at a module's output."""
        self._whole |= last
        call = self._calls.get(name, 0) + 1
        self._calls[name] = call
        for record, step in followed:
            if step is not None and step.module == name and step.call == call:
                tensor = next(tensors_within(output))
                if step.copy:
                    tensor = tensor.clone()
                for function in step.functions:
                    tensor = function(tensor)
                self._found.append((record, tensor, torch.is_grad_enabled()))

    def records(self, followed: Followed | None) -> list[Record]:
        """Return the layers in the order of the watched pass.

        Raises
        ------
        AttachmentError
            If no pass was watched in this mode, or layers are not found.
        """
        if followed is None:
            mode = "training" if self.training else "evaluation"
            raise AttachmentError(
                "a compiled forward pass cannot be watched for what follows each layer; run the "
                f"model once in {mode} mode before torch.compile."
            )
        lost = [record.name for record, step in followed if step is None]
        if lost:
            raise AttachmentError(
                f"what follows the layers {lost} is not a module, so a compiled forward pass does "
                "not show it; make it a module, or choose other layers with layers=."
            )
        if not self._whole or len(self._found) < len(followed):
            raise AttachmentError(
                "the latest compiled forward pass failed, or did not call the modules that the "
                "model called before it was compiled; run the model once without torch.compile."
            )
        order = {record.name: k for k, (record, _) in enumerate(followed)}
        found = sorted(self._found, key=lambda each: order[each[0].name])
        return [replace(r, tensor=t, with_grad=grad, version=version_of(t)) for r, t, grad in found]
