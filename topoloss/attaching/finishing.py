"""The end of a watched pass: which layers it has, and what the user is told of it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from traceback import extract_tb
from typing import Any

import torch
from torch import Tensor, nn

from topoloss.attaching.functions import tensors_within
from topoloss.attaching.layers import Choice
from topoloss.attaching.modules import Modules, own_modules
from topoloss.attaching.nodes import Start
from topoloss.attaching.passes import Mask, Pass, Running, Watching
from topoloss.attaching.reading import read
from topoloss.attaching.weights import own_matrix
from topoloss.errors import AttachmentError, nearest, shown

__all__ = ["finished", "length", "note_arguments"]


def finished(
    running: Running, model: nn.Module, modules: Modules, choice: Choice, watching: Watching
) -> Pass:
    """Make a pass of what was watched, and free the rest."""
    watch = running.watch
    made = Pass(samples=watch.graph.samples, error=running.error, notes=running.notes)
    made.marks.trains = model.training and torch.is_grad_enabled()
    note_arguments(made, watching, model, *running.arguments)
    starts = _starts(running, model, modules, choice)
    made.records = read(starts, made.samples, watching.after_activation)
    watch.graph.release()
    if choice.rule == "auto":
        made.notes += _uncovered(running, modules)
        for names, why, note in (_apart(running, modules), _unused(running, model)):
            if names:
                made.left_out |= dict.fromkeys(names, why)
                made.notes.append(_left_out(names, note))
    made.error = made.error or next(_errors(made, running, model, choice, watching), "")
    return made


def note_arguments(
    made: Pass,
    watching: Watching,
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    """Keep what is needed of the model's arguments: its input, and the mask."""
    axis = watching.batch_dim
    floating = (t for t in tensors_within((args, kwargs)) if t.is_floating_point())
    made.inputs = next((t for t in floating if length(t, axis) == made.samples), None)
    if watching.mask is not None:
        try:
            made.mask = _mask(watching.mask, model, args, kwargs)
        except AttachmentError as error:
            made.error = made.error or str(error)
        except Exception as error:  # the user's function; the model's pass goes on
            where = extract_tb(error.__traceback__)[-1]
            made.error = made.error or (
                f"the function mask= raised {type(error).__name__}: {error} ({where.filename}, "
                f"line {where.lineno})."
            )


def length(tensor: Tensor, axis: int) -> int | None:
    """How long an axis of a tensor is; None if the tensor has no such axis."""
    return tensor.shape[axis] if -tensor.ndim <= axis < tensor.ndim else None


