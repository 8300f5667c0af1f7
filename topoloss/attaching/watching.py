"""Watch a forward pass: what each function and module makes of tensors, and where layers begin."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable, Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from topoloss.attaching import functions
from topoloss.attaching.axes import reordered
from topoloss.attaching.channels import axis_of_equation, channel_of_product
from topoloss.attaching.functions import Kind, Role, tensors_in, version_of
from topoloss.attaching.graph import Constant, Data, Graph
from topoloss.attaching.modules import Modules, adapted, channel_axis, is_norm, is_whole
from topoloss.attaching.nodes import Node, Start, agreed_channel_axis, descends

__all__ = ["Watch"]

# Functions of these kinds may continue a layer.
_FOLLOWING = frozenset({Kind.POINTWISE, Kind.NORM, Kind.RANDOM})
# Parts of the names of functions that add up rows at given indices.
_GATHERING = ("scatter", "index_add")
# After this many functions, check again whether the pass is still running: torch does not report
# that an interrupt, such as Ctrl-C, has ended it.
_LOOKED_AFTER = 256


class Watch(TorchFunctionMode):
    """A function mode that builds the graph of what the model makes of its inputs.

    Parameters
    ----------
    graph : Graph
        It holds the inputs so far.
    modules : Modules
    by_function : bool
        Layers begin where something made of the inputs is multiplied by a parameter. Otherwise
        they begin at the outputs of chosen modules.
    passes_norms : bool
        A norm continues the layer before it.
    keeps_starts : bool
        Keep each tensor at which a layer begins, because the layer is taken there.

    Attributes
    ----------
    graph : Graph
    starts : list of Start
        Where layers may begin.
    """

    def __init__(
        self,
        graph: Graph,
        modules: Modules,
        by_function: bool,
        passes_norms: bool,
        keeps_starts: bool,
    ) -> None:
        super().__init__()
        self.graph = graph
        self._passes_norms = passes_norms
        self._keeps_starts = keeps_starts
        self._modules = modules
        self._by_function = by_function
        # The frame in which torch calls the model; None when the pass is over.
        self.frame: FrameType | None = _frame_of_call()
        self._functions = 0
        self.starts: list[Start] = []
        # Parameters that multiply something made of the inputs entry by entry.
        self.multiplied: list[Tensor] = []
        # Parameters that multiply something that is not made of the inputs.
        self.apart: list[Tensor] = []
        # Parameters that went into a function of the inputs, or into a product.
        self.read: list[Tensor] = []
        # Without `by_function`: the parameters in a function of the inputs, and the result's node.
        self.used: list[tuple[list[Tensor], Node]] = []

    def is_running(self) -> bool:
        """Whether the pass is still running: whether its frame is on the stack."""
        frame: FrameType | None = sys._getframe()
        while frame is not None and frame is not self.frame:
            frame = frame.f_back
        return frame is not None

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
            self.graph.release()
            return func(*args, **kwargs)
        operands = list(tensors_in((*args, *kwargs.values())))
        data, constants = self.graph.split(operands)
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

    def _picks(self, data: Data, constants: Iterable[Tensor]) -> bool:
        """Whether a function picks entries of a parameter, such as the weights of one expert."""
        if any(t.is_floating_point() for t, _ in data):
            return False
        picked = [self.graph.constant(t) for t in constants if t.is_floating_point()]
        return bool(picked) and all(c is not None and _axes_of(c) > 2 for c in picked)

    def _copies(
        self, operands: list[Tensor], data: Data, role: Role | None
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
            node = None if base is None else self.graph.node_of(base)
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
        data: Data,
        constants: list[Tensor],
        results: list[Tensor],
        changed: list[Tensor],
    ) -> None:
        """Add the nodes of what a function made or changed, and the layers that begin there."""
        if role.kind is Kind.NEW:
            for r in results:
                self.graph.note_constant(r, Constant(weakref.ref(r), axis=self.graph.axis(r, data)))
            return
        known = [c for t in constants if (c := self.graph.constant(t)) is not None]
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
        self.graph.consume(data, kind, follows and not detached)
        single = len(data) == len(results) == 1 and not constants and args
        name = functions.name_of(func)
        axes = {id(t): n.axis for t, n in data if not n.unpacked}
        mixed = reordered(name, args, kwargs, axes)
        for r in made:
            node = self.graph.make(r, kind, data, follows)
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
            node = self.graph.latest_node(made[0])
            node.watched = True  # a layer begins here if the parameter's module is never called
            self.used.append((parameters, node))

    def _multiply(
        self,
        name: str,
        role: Role,
        data: Data,
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
            self.graph.latest_node(r).scores = tuple(dict.fromkeys(origins))

    def _normalise(self, data: Data, made: list[Tensor]) -> None:
        """Note that a softmax of scores may be attention weights."""
        scores = tuple(dict.fromkeys(start for _, n in data for start in n.scores))
        for r in made:
            node = self.graph.latest_node(r)
            node.scores, node.attends = scores, bool(scores)

    def _weigh(self, data: Data) -> None:
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
            constant = self.graph.constant(t)
            parameter = None if constant is None else constant.parameter
            if constant is None or parameter is None or parameter.ndim < 2:
                continue
            if t.ndim == 2 or (t.ndim > 2 and not constant.multiplied):
                found.append((parameter, t))
        return found

    def _begin(self, output: Tensor, parameter: Tensor, channel: int | None) -> Start:
        """Begin a layer at the product of a parameter and something made of the inputs."""
        node = self.graph.latest_node(output)
        name, trainable = self._modules.layer_of(parameter)
        start = Start(name, node, channel, parameter, trainable)
        node.origin, node.watched, node.activated = start, True, False
        self.starts.append(start)
        if self._keeps_starts:
            node.keep(output)
        return start

    def _note_constants(self, role: Role, operands: list[Tensor], results: list[Tensor]) -> None:
        """Note results that come from parameters or random numbers, not from the inputs."""
        known = [c for t in operands if (c := self.graph.constant(t)) is not None]
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
                constant = Constant(weakref.ref(r), largest, random, multiplied)
                self.graph.note_constant(r, constant)

    # Where the samples are

    def _regained(self, name: str, args: tuple[Any, ...], result: Tensor) -> int | None:
        """The axis of samples after functions that put scattered samples together again."""
        if name == "_pad_packed_sequence":
            return 0 if args[2] else 1  # its third argument is batch_first
        constant = self.graph.constant(result)
        if constant is not None and constant.axis is not None:
            return constant.axis
        # A graph network adds up messages for each node.
        alike = [k for k, length in enumerate(result.shape) if length == self.graph.samples]
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
        found, _ = self.graph.split([output])
        node = found[0][1] if found else None
        if self._by_function and (is_whole(module) or self._adapts(module)):
            node = self._join(given, output, Kind.OTHER)
            start = Start(name, node, -1, None, self._modules.trains(module, within=True))
            node.origin, node.watched, node.activated = start, True, False
            self.starts.append(start)
            node.keep(output)
            for other in outputs[1:]:
                axis = self.graph.axis(other, [(output, node)])
                if isinstance(module, nn.RNNBase) and other.ndim == 3:
                    axis = 1  # the last states are (layers, samples, features)
                self.graph.add(other, Kind.OTHER, (node,), axis)
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
        return not begun or not any(descends(s.node, begun[-1]) for s in self.starts)

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
        source = self.graph.node_of(given[0]) if alone and len(given) == 1 else None
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
        data, _ = self.graph.split(given)
        follows = bool(data) and self._follows(kind, [n for _, n in data])
        self.graph.consume(data, kind, follows)
        node = self.graph.make(output, kind, data, follows)
        if kind is Kind.POINTWISE:
            node.affine, node.activated = False, True  # nothing tells that it scales or shifts
        return node

    def begin_module(self, name: str, node: Node | None, output: Tensor, module: nn.Module) -> None:
        """Begin a layer at the output of a chosen module."""
        if node is None:
            node = self.graph.add(output, Kind.OTHER, (), None)
        channel = channel_axis(module, output)
        self.starts.append(
            Start(name, node, agreed_channel_axis(node) if channel is None else channel)
        )
        node.watched = node.chosen = True
        node.keep(output)

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


def _axes_of(constant: Constant) -> int:
    return constant.parameter.ndim if constant.parameter is not None else 0
