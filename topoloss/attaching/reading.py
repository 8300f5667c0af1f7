"""Read the layers off the graph of a pass, with the tensor of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Any

from torch import Tensor

from topoloss.attaching.functions import Kind, version_of
from topoloss.attaching.nodes import Node, Start

__all__ = ["Record", "Step", "fed_by", "read"]


@dataclass(eq=False, repr=False)
class Step:
    """How a compiled pass finds a layer's tensor: by functions of a module's output.

    Attributes
    ----------
    module, call
        The module, and at which of its calls.
    functions : list of callable
        Functions to apply to its output, one after the other.
    copy : bool
        Copy the output first, because the model or one of the functions may change it in place.
    """

    module: str
    call: int
    functions: list[Callable[[Tensor], Tensor]]
    copy: bool


@dataclass(eq=False, repr=False)
class Record:
    """A layer in one pass.

    Attributes
    ----------
    name : str
        ``name:2`` if it is the second of this name in the pass.
    tensor : Tensor or None
    axis : int or None
        The axis that counts samples; None where there is none, or it is not known.
    folded : bool
        Positions or windows are folded into that axis.
    channel_axis : int or None
        The axis of channels; None where it is not known.
    descends : bool
        It is an input of the model, or was computed from them.
    with_grad : bool
        Gradients were on, or the tensor requires one.
    bypassed : bool
        It ran without gradients inside a custom function whose result requires one, as reentrant
        checkpointing does.
    version : int or None
        How often the tensor had been changed in place when it was recorded.
    step : Step or None
        None where a compiled pass cannot find the tensor.
    start : Start or None
        Where the layer begins; None in a compiled pass.
    unseen : bool
        It is used by something that no torch function mode sees, so what follows is not known.
    """

    name: str
    tensor: Tensor | None
    axis: int | None
    folded: bool
    channel_axis: int | None
    descends: bool
    with_grad: bool
    bypassed: bool
    version: int | None
    step: Step | None
    start: Start | None = None
    unseen: bool = False


def read(starts: Iterable[Start], samples: int | None, after_activation: bool) -> list[Record]:
    """Return the layers in the order in which they begin, each tensor once.

    Parameters
    ----------
    starts : iterable of Start
    samples : int or None
        How many samples the model's inputs have.
    after_activation : bool
        Take each layer where it ends; otherwise where it begins.
    """
    records: list[Record] = []
    calls: dict[str, int] = {}
    taken: set[Node] = set()
    for start in sorted(starts, key=lambda s: s.node.index):
        node = _end(start.node) if after_activation else start.node
        if node in taken:
            continue
        taken.add(node)
        calls[start.name] = calls.get(start.name, 0) + 1
        records.append(_record(start, node, calls[start.name], samples))
    return records


def fed_by(record: Record, records: Iterable[Record]) -> set[str]:
    """Names of the layers whose values reach this one without passing through another."""
    starts = {r.start.node: r.name for r in records if r.start is not None and r is not record}
    assert record.start is not None
    pending, seen, found = list(record.start.node.parents), set(), set()
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        if node in starts:
            found.add(starts[node])
        elif node.parents:
            pending.extend(node.parents)
        else:
            found.add("(input)")
    return found


def _record(start: Start, node: Node, call: int, samples: int | None) -> Record:
    name = start.name or "(model)"
    tensor = node.kept
    # Inside a custom function gradients are off, though its result requires one.
    with_grad = node.with_grad or (tensor is not None and tensor.requires_grad)
    return Record(
        name if call == 1 else f"{name}:{call}",
        tensor,
        node.axis,
        tensor is not None and node.axis is not None and tensor.shape[node.axis] != samples,
        start.channel_axis,
        # An input itself has no parents, but an axis of samples.
        node.origin is not None or bool(node.parents) or node.axis is not None,
        with_grad,
        not with_grad and _is_bypassed(node),
        None if tensor is None else (version_of(tensor) if node.copied else node.version),
        _step(node),
        start,
        any(c.unseen for c in node.consumers),
    )


def _is_bypassed(node: Node) -> bool:
    """Whether something made from a node without gradients requires one in the end."""
    pending, seen = [node], {node}
    while pending:
        for consumer in pending.pop().consumers:
            if consumer.regains_grad:
                return True
            if not consumer.with_grad and consumer not in seen:
                seen.add(consumer)
                pending.append(consumer)
    return False


def _end(start: Node) -> Node:
    """The node at which a layer ends: all that the model makes of the layer passes through it.

    Only entry-by-entry functions, norms and dropout continue a layer. Dropout does so only where
    another of them follows, and never after an activation, so no layer ends with dropout.
    """
    # `firm` is the start, or the last node that a norm or an activation made, not just a scaling or
    # shift by plain numbers or a cast; `dropped` is the input of the first dropout after it.
    best = firm = current = start
    dropped: Node | None = None
    while not current.is_output:
        following = _meeting(current)
        if following is None or (following.kind is Kind.NORM and following.chosen):
            break  # a norm that was chosen is a layer of its own
        if following.detached:
            break  # no gradient of a penalty would pass from there
        if following.kind is Kind.RANDOM:
            # Dropout scales in training, but not in evaluation: end before it in both.
            best = dropped = dropped or best
            if firm.kind is Kind.POINTWISE:
                break
        else:
            best = following
            if following.kind is Kind.NORM or not following.affine:
                firm, dropped = following, None
        current = following
    return best


def _meeting(node: Node) -> Node | None:
    """The first node after this one through which all paths from this one pass, or None."""
    inside = {node}
    ahead = [(c.index, c) for c in node.consumers]
    heapify(ahead)
    while ahead:
        current = heappop(ahead)[1]
        while ahead and ahead[0][1] is current:
            heappop(ahead)
        if not current.follows or not inside.issuperset(current.parents):
            return None
        if not ahead:
            return current
        if current.is_output:
            return None
        inside.add(current)
        for consumer in current.consumers:
            heappush(ahead, (consumer.index, consumer))
    return None


def _step(node: Node) -> Step | None:
    """How to compute a node from the nearest module output before it, if nothing else is needed."""
    functions: list[Callable[[Tensor], Tensor]] = []
    current = node
    while current.module_call is None:
        if current.step is None or len(current.parents) != 1:
            return None
        functions.append(_applied(*current.step))
        (current,) = current.parents
    module, call = current.module_call
    return Step(module, call, functions[::-1], node.copied or bool(functions))


def _applied(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Callable[[Tensor], Tensor]:
    """A function of one tensor: `function` with its other arguments filled in."""

    def apply(x: Tensor) -> Tensor:
        result: Tensor = function(x, *args, **kwargs)
        return result

    return apply
