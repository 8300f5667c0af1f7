"""The nodes of the graph of a forward pass, and where in it layers begin."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from topoloss.attaching.functions import Kind

__all__ = ["Node", "Start", "agreed_channel_axis", "descends"]


@dataclass(eq=False, repr=False, slots=True)
class Node:
    """A tensor at one moment of the pass; changing the tensor in place makes a new node.

    Attributes
    ----------
    index : int
        Nodes are numbered in the order in which they were made.
    kind : Kind
        Kind of the function that made it.
    parents : tuple of Node
        Nodes of the function's operands that descend from the model's inputs.
    axis : int or None
        The axis that counts samples; None where it could not be followed. Positions or windows
        may be folded into it, which makes it longer than the number of samples.
    reference : weakref of Tensor
        To the tensor, which the model may free.
    version : int or None
        How often the tensor had been changed in place when the node was made.
    origin : Start or None
        The layer that it was made from, if it was made from one layer and constants alone.
    affine : bool
        False if an entry-by-entry function made it that does more than scale or shift by plain
        numbers, or cast.
    activated : bool
        Since the layer began, an entry-by-entry function did more than scale, shift or cast.
    scores : tuple of Start
        The layers that were multiplied with each other to make it, as queries and keys make
        attention scores. A softmax of scores has these layers, too.
    attends : bool
        It is the softmax of such scores.
    follows : bool
        It may continue a layer: it was made entry by entry, by a norm or by dropout, and all
        parents are watched.
    watched : bool
        A layer begins or may begin here, or `follows` is true.
    chosen : bool
        It is the output of a module that ``layers=`` chose.
    with_grad : bool
        Gradients were on when it was made.
    regains_grad : bool
        Gradients were off, yet the tensor requires one when it is used: a custom autograd
        function returned it.
    detached : bool
        Gradients were on, and yet no gradient passes through the function that made it.
    kept : Tensor or None
        The tensor, or a copy of it, where a layer may end here.
    copied : bool
        `kept` is a copy, because the model changes the tensor in place later.
    uses : int
        How many functions have used it so far.
    unseen : bool
        No torch function mode sees what made it.
    step : tuple or None
        The function that made it, and all arguments but the first, which is the only operand.
    module_call : tuple of str and int, or None
        The module that returned it, and at which of its calls.
    channel_axis : int or None
        The axis of channels of a module's output, if the module's type determines it.
    unpacked : bool
        It is a packed sequence that was padded again. Its samples are sorted by length, and the
        index that follows restores their order.
    consumers : list of Node
        The nodes made from this one that the model's output was made from.
    is_output : bool
        The model returned it.
    """

    index: int
    kind: Kind
    parents: tuple[Node, ...]
    axis: int | None
    reference: weakref.ref[Tensor]
    version: int | None
    origin: Start | None = None
    affine: bool = True
    activated: bool = False
    scores: tuple[Start, ...] = ()
    attends: bool = False
    follows: bool = False
    watched: bool = False
    chosen: bool = False
    with_grad: bool = True
    regains_grad: bool = False
    detached: bool = False
    kept: Tensor | None = None
    copied: bool = False
    uses: int = 0
    unseen: bool = False
    step: tuple[Any, tuple[Any, ...], dict[str, Any]] | None = None
    module_call: tuple[str, int] | None = None
    channel_axis: int | None = None
    unpacked: bool = False
    consumers: list[Node] = field(default_factory=list)
    is_output: bool = False

    def keep(self, tensor: Tensor) -> None:
        if self.kept is None:
            self.kept = tensor

    def keep_copy(self, copy: Tensor) -> None:
        if not self.copied:
            self.kept, self.copied = copy, True


@dataclass(eq=False, repr=False)
class Start:
    """Where a layer begins.

    Attributes
    ----------
    name : str
    node : Node
    channel_axis : int or None
        The axis of channels; None where it is not known.
    parameter : Tensor or None
        The parameter that the layer multiplies by, or that its weight is computed from.
    trainable : bool
        The module of that parameter has trainable parameters.
    inner : bool
        It is a part of attention, such as the map to queries.
    """

    name: str
    node: Node
    channel_axis: int | None
    parameter: Tensor | None = None
    trainable: bool = True
    inner: bool = False


def descends(node: Node, ancestor: Node) -> bool:
    """Whether a node was made from an ancestor, directly or not."""
    pending, seen = [node], {node}
    while pending:
        for parent in pending.pop().parents:
            if parent is ancestor:
                return True
            # Nodes are numbered in the order in which they were made.
            if parent.index > ancestor.index and parent not in seen:
                seen.add(parent)
                pending.append(parent)
    return False


def agreed_channel_axis(node: Node) -> int | None:
    """The axis of channels of a node made entry by entry from modules' outputs that agree on it."""
    pending, seen, found = [node], {node}, set()
    while pending:
        current = pending.pop()
        if current.channel_axis is not None:
            found.add(current.channel_axis)
        elif current.parents and current.kind in (Kind.POINTWISE, Kind.RANDOM):
            pending += [parent for parent in current.parents if parent not in seen]
            seen.update(current.parents)
        else:
            return None
    return found.pop() if len(found) == 1 else None
