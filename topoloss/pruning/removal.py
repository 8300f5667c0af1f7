"""Take redundant neurons out of a model."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from fractions import Fraction
from heapq import heapify, heappop, heappush
from itertools import islice
from math import floor, prod
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from topoloss.attaching.layers import Choice, Layers
from topoloss.attaching.observation import looking
from topoloss.errors import AttachmentError, OptionError, check_flag, check_number
from topoloss.pruning.data import Data, batches, run
from topoloss.pruning.folding import Channels, Fold, cheapest, copies, fold
from topoloss.pruning.wiring import Reader, Wire, given_to, weight_of, wires

__all__ = ["prune"]

_Model = TypeVar("_Model", bound=nn.Module)

# Attributes in which modules between layers keep their number of channels.
_COUNTS = ("num_features", "num_parameters", "in_channels", "out_channels", "groups")
_LOGGER = logging.getLogger("topoloss.pruning")


def prune(
    model: _Model,
    data: Data,
    *,
    level: float | None = None,
    share: float | None = None,
    refit: bool = False,
    layers: Layers = "auto",
) -> _Model:
    """Return a smaller copy of a model, without neurons that copy others or never change.

    The effect of a constant neuron is added to the biases of the layers that read it. The weights
    that read a copy are added to those that read the neuron it copies. By default the outputs on
    the given data stay the same, up to rounding; `level` or `share` take out more.

    Parameters
    ----------
    model : Module
        Linear layers and convolutions, with batch normalisation, elementwise activations, pooling
        and flattening between them. It is run in evaluation mode, and left as it was.
    data : Tensor, tuple, dict, or iterable of these
        What the model takes, without labels: one batch, or several. The inputs of all layers that
        read neurons to prune are held in memory at once.
    level : float, optional
        From 0, the default, to 1. One neuron stays of each group that is joined by edges of the
        layer's spanning tree with deaths ``1 - |r|`` of at most `level`. At 0 only neurons go that
        equal a multiple of another plus a constant, up to rounding.
    share : float, optional
        Instead of `level`: the share to take out, from 0 to 1, of the neurons of all layers that
        can lose some. Neurons that never change go first. Then, one by one, the neuron goes whose
        removal changes least what the next layer computes, so a large neuron is kept even if it
        correlates with another. Each layer keeps at least one.
    refit : bool
        Replace each neuron that goes by the least-squares combination, on `data`, of all that stay
        in its layer, instead of a multiple of the most similar one.
    layers : "auto", str, type, or sequence of str and type
        Which linear layers and convolutions lose neurons. ``"auto"``: all whose readers are known.
        A layer that is given by name or type must have known readers.

    Returns
    -------
    Module
        Of the same class, with modules of the same classes but fewer channels. The logger
        ``topoloss.pruning`` says at level INFO what became of each layer.

    Raises
    ------
    OptionError
        For options out of range, or both `level` and `share`.
    AttachmentError
        If the readers of a given layer are not known, for example because a skip connection adds
        it to another layer; or if no layer can lose neurons. The model is not changed.

    Notes
    -----
    A convolution loses only whole channels. If a convolution that reads the layer pads with zeros,
    its bias cannot take up a constant: then only a constant of 0 goes as one, and a copy must be a
    multiple without a shift. Deaths are then those of the filtration ``cosine``.

    Correlations are computed in float64 on the CPU from what the next layers read: the outputs
    after activation, pooling and normalisation. Groups are formed as in :func:`redundancy`. All
    replacements are found on the activations of the unpruned model.

    Examples
    --------
    >>> import torch, topoloss
    >>> _ = torch.manual_seed(0)  # with some weights a neuron is dead, and goes, too
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> with torch.no_grad():
    ...     _ = model[0].weight[4:].copy_(model[0].weight[:4])
    ...     _ = model[0].bias[4:].copy_(model[0].bias[:4])
    >>> smaller = topoloss.prune(model, torch.randn(100, 3))
    >>> smaller[0]
    Linear(in_features=3, out_features=4, bias=True)
    """
    if level is not None and share is not None:
        raise OptionError(f"level={level} and share={share} were given; expected one of them.")
    if share is not None:
        check_number("share", share, least=0, most=1)
    if level is None:
        level = 0.0
    check_number("level", level, least=0, most=1)
    check_flag("refit", refit)
    with looking(model):
        given = list(batches(data))
        chosen = _chosen(model, given[0], layers)
        channels = _channels(model, given, chosen)
    if share is None:
        removed = {name: copies(c, level) for name, c in channels.items()}
    else:
        removed = _share(channels, share)
    folds = {name: fold(c, removed[name], refit) for name, c in channels.items()}
    smaller = copy.deepcopy(model)
    with torch.no_grad():
        # All readers first: a fold refers to channels by their numbers before any is cut.
        for name, made in folds.items():
            for reader in chosen[name].readers:
                _stand_in(smaller.get_submodule(reader.name), reader, made)
        for name, made in folds.items():
            _cut(smaller, chosen[name], made.kept)
            n = len(made.kept) + len(made.removed)
            _LOGGER.info("%s: %d of %d channels stay", name, len(made.kept), n)
    return smaller


def _chosen(model: nn.Module, batch: Any, layers: Layers) -> dict[str, Wire]:
    """The layers that lose channels."""
    choice = Choice(model, layers)
    found = wires(model, batch)
    if choice.rule == "named":
        others = [name for name in choice.named if name not in found]
        if others:
            raise AttachmentError(
                f"layers={others} are not among the linear layers and convolutions {list(found)}."
            )
        found = {name: wire for name, wire in found.items() if name in choice.modules}
        blocked = [f"{name!r} {wire.obstacle}" for name, wire in found.items() if wire.obstacle]
        if blocked:
            raise AttachmentError(
                f"layers= names layers that cannot lose channels: {'; '.join(blocked)}. "
                "layers='auto' skips such layers."
            )
    for name, wire in found.items():
        if wire.obstacle:
            _LOGGER.info("%s: all channels stay, as it %s", name, wire.obstacle)
    chosen = {name: wire for name, wire in found.items() if not wire.obstacle}
    if not chosen:
        reasons = "; ".join(f"{name!r} {wire.obstacle}" for name, wire in found.items())
        raise AttachmentError(
            f"no layer of {type(model).__name__} can lose channels: "
            f"{reasons or 'it has no linear layers or convolutions'}."
        )
    return chosen


def _channels(model: nn.Module, given: list[Any], chosen: dict[str, Wire]) -> dict[str, Channels]:
    """Run the model, and record the inputs of the readers."""
    seen: dict[str, list[Tensor]] = {name: [] for name in chosen}
    hooks = []
    for name, wire in chosen.items():
        for reader in wire.readers:
            module = model.get_submodule(reader.name)
            hook = _keeping(seen[name], reader, isinstance(module, nn.Linear))
            hooks.append(module.register_forward_pre_hook(hook, with_kwargs=True))
    try:
        for batch in given:
            run(model, batch)
    finally:
        for handle in hooks:
            handle.remove()
    shifts = {name: not any(r.pads for r in wire.readers) for name, wire in chosen.items()}
    return {
        name: Channels(torch.cat(parts), _read_by(model, chosen[name]), shifts[name])
        for name, parts in seen.items()
    }


def _read_by(model: nn.Module, wire: Wire) -> Tensor:
    """All weights that multiply a layer's channels, shape (m, n)."""
    weights = []
    for reader in wire.readers:
        weight = weight_of(model.get_submodule(reader.name)).double().cpu()
        by_channel = weight.reshape(weight.shape[0], -1, reader.columns * prod(weight.shape[2:]))
        weights.append(by_channel.movedim(1, -1).flatten(0, -2))
    return torch.cat(weights)


