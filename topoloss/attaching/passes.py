"""What is known of one forward pass of a model, while it runs and when it is over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor, nn

from topoloss.attaching.reading import Record
from topoloss.attaching.watching import Watch

__all__ = ["Marks", "Mask", "Pass", "Running", "Watching"]

Mask: TypeAlias = str | Callable[[tuple[Any, ...], dict[str, Any]], Tensor]


class Watching(NamedTuple):
    """How forward passes are watched.

    Attributes
    ----------
    batch_dim, after_activation, mask
        As for :func:`topoloss.observe`.
    repeats : bool
        The option `eval_pass`: keep only the inputs of each pass, and record the pass that
        :meth:`Recorder.repeat` makes with them.
    """

    batch_dim: int
    after_activation: bool
    mask: Mask | None
    repeats: bool


@dataclass(eq=False, repr=False)
class Marks:
    """What a schedule has to know of a pass.

    Attributes
    ----------
    trains : bool
        It ran in training mode with gradients, so it may be a training step.
    rested : bool
        It was not recorded, or was counted as a step without the penalty.
    factor : float or None
        The factor of its penalty; None until it is counted as a step.
    skipped : bool
        It had too few samples for a penalty, and was counted as skipped.
    """

    trains: bool = False
    rested: bool = False
    factor: float | None = None
    skipped: bool = False


@dataclass(eq=False, repr=False)
class Pass:
    """What was recorded of one forward pass of the model.

    Attributes
    ----------
    records : list of Record
    samples : int or None
        How many samples the model's inputs have.
    inputs : Tensor or None
        The first floating-point tensor with an axis of samples that the model was given.
    mask : Tensor or None
    error : str
        Why the pass cannot be used; empty otherwise.
    notes : list of str
        Warnings for the user.
    left_out : dict of str to str
        Layers without a record, and why.
    marks : Marks
    """

    records: list[Record] = field(default_factory=list)
    samples: int | None = None
    inputs: Tensor | None = None
    mask: Tensor | None = None
    error: str = ""
    notes: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    marks: Marks = field(default_factory=Marks)

    def channels(self) -> dict[str, int]:
        """How many channels each layer has, where that is known."""
        return {
            r.name: r.tensor.shape[r.channel_axis]
            for r in self.records
            if r.tensor is not None and r.tensor.ndim > 1 and r.channel_axis is not None
        }


@dataclass(eq=False, repr=False)
class Running:
    """A pass that is under way."""

    watch: Watch
    arguments: tuple[tuple[Any, ...], dict[str, Any]]
    depth: int = 0
    notes: list[str] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)
    called: set[nn.Module] = field(default_factory=set)
    # The called modules that were given a floating-point tensor, not indices alone.
    fed: set[nn.Module] = field(default_factory=set)
    error: str = ""
