"""Numbers to log about a penalty."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from topoloss.diagrams import Diagram
from topoloss.errors import AttachmentError, OptionError, check_number
from topoloss.pipelines import Pipeline
from topoloss.regularisers import Regulariser

__all__ = ["Measurement", "share"]


class Measurement:
    """Measures a regulariser while it computes a penalty: as a context manager, on one thread.

    What it keeps has no gradients, and stays on its device until somebody asks for numbers.
    """

    def __init__(self, regulariser: Regulariser) -> None:
        self._regulariser = regulariser
        self._found: list[tuple[Tensor, Tensor]] = []
        self._constant: list[Tensor] = []
        self.value = torch.zeros(())
        self._seconds = 0.0

    def __enter__(self) -> Measurement:
        self._begun = perf_counter()
        self._thread = threading.get_ident()
        pipeline = self._regulariser
        self._hook = (
            pipeline.loss.register_forward_pre_hook(self._note_diagrams)
            if isinstance(pipeline, Pipeline)
            else None
        )
        return self

    def __exit__(self, *error: object) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        self._seconds = perf_counter() - self._begun

    def note_layers(self, layers: Mapping[str, Tensor]) -> None:
        """Count the neurons whose activations differ by no more than rounding."""
        for name, x in layers.items():
            if name != "(input)" and x.numel():
                low, high = torch.aminmax(x.detach(), dim=0)
                largest = torch.maximum(low.abs(), high.abs())
                self._constant.append((high - low <= torch.finfo(x.dtype).eps * largest).sum())

    def note_value(self, value: Tensor) -> None:
        self.value = value.detach()

    def _note_diagrams(self, loss: Any, given: tuple[Sequence[Diagram], ...]) -> None:
        # A compiled function would keep the noted tensors for good.
        if torch.compiler.is_compiling() or threading.get_ident() != self._thread:
            return
        first = given[0][0]
        self._found.append((first.deaths.detach(), first.weights.detach()))

    @property
    def deaths(self) -> Tensor:
        """The deaths in dimension 0 of all diagrams, ascending, without points of weight 0."""
        if not self._found:
            raise AttachmentError(
                "the latest penalty() made no persistence diagrams, so there are no deaths; 't1' "
                "and other pipelines make them, if the regulariser is not compiled."
            )
        deaths = [deaths[weights > 0].cpu() for deaths, weights in self._found]
        return torch.cat(deaths).sort().values

    def numbers(self, level: float) -> dict[str, float]:
        """The numbers of :meth:`Attachment.metrics`, without the share."""
        numbers: dict[str, float] = {"value": float(self.value)}
        deaths = self.deaths if self._found else torch.zeros(0)
        if len(deaths):
            middle = deaths[(len(deaths) - 1) // 2], deaths[len(deaths) // 2]
            numbers["median_death"] = float(sum(middle)) / 2
            numbers["lowest_death"] = float(deaths[0])
            numbers["copies"] = int((deaths <= level).sum())
        if self._constant:
            numbers["constant"] = sum(map(int, self._constant))
        return numbers | {"seconds": self._seconds}


def share(value: float, loss: Tensor | float | None, weight: float | None) -> dict[str, float]:
    """The penalty's share of the loss, or nothing if neither loss nor weight is given."""
    if loss is None and weight is None:
        return {}
    if loss is None or weight is None:
        raise OptionError(
            f"metrics() was given {'a weight' if loss is None else 'a loss'} alone; the share of "
            "the penalty in the loss needs both, as in metrics(loss, weight)."
        )
    check_number("weight", weight)
    total = loss.item() if isinstance(loss, Tensor) else float(loss)
    return {"share": weight * value / total if total else float("nan")}
