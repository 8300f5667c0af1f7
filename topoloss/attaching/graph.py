"""The graph of one forward pass: what the model makes of its inputs, and where layers begin."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from topoloss.attaching import functions
from topoloss.attaching.axes import followed, reordered
from topoloss.attaching.channels import axis_of_equation, channel_of_product
from topoloss.attaching.functions import Kind, Role, tensors_in, version_of
from topoloss.attaching.modules import Modules, adapted, channel_axis, is_norm, is_whole
from topoloss.attaching.nodes import Node, Start

__all__ = ["Watch"]


# Functions of these kinds may continue a layer.
_FOLLOWING = frozenset({Kind.POINTWISE, Kind.NORM, Kind.RANDOM})
# Parts of the names of functions that add up rows at given indices.
_GATHERING = ("scatter", "index_add")
# After this many functions, check again whether the pass is still running: torch does not report
# that an interrupt, such as Ctrl-C, has ended it.
_LOOKED_AFTER = 256
# Functions of these kinds may stand between attention scores and their softmax, and between the
# softmax and its product with the values.
_SCORES_PASS = frozenset({Kind.POINTWISE, Kind.LAYOUT, Kind.RANDOM})


@dataclass(eq=False, repr=False, slots=True)
class _Constant:
    """What is known of a tensor that does not descend from the model's inputs."""

    reference: weakref.ref[Tensor]
    parameter: Tensor | None = None
    random: bool = False
    multiplied: bool = False
    # Of a new tensor, such as new_zeros, that the model may fill: its axis of samples.
    axis: int | None = None


# Operands that descend from the inputs, with their nodes.
_Data: TypeAlias = list[tuple[Tensor, Node]]


