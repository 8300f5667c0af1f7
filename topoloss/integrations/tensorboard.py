"""Log a penalty to TensorBoard."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from topoloss.attaching import Attachment

__all__ = ["Writer", "log"]


class Writer(Protocol):
    """The methods that are used of a ``torch.utils.tensorboard.SummaryWriter``."""

    def add_scalar(self, tag: str, scalar_value: Any, global_step: Any) -> None: ...

    def add_histogram(self, tag: str, values: Any, global_step: Any) -> None: ...


def log(
    writer: Writer,
    penalty: Attachment,
    step: int,
    loss: Tensor | float | None = None,
    weight: float | None = None,
) -> None:
    """Write the numbers of the latest penalty, and a histogram of its deaths.

    Parameters
    ----------
    writer : SummaryWriter
        That of ``torch.utils.tensorboard``, or any object with the same `add_scalar` and
        `add_histogram`.
    penalty : Attachment
    step : int
    loss, weight
        As for :meth:`topoloss.Attachment.metrics`.

    Notes
    -----
    The tags are ``topoloss/value``, ``topoloss/copies`` and so on, and ``topoloss/deaths`` for the
    histogram, which is not written for a regulariser without diagrams.
    """
    numbers = penalty.metrics(loss, weight)
    for name, number in numbers.items():
        writer.add_scalar(f"topoloss/{name}", number, step)
    if "median_death" in numbers:
        writer.add_histogram("topoloss/deaths", penalty.deaths, step)
