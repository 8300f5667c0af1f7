"""Recorded layers as matrices of neurons: units, masks, and which of them take part."""

from __future__ import annotations

from math import prod
from typing import Literal

import torch
from torch import Tensor

from topoloss.attaching.functions import version_of
from topoloss.attaching.passes import Pass
from topoloss.attaching.reading import Record
from topoloss.errors import AttachmentError, OptionError
from topoloss.samplers import Sampler

__all__ = ["Units", "check_usable", "chosen_neurons", "matrices"]

Units = Literal["unit", "channel"]


class _LeftOut(Exception):  # noqa: N818
    """Why a layer has no neurons that can be compared with the others'."""


def matrices(made: Pass, units: Units, strict: bool) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return each layer as (samples, neurons), and why others are left out.

    Parameters
    ----------
    made : Pass
    units : {"unit", "channel"}
    strict : bool
        Raise instead of leaving a layer out; for layers that the user named.
    """
    found: dict[str, Tensor] = {}
    left_out: dict[str, str] = {}
    mask = made.mask
    if mask is not None and (mask.ndim != 2 or mask.shape[0] != made.samples):
        raise AttachmentError(
            f"mask= gave a tensor of shape {tuple(mask.shape)}; expected (samples, positions), "
            f"here ({made.samples}, positions): the name of an argument of the model that holds "
            "one, or a function (args, kwargs) -> Tensor."
        )
    if mask is not None and not ((mask == 0) | (mask == 1)).all():
        raise AttachmentError(
            f"mask= gave values from {float(mask.min()):g} to {float(mask.max()):g}; expected 1 or "
            "True where a position counts and 0 or False where it does not. Convert another kind "
            "of mask with a function: mask=lambda args, kwargs: ..."
        )
    for record in made.records:
        try:
            found[record.name] = _matrix(record, made.samples, units, mask)
        except _LeftOut as why:
            if strict:
                raise AttachmentError(
                    f"layer {record.name!r} {why}. Choose other layers with layers=."
                ) from None
            left_out[record.name] = str(why)
    return found, left_out


def check_usable(made: Pass) -> None:
    """Raise if recorded tensors were lost or changed in place, or lack gradients needed now."""
    for record in made.records:
        tensor = record.tensor
        if tensor is None:
            raise AttachmentError(
                f"the output of layer {record.name!r} could not be followed through the forward "
                "pass; name the module to observe with layers=."
            )
        if record.version is not None and record.version != version_of(tensor):
            raise AttachmentError(
                f"the output of layer {record.name!r} was changed in place after it was recorded "
                "(for example by 'out += x'), so its values are lost. Write 'out = out + x', or "
                "choose other layers with layers=."
            )
    without = [r.name for r in made.records if not r.with_grad]
    lost = len(without) == len(made.records) or any(r.bypassed for r in made.records)
    if torch.is_grad_enabled() and without and lost:
        raise AttachmentError(
            f"the layers {without} ran without gradients in the latest forward pass, but "
            "gradients are on now, so the penalty would have none. Run the model with "
            "gradients (with checkpointing: use_reentrant=False), call penalty() under "
            "torch.no_grad() too, or choose other layers with layers=."
        )


@torch.no_grad()
def chosen_neurons(layers: dict[str, Tensor], sampler: Sampler) -> dict[str, Tensor]:
    """Indices of the neurons that take part; the last layer is taken whole."""
    chosen = {}
    for name, x in layers.items():
        if name == next(reversed(layers)):
            chosen[name] = torch.arange(x.shape[1], device=x.device)
        else:
            chosen[name] = sampler.select(x.detach())
            _check_index(chosen[name], x.shape[1], sampler)
    return chosen


def _matrix(record: Record, samples: int | None, units: Units, mask: Tensor | None) -> Tensor:
    x = record.tensor
    assert x is not None
    if not record.descends:
        raise _LeftOut("is not computed from the model's inputs, so it has no samples")
    if not x.is_floating_point():
        raise _LeftOut(f"has output of {x.dtype}, and only floating-point numbers can be compared")
    if torch.is_grad_enabled() and not record.with_grad:
        raise _LeftOut("ran without gradients, so no gradient of a penalty would reach it")
    axis = record.axis
    folded = record.folded
    if samples is None:
        raise _LeftOut("has no sample axis, as no input of the model has the axis batch_dim")
    if axis is None or (folded and units == "unit"):
        hint = "; units='channel' takes positions folded into axis 0 as samples" if folded else ""
        if axis is None and samples in x.shape:
            raise _LeftOut(
                f"has output of shape {tuple(x.shape)}, and it could not be told from what the "
                f"model did whether an axis counts the {samples} samples of the model's inputs"
            )
        raise _LeftOut(
            f"has output of shape {tuple(x.shape)}, in which no axis counts the {samples} samples "
            f"of the model's inputs{hint}"
        )
    x = x.movedim(axis, 0)
    if x.ndim == 1:
        return x[:, None]
    if units == "unit":
        return x.flatten(1)
    return _channels(record, x, axis, mask)


def _channels(record: Record, x: Tensor, axis: int, mask: Tensor | None) -> Tensor:
    """Each channel is a column; the positions that the mask keeps are further samples."""
    assert record.tensor is not None
    channel = record.channel_axis if x.ndim > 2 else -1
    if channel is None:
        raise AttachmentError(
            f"layer {record.name!r} has output of shape {tuple(record.tensor.shape)}, and which "
            "axis holds its channels is not known; choose other layers with layers=, or "
            "units='unit'."
        )
    channel %= x.ndim
    # The samples' axis was moved to the front.
    channel += channel < axis
    x = x.movedim(channel, -1)
    positions = prod(x.shape[1:-1])
    if mask is None or x.ndim == 2:
        return x.flatten(0, -2)
    if mask.shape != (x.shape[0], positions):
        raise _LeftOut(
            f"has output of shape {tuple(record.tensor.shape)}, with {positions} positions, but "
            f"the mask has shape {tuple(mask.shape)}"
        )
    return x.reshape(mask.shape[0], positions, x.shape[-1])[mask.bool()]


def _check_index(index: object, n: int, sampler: Sampler) -> None:
    """Raise unless `index` holds ascending, distinct indices below `n`."""
    if not isinstance(index, Tensor) or index.dtype != torch.int64 or index.ndim != 1:
        expected = "a 1-d tensor of int64 (of a mask: mask.nonzero()[:, 0])"
    elif index.device.type != "cpu":
        return  # to read its values would wait for the device
    elif len(index) and not (int(index[0]) >= 0 and int(index[-1]) < n):
        expected = f"indices from 0 to {n - 1}"
    elif bool((index[1:] <= index[:-1]).any()):
        expected = "distinct indices in ascending order"
    else:
        return
    raise OptionError(
        f"{type(sampler).__name__}.select returned {index!r} for {n} neurons; expected {expected}."
    )