def _keeping(
    seen: list[Tensor], reader: Reader, last: bool
) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x: Any = given_to(args, kwargs).detach()
        if not last:
            x = x.movedim(1, -1)
        elif reader.columns > 1:
            x = x.unflatten(-1, (-1, reader.columns)).movedim(-1, -2)
        # A copy, because a later in-place operation would change the original.
        seen.append(x.reshape(-1, x.shape[-1]).to("cpu", copy=True))

    return keep


def _share(channels: dict[str, Channels], share: float) -> dict[str, list[int]]:
    """The channels that each layer loses if those go first whose removal changes least."""
    removed: dict[str, list[int]] = {name: [] for name in channels}
    queues = {name: cheapest(c) for name, c in channels.items()}
    ahead = [(*first, name) for name, queue in queues.items() for first in islice(queue, 1)]
    heapify(ahead)
    # The share as it was written: 0.29 of 100 is 29, though the float 0.29 is a little less.
    taken = floor(Fraction(str(share)) * sum(c.x.shape[1] for c in channels.values()))
    for _ in range(taken):
        if not ahead:
            break
        _, k, name = heappop(ahead)
        removed[name].append(k)
        for following in islice(queues[name], 1):
            heappush(ahead, (*following, name))
    return removed


def _stand_in(module: nn.Module, reader: Reader, made: Fold) -> None:
    """Make a reader read the channels that stay, instead of those that go."""
    old = weight_of(module)
    # One axis for the channels, and one for all weights of a channel.
    weight = old.double().reshape(old.shape[0], len(made.kept) + len(made.removed), -1).cpu()
    gone = weight[:, made.removed]
    weight[:, made.kept] += torch.einsum("orp,rk->okp", gone, made.weights)
    shift = gone.sum(2) @ made.shifts
    if isinstance(module.bias, Tensor):
        module.bias += shift.to(module.bias)
    elif shift.any():
        module.bias = nn.Parameter(shift.to(old), requires_grad=old.requires_grad)
    stays = weight[:, made.kept].reshape(old.shape[0], -1, *old.shape[2:])
    _replace(module, "weight", stays.to(old))
    attribute = "in_features" if isinstance(module, nn.Linear) else "in_channels"
    setattr(module, attribute, stays.shape[1])


def _cut(model: nn.Module, wire: Wire, kept: Tensor) -> None:
    """Take channels out of a layer, and out of the modules between it and its readers."""
    module = model.get_submodule(wire.name)
    for name in ("weight", "bias"):
        _keep(module, name, kept)
    attribute = "out_features" if isinstance(module, nn.Linear) else "out_channels"
    setattr(module, attribute, len(kept))
    for name, columns in wire.between.items():
        module = model.get_submodule(name)
        units = (kept[:, None] * columns + torch.arange(columns)).flatten()
        for own in ("weight", "bias", "running_mean", "running_var"):
            _keep(module, own, units)
        for attribute in _COUNTS:
            if hasattr(module, attribute):
                setattr(module, attribute, len(units))


def _keep(module: nn.Module, name: str, index: Tensor) -> None:
    tensor = getattr(module, name, None)
    if tensor is not None:
        _replace(module, name, tensor[index.to(tensor.device)])


def _replace(module: nn.Module, name: str, tensor: Tensor) -> None:
    old = getattr(module, name)
    if isinstance(old, nn.Parameter):
        tensor = nn.Parameter(tensor, requires_grad=old.requires_grad)
    setattr(module, name, tensor)