class Watch(TorchFunctionMode):
    """A function mode that builds the graph of what the model makes of its inputs.

    Parameters
    ----------
    modules : Modules
    inputs : sequence of Tensor
        The tensors that the model was given.
    batch_dim : int
        The axis of the inputs that counts samples.
    by_function : bool
        Layers begin where something made of the inputs is multiplied by a parameter. Otherwise
        they begin at the outputs of chosen modules.
    passes_norms : bool
        A norm continues the layer before it.
    keeps_starts : bool
        Keep each tensor at which a layer begins, because the layer is taken there.

    Attributes
    ----------
    samples : int or None
        Length of axis `batch_dim` of the first input that has it; None if no input has it.
    starts : list of Start
        Where layers may begin.
    """

    def __init__(
        self,
        modules: Modules,
        inputs: Sequence[Tensor],
        batch_dim: int,
        by_function: bool,
        passes_norms: bool,
        keeps_starts: bool,
    ) -> None:
        super().__init__()
        self._passes_norms = passes_norms
        self._keeps_starts = keeps_starts
        self._modules = modules
        self._by_function = by_function
        self._nodes: dict[int, Node] = {}
        self._constants: dict[int, _Constant] = {}
        # The frame in which torch calls the model; None when the pass is over.
        self.frame: FrameType | None = _frame_of_call()
        self._functions = 0
        self.all: list[Node] = []
        self.starts: list[Start] = []
        # Parameters that multiply something made of the inputs entry by entry.
        self.multiplied: list[Tensor] = []
        # Parameters that multiply something that is not made of the inputs.
        self.apart: list[Tensor] = []
        # Parameters that went into a function of the inputs, or into a product.
        self.read: list[Tensor] = []
        # Without `by_function`: the parameters in a function of the inputs, and the result's node.
        self.used: list[tuple[list[Tensor], Node]] = []
        self.samples = next(
            (t.shape[batch_dim] for t in inputs if -t.ndim <= batch_dim < t.ndim), None
        )
        for t in inputs:
            shared = -t.ndim <= batch_dim < t.ndim and t.shape[batch_dim] == self.samples
            self._add(t, Kind.OTHER, (), batch_dim % t.ndim if shared else None)

    def is_running(self) -> bool:
        """Whether the pass is still running: whether its frame is on the stack."""
        frame: FrameType | None = sys._getframe()
        while frame is not None and frame is not self.frame:
            frame = frame.f_back
        return frame is not None

    # What is known of a tensor

    def node_of(self, tensor: Tensor) -> Node | None:
        """The node of a tensor as it is now; None if it does not descend from the inputs."""
        node = self._nodes.get(id(tensor))
        if node is None or node.reference() is not tensor:
            return None
        if node.version is not None and version_of(tensor) != node.version:
            # A view of it was changed in place.
            node = self._add(tensor, Kind.OTHER, (node,), node.axis)
        node.regains_grad |= tensor.requires_grad and not node.with_grad
        return node

    def _split(self, operands: Iterable[Tensor]) -> tuple[_Data, list[Tensor]]:
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
        if not below or self._constant(tensor) is not None:
            return None
        alive = ((n, n.reference()) for n in self.all)
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
            self._constants[id(tensor)] = _Constant(weakref.ref(tensor))
            return None
        data = [(t, p) for p in parents if (t := p.reference()) is not None]
        self._consume(data, Kind.OTHER, follows=False)
        node = self._make(tensor, Kind.OTHER, data, follows=False)
        node.unseen = True
        return node

    def _picks(self, data: _Data, constants: Iterable[Tensor]) -> bool:
        """Whether a function picks entries of a parameter, such as the weights of one expert."""
        if any(t.is_floating_point() for t, _ in data):
            return False
        picked = [self._constant(t) for t in constants if t.is_floating_point()]
        return bool(picked) and all(c is not None and _axes_of(c) > 2 for c in picked)

    def _constant(self, tensor: Tensor) -> _Constant | None:
        constant = self._constants.get(id(tensor))
        if constant is not None and constant.reference() is tensor:
            return constant
        if not self._modules.owners(tensor):
            return None
        constant = _Constant(weakref.ref(tensor), tensor)
        self._constants[id(tensor)] = constant
        return constant

    def _add(self, tensor: Tensor, kind: Kind, parents: tuple[Node, ...], axis: int | None) -> Node:
        node = Node(
            len(self.all), kind, parents, axis, weakref.ref(tensor), version_of(tensor),
            with_grad=torch.is_grad_enabled(),
        )  # fmt: skip
        self._nodes[id(tensor)] = node
        self.all.append(node)
        return node

    def _make(self, tensor: Tensor, kind: Kind, data: _Data, follows: bool) -> Node:
        """Add the node of a tensor that was made from others."""
        parents = tuple(dict.fromkeys(n for _, n in data))
        node = self._add(tensor, kind, parents, self._axis(tensor, data))
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

    def _consume(self, data: _Data, kind: Kind, follows: bool) -> None:
        """Note that a function uses operands, and keep those at which a layer may end."""
        parents = {n for _, n in data}
        goes_on = follows and len(parents) == 1 and kind is not Kind.RANDOM
        for t, n in data:
            if n.watched and (n.uses or not goes_on):
                n.keep(t)
        for n in parents:
            n.uses += 1

    # A function

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        # While torch compiles a function, its operations are not followed one by one.
        if torch.compiler.is_compiling() or self.frame is None or func in functions.tells:
            return func(*args, **kwargs)
        self._functions += 1
        if self._functions % _LOOKED_AFTER == 0 and not self.is_running():
            self.frame = None
            self.release()
            return func(*args, **kwargs)
        operands = list(tensors_in((*args, *kwargs.values())))
        data, constants = self._split(operands)
        role = functions.known(func, args, kwargs)
        if not data or self._picks(data, constants):
            result, role = functions.call(func, args, kwargs, role)
            if operands or role.kind is Kind.RANDOM:
                self._note_constants(role, operands, list(tensors_in((result,))))
            return result
        may_change = role is None or role.mutates
        copies = self._copies(operands, data, role) if may_change else []
        versions = [version_of(t) for t in operands] if may_change else []
        result, role = functions.call(func, args, kwargs, role)
        changed = _changed(operands, versions) if role.mutates else []
        for t, node, copy in copies:
            if role.mutates and (version_of(t) is None or version_of(t) != node.version):
                node.keep_copy(copy)
        results = [result] if isinstance(result, Tensor) else list(tensors_in((result,)))
        if results or changed:
            self._note(func, args, kwargs, role, data, constants, results, changed)
        return result

    def _copies(
        self, operands: list[Tensor], data: _Data, role: Role | None
    ) -> list[tuple[Tensor, Node, Tensor]]:
        """Copy tensors at which a layer may end, before a function that may change them."""
        watched = [(t, n) for t, n in data if n.watched and not n.copied]
        if role is not None:
            parents = {n for _, n in data}
            alone = len(parents) == 1 and role.kind is not Kind.RANDOM
            follows = alone and self._follows(role.kind, list(parents))
            watched = [(t, n) for t, n in watched if n.uses or n.kept is not None or not follows]
        for t in operands:
            # Changing a view also changes the tensor that it is a view of.
            base = t._base
            node = None if base is None else self.node_of(base)
            if base is not None and node is not None and node.kept is base:
                watched.append((base, node))
        return [(t, n, t.clone()) for t, n in watched]

    def _follows(self, kind: Kind, parents: Sequence[Node]) -> bool:
        allowed = kind in _FOLLOWING and (kind is not Kind.NORM or self._passes_norms)
        return allowed and all(p.watched for p in parents)

    def _note(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        role: Role,
        data: _Data,
        constants: list[Tensor],
        results: list[Tensor],
        changed: list[Tensor],
    ) -> None:
        """Add the nodes of what a function made or changed, and the layers that begin there."""
        if role.kind is Kind.NEW:
            for r in results:
                self._constants[id(r)] = _Constant(weakref.ref(r), axis=self._axis(r, data))
            return
        known = [c for t in constants if (c := self._constant(t)) is not None]
        self.read += [c.parameter for c in known if c.parameter is not None]
        random = role.kind is Kind.POINTWISE and any(c.random for c in known)
        kind = Kind.RANDOM if random else role.kind
        # A product of two tensors, as in x * sigmoid(x), does more than scale.
        affine = role.affine and not constants and len(data) == 1
        if kind is Kind.LAYOUT and len(results) == 1 and _same_layout(results[0], data[0][0]):
            kind, affine = Kind.POINTWISE, True  # nothing was moved
        shapes = [t.shape for t, _ in data]
        if kind is Kind.POINTWISE and any(r.shape not in shapes for r in results):
            kind = Kind.OTHER  # max over an axis, or one entry becomes several
        follows = self._follows(kind, [n for _, n in data])
        made = [r for r in results if all(r is not t for t, _ in data)] + changed
        if not made:
            if kind is not Kind.RANDOM:
                return  # an operand was returned as it is
            made = results  # an idle dropout ends a layer like an active one
        detached = torch.is_grad_enabled() and any(t.requires_grad for t, _ in data)
        detached = detached and not any(r.requires_grad for r in made)
        self._consume(data, kind, follows and not detached)
        single = len(data) == len(results) == 1 and not constants and args
        name = functions.name_of(func)
        axes = {id(t): n.axis for t, n in data if not n.unpacked}
        mixed = reordered(name, args, kwargs, axes)
        for r in made:
            node = self._make(r, kind, data, follows)
            node.detached = detached
            node.unpacked = name == "_pad_packed_sequence"
            if mixed:
                node.axis = None
            elif name == "einsum":
                node.axis = axis_of_equation(args, {id(t): n.axis for t, n in data})
            elif node.axis is None:
                node.axis = self._regained(name, args, r)
            pointwise = kind is Kind.POINTWISE
            node.affine = not pointwise or affine
            node.activated |= pointwise and not (affine or role.affine)
            if single and args[0] is data[0][0]:
                node.step = (func, args[1:], kwargs)
        if kind is Kind.PRODUCT:
            self._multiply(name, role, data, constants, (*args, *kwargs.values()), made)
        elif role.normalises:
            self._normalise(data, made)
        elif "mul" in name and any(n.attends and t.shape != made[0].shape for t, n in data):
            self._weigh(data)
        elif constants and "mul" in name:
            matrices = (t for t in constants if sum(length > 1 for length in t.shape) >= 2)
            self.multiplied += [t for t in matrices if self._modules.owners(t)]
        if self._by_function:
            return
        parameters = [c.parameter for c in known if c.parameter is not None]
        if parameters:
            node = self._nodes[id(made[0])]
            node.watched = True  # a layer begins here if the parameter's module is never called
            self.used.append((parameters, node))

    def _multiply(
        self,
        name: str,
        role: Role,
        data: _Data,
        constants: list[Tensor],
        args: tuple[Any, ...],
        made: list[Tensor],
    ) -> None:
        # Queries, keys and values are outputs of layers, at most scaled or with positions added.
        origins = [n.origin for _, n in data if n.origin is not None and not n.activated]
        weights = self._weights(constants)
        if weights and not role.attends:
            if self._by_function:
                parameter, weight = max(weights, key=lambda w: w[0].ndim)
                leads = (
                    next(t for t in tensors_in(args) if t is data[0][0] or t is weight) is weight
                ) is not (name == "__rmatmul__")  # a method of the second operand
                # In images the axis of channels stands before height and width.
                channel = (
                    -(parameter.ndim - 1)
                    if role.convolves
                    else channel_of_product(name, args, weight, leads)
                )
                start = self._begin(made[0], parameter, channel)
                if leads:
                    # A weight on the left may be learnt queries; linear maps mostly have it on the
                    # right.
                    start.node.scores = (start, *origins)
            return
        if role.attends or any(n.attends for _, n in data):
            self._weigh(data)
            for origin in origins:
                origin.inner = True
        for r in made:
            self._nodes[id(r)].scores = tuple(dict.fromkeys(origins))

    def _normalise(self, data: _Data, made: list[Tensor]) -> None:
        """Note that a softmax of scores may be attention weights."""
        scores = tuple(dict.fromkeys(start for _, n in data for start in n.scores))
        for r in made:
            node = self._nodes[id(r)]
            node.scores, node.attends = scores, bool(scores)

    def _weigh(self, data: _Data) -> None:
        """Mark the layers that made attention scores, once their softmax multiplies values."""
        for _, node in data:
            for start in node.scores if node.attends else ():
                start.inner = True

    def _weights(self, constants: Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Return (parameter, constant) for each constant that may be the weight of a linear map.

        It comes from a parameter of two or more axes. A product of parameters must be a matrix:
        with more axes it is probably a part of attention, such as learnt queries.
        """
        found = []
        for t in constants:
            constant = self._constant(t)
            parameter = None if constant is None else constant.parameter
            if constant is None or parameter is None or parameter.ndim < 2:
                continue
            if t.ndim == 2 or (t.ndim > 2 and not constant.multiplied):
                found.append((parameter, t))
        return found

    def _begin(self, output: Tensor, parameter: Tensor, channel: int | None) -> Start:
        """Begin a layer at the product of a parameter and something made of the inputs."""
        node = self._nodes[id(output)]
        name, trainable = self._modules.layer_of(parameter)
        start = Start(name, node, channel, parameter, trainable)
        node.origin, node.watched, node.activated = start, True, False
        self.starts.append(start)
        if self._keeps_starts:
            node.keep(output)
        return start

    def _note_constants(self, role: Role, operands: list[Tensor], results: list[Tensor]) -> None:
        """Note results that come from parameters or random numbers, not from the inputs."""
        known = [c for t in operands if (c := self._constant(t)) is not None]
        owned = [c for c in known if c.parameter is not None]
        random = role.kind is Kind.RANDOM or any(c.random for c in known)
        if (not owned and not random) or role.kind is Kind.NEW:
            return
        largest = max(owned, key=_axes_of).parameter if owned else None
        multiplied = bool(owned) and (role.kind is Kind.PRODUCT or all(c.multiplied for c in owned))
        if role.kind is Kind.PRODUCT:
            self.read += [c.parameter for c in owned if c.parameter is not None]
            if largest is not None and len(known) < len(operands):
                self.apart.append(largest)  # the layer is applied to something else
        for r in results:
            if not self._modules.owners(r):
                constant = _Constant(weakref.ref(r), largest, random, multiplied)
                self._constants[id(r)] = constant

    # Where the samples are

    def _axis(self, result: Tensor, data: _Data) -> int | None:
        """The axis of the result that counts samples; None where it is not known."""
        samples = self.samples or 0
        found = {followed(t, n.axis, result, samples) for t, n in data if n.axis is not None}
        return found.pop() if len(found) == 1 else None

    def _regained(self, name: str, args: tuple[Any, ...], result: Tensor) -> int | None:
        """The axis of samples after functions that put scattered samples together again."""
        if name == "_pad_packed_sequence":
            return 0 if args[2] else 1  # its third argument is batch_first
        constant = self._constant(result)
        if constant is not None and constant.axis is not None:
            return constant.axis
        # A graph network adds up messages for each node.
        alike = [k for k, length in enumerate(result.shape) if length == self.samples]
        return 0 if alike == [0] and any(word in name for word in _GATHERING) else None

    # A module

    def finish(
        self,
        name: str,
        module: nn.Module,
        call: int,
        given: Sequence[Tensor],
        outputs: Sequence[Tensor],
        alone: bool,
    ) -> Node | None:
        """Note the tensors that a module returned.

        Return the node of the first, if it descends from the inputs. `alone` says that the module
        was given a single argument.
        """
        output = outputs[0]
        found, _ = self._split([output])
        node = found[0][1] if found else None
        if self._by_function and (is_whole(module) or self._adapts(module)):
            node = self._join(given, output, Kind.OTHER)
            start = Start(name, node, -1, None, self._modules.trains(module, within=True))
            node.origin, node.watched, node.activated = start, True, False
            self.starts.append(start)
            node.keep(output)
            for other in outputs[1:]:
                axis = self._axis(other, [(output, node)])
                if isinstance(module, nn.RNNBase) and other.ndim == 3:
                    axis = 1  # the last states are (layers, samples, features)
                self._add(other, Kind.OTHER, (node,), axis)
        elif node is None or not node.watched:
            node = self._follow_module(module, given, output, node, alone)
        if node is None:
            return None
        origin = node.origin
        if origin is not None and origin.parameter is not None:
            owners = self._modules.owners(origin.parameter)
            if any(owner is module for _, owner in owners):
                self._begin_at(name, module, origin, node)
        if node.module_call is None:
            node.module_call = (name, call)
        if node.channel_axis is None and output.ndim > 2:
            node.channel_axis = channel_axis(module, output)
        return node

    def _adapts(self, module: nn.Module) -> bool:
        """Whether a called module is an adapter: it adds to the output of a layer that it holds."""
        layer = adapted(module)
        if layer is None:
            return False
        own = {id(p) for p in layer.parameters()}
        begun = [start.node for start in self.starts if id(start.parameter) in own]
        # If a later layer uses that output, the module is a network, not an adapter.
        return not begun or not any(_descends(s.node, begun[-1]) for s in self.starts)

    def _begin_at(self, name: str, module: nn.Module, start: Start, node: Node) -> None:
        """Let a layer begin at the output of the module that owns its parameter."""
        start.name = self._modules.layer_name(name, module, start.parameter)
        if node is start.node:
            return
        before = start.node.reference()
        after = node.reference()
        if before is None or after is None or before.ndim != after.ndim:
            start.channel_axis = -1 if start.channel_axis == -1 else None
        start.node, start.inner = node, False
        node.watched = True
        if self._keeps_starts and after is not None:
            node.keep(after)

    def _follow_module(
        self,
        module: nn.Module,
        given: Sequence[Tensor],
        output: Tensor,
        node: Node | None,
        alone: bool,
    ) -> Node | None:
        """The node of a module's output, if it is a norm or its functions are not seen."""
        # With several arguments it is not known which of them the output follows.
        source = self.node_of(given[0]) if alone and len(given) == 1 else None
        kind = None
        if source is not None and output.shape == given[0].shape:
            if self._passes_norms and is_norm(module):
                kind = Kind.NORM
            elif source.watched and self._modules.is_activation(module, given[0]):
                kind = Kind.POINTWISE
        if kind is not None:
            return self._join(given[:1], output, kind)
        if node is None and isinstance(module, torch.jit.ScriptModule):
            node = self._join(given, output, Kind.OTHER)
        return node

    def _join(self, given: Sequence[Tensor], output: Tensor, kind: Kind) -> Node:
        """Add a single node for all that a module did."""
        data, _ = self._split(given)
        follows = bool(data) and self._follows(kind, [n for _, n in data])
        self._consume(data, kind, follows)
        node = self._make(output, kind, data, follows)
        if kind is Kind.POINTWISE:
            node.affine, node.activated = False, True  # nothing tells that it scales or shifts
        return node

    def begin_module(self, name: str, node: Node | None, output: Tensor, module: nn.Module) -> None:
        """Begin a layer at the output of a chosen module."""
        if node is None:
            node = self._add(output, Kind.OTHER, (), None)
        channel = channel_axis(module, output)
        self.starts.append(Start(name, node, _channel_axis(node) if channel is None else channel))
        node.watched = node.chosen = True
        node.keep(output)

    # The end of the pass

    def end(self, outputs: Sequence[Tensor]) -> None:
        """Find the nodes that the model's output was made from."""
        ends = []
        for t, node in self._split(outputs)[0]:
            node.is_output = True
            node.keep(t)
            ends.append(node)
        if not ends:
            # No known tensor was found in the output, so any that is alive may be part of it.
            for node in self.all:
                alive = node.reference()
                if node.watched and alive is not None:
                    node.keep(alive)
        pending = ends or list(self.all)
        live = set(pending)
        while pending:
            for parent in pending.pop().parents:
                if parent not in live:
                    live.add(parent)
                    pending.append(parent)
        for node in self.all:
            if node in live:
                for parent in node.parents:
                    parent.consumers.append(node)
        self.live = live

    def release(self) -> None:
        """Free the kept tensors, and break reference cycles, which would outlive the pass."""
        for node in self.all:
            node.kept = node.origin = None
            node.scores = ()
            node.consumers.clear()

    def leave(self) -> None:
        """Take this mode off the stack of modes, even if it is not on top."""
        self.frame = None
        stack: Any = torch.overrides
        above = []
        if any(mode is self for mode in stack._get_current_function_mode_stack()):
            while (top := stack._pop_mode()) is not self:
                above.append(top)
            for mode in reversed(above):
                stack._push_mode(mode)


def _descends(node: Node, ancestor: Node) -> bool:
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


def _channel_axis(node: Node) -> int | None:
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


def _frame_of_call() -> FrameType | None:
    """The nearest frame on the stack in which torch calls a module."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_globals.get("__name__") != nn.Module.__module__:
        frame = frame.f_back
    return frame


def _same_layout(result: Tensor, operand: Tensor) -> bool:
    return result.shape == operand.shape and result.stride() == operand.stride()


def _changed(operands: list[Tensor], versions: list[int | None]) -> list[Tensor]:
    """The operands changed in place; the first, where torch does not count such changes."""
    if versions[0] is None:
        return operands[:1]
    return [t for t, v in zip(operands, versions, strict=True) if version_of(t) != v]


def _axes_of(constant: _Constant) -> int:
    return constant.parameter.ndim if constant.parameter is not None else 0