def _mask(
    mask: Mask, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor | None:
    given: Any
    if not isinstance(mask, str):
        given = mask(args, kwargs)
    elif mask in kwargs:
        given = kwargs[mask]
    else:
        names = list(inspect.signature(model.forward).parameters)
        if mask not in names:
            raise AttachmentError(
                f"mask={mask!r} names no argument of {type(model).__name__}, and the latest "
                f"forward pass was given none of this name; its arguments are {names}."
                f"{nearest(mask, names)}"
            )
        given = args[names.index(mask)] if names.index(mask) < len(args) else None
    if given is not None and not isinstance(given, Tensor):
        raise AttachmentError(
            f"mask= gave {shown(given)}; expected a tensor of shape (samples, positions), or None "
            "where every position counts."
        )
    return given


# Where layers begin


def _starts(running: Running, model: nn.Module, modules: Modules, choice: Choice) -> list[Start]:
    watch = running.watch
    if choice.rule == "named":
        return watch.starts
    if choice.rule == "trainable":
        return watch.starts + _covers(running, modules, frozenset(choice.modules))
    trained = any(p.requires_grad for p in model.parameters())
    return [
        s
        for s in watch.starts
        if s.node in watch.graph.live and not s.inner and (s.trainable or not trained)
    ]


def _covers(running: Running, modules: Modules, chosen: frozenset[str]) -> list[Start]:
    """Begin layers where a parameter is used, but no chosen module that owns it was called."""
    starts = []
    for parameters, node in running.watch.used:
        owners = [each for p in parameters for each in modules.owners(p)]
        if any(m in running.called and n in chosen for n, m in owners):
            continue
        name = next((n for n, _ in owners if n in chosen), None)
        tensor = node.reference()
        if name is not None and node in running.watch.graph.live:
            if tensor is not None:
                node.keep(tensor)
            starts.append(Start(name, node, -1))
    return starts


# What the user is told


def _errors(
    made: Pass, running: Running, model: nn.Module, choice: Choice, watching: Watching
) -> Iterator[str]:
    """Why a pass cannot be used."""
    modules = dict(model.named_modules()) if choice.modules else {}
    hooked = {name for name, each in modules.items() if each._forward_hooks}
    replaced = [name for name in choice.modules if name not in hooked]
    if replaced:
        yield (
            f"the modules {replaced} were replaced after the model was attached to; attach again."
        )
    missing = [name for name in choice.named if name not in running.calls]
    if missing:
        yield (
            f"the modules {missing}, chosen by layers=, were not called in the latest forward "
            "pass; choose modules that the model calls."
        )
    unseen = [r.name for r in made.records if r.unseen and watching.after_activation]
    if unseen:
        yield (
            f"the output of layer {unseen[0]!r} goes into something that no torch function "
            "mode sees (a compiled, scripted or traced function, torch.vmap), so it is not "
            "clear whether an activation follows. If it is an activation, make it a module of its "
            "own; otherwise take modules' outputs as they are: after_activation=False."
        )


def _apart(running: Running, modules: Modules) -> tuple[list[str], str, str]:
    """Layers whose input does not come from the model's inputs, why they have no record, a note."""
    watch = running.watch
    observed = {start.name for start in watch.starts}
    names = {modules.layer_of(p)[0] for p in watch.apart} - observed
    return (
        sorted(names),
        "is not computed from the model's inputs, so it has no samples",
        "what is not computed from the model's inputs has no samples.",
    )


def _unused(running: Running, model: nn.Module) -> tuple[list[str], str, str]:
    """Called modules whose weight was not seen in use, why they have no record, and a note."""
    watch = running.watch
    read = {id(p) for p in watch.read}
    # Compare names, too: a sharded parameter is another tensor while its module runs.
    names = {start.name.removesuffix(".weight") for start in watch.starts}
    unused = [
        name
        for name, each in own_modules(model)
        if each in running.fed and name not in names
        for weight in [own_matrix(each)]
        if weight is not None and weight.requires_grad and id(weight) not in read
    ]
    unseen = "no product of its weight with something made of the model's inputs was seen"
    return (
        unused,
        f"was called, but {unseen}",
        f"{unseen}, though it was called (torch does not show what happens inside a traced or "
        "scripted function, or torch.vmap); name such a layer, or the module around it, with "
        "layers=.",
    )


def _uncovered(running: Running, modules: Modules) -> list[str]:
    """Notes on matrices that multiply activations entry by entry and belong to no layer."""
    covered = [start.parameter for start in running.watch.starts]
    names = []
    for tensor in running.watch.multiplied:
        if all(tensor is not p for p in covered):
            owner, module = modules.owners(tensor)[0]
            own = next(k for k, p in module._parameters.items() if p is tensor)
            names.append(".".join(filter(None, (owner, own))))
    if not names:
        return []
    return [
        f"activations are multiplied, entry by entry, by the parameters {sorted(set(names))}, "
        "which no layer covers; if a layer is computed in this way, name its module with "
        "layers=."
    ]


def _left_out(names: list[str], reason: str) -> str:
    """One note on all layers that are left out for the same reason."""
    shown_names = ", ".join(repr(name or "(model)") for name in names)
    which = f"layer {shown_names} is" if len(names) == 1 else f"layers {shown_names} are"
    return f"{which} left out: {reason}"
