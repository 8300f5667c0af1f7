"""What a forward pass is made of: tensors at one moment of it, and where layers begin."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from topoloss.attaching.functions import Kind

__all__ = ["Node", "Start"]


@dataclass(eq=False, repr=False, slots=True)
class Node:
    """A tensor at one moment of the pass; a change in place makes another node.

    Attributes
    ----------
    index : int
        Nodes are numbered in the order in which they were made.
    kind : Kind
        Of the function that made it.
    parents : tuple of Node
        The operands that descend from the model's inputs.
    axis : int or None
        The axis that counts samples, as far as it could be followed. Positions or windows may
        be folded into it: it is then longer than there are samples.
    reference : weakref of Tensor
        To the tensor, while the model holds it.
    version : int or None
        How often the tensor had been changed in place.
    origin : Start or None
        The layer that it was made of, if it was made of one alone and of constants.
    affine : bool
        What made it scales or shifts by plain numbers, casts, or leaves all as it is.
    activated : bool
        Something else was done entry by entry since the layer.
    scores : tuple of Start
        The layers whose product it is, such as queries and keys, or a softmax of that product.
    attends : bool
        It is the softmax of such scores.
    follows : bool
        It was made of watched tensors alone, by what belongs to the layer before it.
    watched : bool
        A layer begins here, or it follows one.
    chosen : bool
        A module that was chosen put it out.
    with_grad : bool
        Gradients were on.
    regains_grad : bool
        They were not, yet the tensor has one when it is used: a custom function put it out.
    detached : bool
        Gradients were on, and yet no gradient passes through what made it.
    kept : Tensor or None
        The tensor, or a copy of it, where a layer may end here.
    copied : bool
        What was kept is a copy, as the tensor is changed in place later.
    uses : int
        How many functions have read it so far.
    unseen : bool
        No function mode sees what made it.
    step : tuple or None
        The function, and its arguments but for the one tensor, where it has one.
    module_call : tuple of str and int, or None
        The module that put it out, and at which of its calls.
    channel_axis : int or None
        Of a module's output of several positions, where the module tells it.
    unpacked : bool
        A packed sequence was padded again. Its samples are sorted by length, and an index brings
        them back into their order next.
    consumers : list of Node
        What the model's output was made of, of what was made of this.
    is_output : bool
        The model put it out.
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
        None where it is not known.
    parameter : Tensor or None
        That the inputs were multiplied by.
    trainable : bool
        The module of that parameter has trainable parameters.
    inner : bool
        A part of attention, such as a query.
    """

    name: str
    node: Node
    channel_axis: int | None
    parameter: Tensor | None = None
    trainable: bool = True
    inner: bool = False
