"""The graph of one forward pass: the tensors that the model makes of its inputs."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from topoloss.attaching.axes import followed
from topoloss.attaching.functions import Kind, version_of
from topoloss.attaching.modules import Modules
from topoloss.attaching.nodes import Node

__all__ = ["Constant", "Data", "Graph"]

# Functions of these kinds may stand between attention scores and their softmax, and between the
# softmax and its product with the values.
_SCORES_PASS = frozenset({Kind.POINTWISE, Kind.LAYOUT, Kind.RANDOM})


@dataclass(eq=False, repr=False, slots=True)
class Constant:
    """What is known of a tensor that does not descend from the model's inputs."""

    reference: weakref.ref[Tensor]
    parameter: Tensor | None = None
    random: bool = False
    multiplied: bool = False
    # Of a new tensor, such as new_zeros, that the model may fill: its axis of samples.
    axis: int | None = None


# Operands that descend from the inputs, with their nodes.
Data: TypeAlias = list[tuple[Tensor, Node]]


class Graph:
    """What is known of the tensors of a pass: those made of the inputs, and constants.

    Parameters
    ----------
    modules : Modules
    inputs : sequence of Tensor
        The tensors that the model was given.
    batch_dim : int
        The axis of the inputs that counts samples.

    Attributes
    ----------
    nodes : list of Node
        In the order in which they were made.
    live : set of Node
        Those that the model's output was made from; empty until the pass is over.
    samples : int or None
        Length of axis `batch_dim` of the first input that has it; None if no input has it.
    """

    def __init__(self, modules: Modules, inputs: Sequence[Tensor], batch_dim: int) -> None:
        self._modules = modules
        self._nodes: dict[int, Node] = {}
        self._constants: dict[int, Constant] = {}
        self.nodes: list[Node] = []
        self.live: set[Node] = set()
        self.samples = next(
            (t.shape[batch_dim] for t in inputs if -t.ndim <= batch_dim < t.ndim), None
        )
        for t in inputs:
            shared = -t.ndim <= batch_dim < t.ndim and t.shape[batch_dim] == self.samples
            self.add(t, Kind.OTHER, (), batch_dim % t.ndim if shared else None)

    def node_of(self, tensor: Tensor) -> Node | None:
        """The node of a tensor as it is now; None if it does not descend from the inputs."""
        node = self._nodes.get(id(tensor))
        if node is None or node.reference() is not tensor:
            return None
        if node.version is not None and version_of(tensor) != node.version:
            # A view of it was changed in place.
            node = self.add(tensor, Kind.OTHER, (node,), node.axis)
        node.regains_grad |= tensor.requires_grad and not node.with_grad
        return node

    def latest_node(self, tensor: Tensor) -> Node:
        """The node that was added last for a tensor."""
        return self._nodes[id(tensor)]

    def split(self, operands: Iterable[Tensor]) -> tuple[Data, list[Tensor]]:
        """Return the operands that descend from the inputs, with their nodes, and the others."""
        data, constants = [], []
        for t in operands:
            node = self.node_of(t) or self._unseen(t)
            if node is None:
                constants.append(t)
            else:
                data.append((t, node))
        return data, constants

    def _unseen(self, tensor: Tensor) -> Node | None:
        """The node of a tensor that no function mode saw being made, as by a scripted function."""
        below = [tensor.grad_fn] if tensor.grad_fn is not None else []
        if not below or self.constant(tensor) is not None:
            return None
        alive = ((n, n.reference()) for n in self.nodes)
        known = {t.grad_fn: n for n, t in alive if t is not None and t.grad_fn is not None}
        parents: dict[Node, None] = {}
        visited = set()
        while below:
            for function, _ in below.pop().next_functions:
                if function in known:
                    parents[known[function]] = None
                elif function is not None and function not in visited:
                    visited.add(function)
                    below.append(function)
        if not parents:
            self._constants[id(tensor)] = Constant(weakref.ref(tensor))
            return None
        data = [(t, p) for p in parents if (t := p.reference()) is not None]
        self.consume(data, Kind.OTHER, follows=False)
        node = self.make(tensor, Kind.OTHER, data, follows=False)
        node.unseen = True
        return node

    def constant(self, tensor: Tensor) -> Constant | None:
        """What is known of a tensor that does not descend from the inputs."""
        constant = self._constants.get(id(tensor))
        if constant is not None and constant.reference() is tensor:
            return constant
        if not self._modules.owners(tensor):
            return None
        constant = Constant(weakref.ref(tensor), tensor)
        self._constants[id(tensor)] = constant
        return constant

    def note_constant(self, tensor: Tensor, constant: Constant) -> None:
        """Keep what is known of a tensor that does not descend from the inputs."""
        self._constants[id(tensor)] = constant

    def add(self, tensor: Tensor, kind: Kind, parents: tuple[Node, ...], axis: int | None) -> Node:
        """Add a node of a tensor as it is now."""
        node = Node(
            len(self.nodes), kind, parents, axis, weakref.ref(tensor), version_of(tensor),
            with_grad=torch.is_grad_enabled(),
        )  # fmt: skip
        self._nodes[id(tensor)] = node
        self.nodes.append(node)
        return node

    def make(self, tensor: Tensor, kind: Kind, data: Data, follows: bool) -> Node:
        """Add the node of a tensor that was made from others."""
        parents = tuple(dict.fromkeys(n for _, n in data))
        node = self.add(tensor, kind, parents, self.axis(tensor, data))
        node.activated = any(p.activated for p in parents)
        first = parents[0].origin if parents else None
        node.origin = first if all(p.origin is first for p in parents) else None
        if kind in _SCORES_PASS:
            node.scores = tuple(dict.fromkeys(start for p in parents for start in p.scores))
            node.attends = any(p.attends for p in parents)
            if node.scores and not node.attends:
                # Layers of what is added to scores, such as queries times learnt positions.
                more = (p.origin for p in parents if not p.scores and not p.activated)
                node.scores += tuple(start for start in more if start is not None)
        node.follows = node.watched = follows
        return node

    def consume(self, data: Data, kind: Kind, follows: bool) -> None:
        """Note that a function uses operands, and keep those at which a layer may end."""
        parents = {n for _, n in data}
        goes_on = follows and len(parents) == 1 and kind is not Kind.RANDOM
        for t, n in data:
            if n.watched and (n.uses or not goes_on):
                n.keep(t)
        for n in parents:
            n.uses += 1

    def axis(self, result: Tensor, data: Data) -> int | None:
        """The axis of the result that counts samples; None where it is not known."""
        samples = self.samples or 0
        found = {followed(t, n.axis, result, samples) for t, n in data if n.axis is not None}
        return found.pop() if len(found) == 1 else None

    def end(self, outputs: Sequence[Tensor]) -> None:
        """Find the nodes that the model's output was made from."""
        ends = []
        for t, node in self.split(outputs)[0]:
            node.is_output = True
            node.keep(t)
            ends.append(node)
        if not ends:
            # No known tensor was found in the output, so any that is alive may be part of it.
            for node in self.nodes:
                alive = node.reference()
                if node.watched and alive is not None:
                    node.keep(alive)
        pending = ends or list(self.nodes)
        live = set(pending)
        while pending:
            for parent in pending.pop().parents:
                if parent not in live:
                    live.add(parent)
                    pending.append(parent)
        for node in self.nodes:
            if node in live:
                for parent in node.parents:
                    parent.consumers.append(node)
        self.live = live

    def release(self) -> None:
        """Free the kept tensors, and break reference cycles, which would outlive the pass."""
        for node in self.nodes:
            node.kept = node.origin = None
            node.scores = ()
            node.consumers.clear()
