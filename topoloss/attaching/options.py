"""Check the options of `attach` and `observe` before any hook is put on a model."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from topoloss import components
from topoloss.attaching.layers import Choice, Layers
from topoloss.attaching.modules import refuse_compiled
from topoloss.attaching.passes import Watching
from topoloss.errors import (
    InputError,
    OptionError,
    check_choice,
    check_flag,
    check_number,
    nearest,
    shown,
)
from topoloss.plugins import available
from topoloss.regularisers import Regulariser
from topoloss.samplers import Sampler

__all__ = ["checked", "made_regulariser", "made_sampler", "unknown_option"]


def unknown_option(function: Callable[..., Any], given: str) -> OptionError:
    """An error that lists the options of `attach` or `observe`."""
    name = function.__name__
    if given == "watch":
        return OptionError(f"{name} has no option 'watch' any more: every pass is watched.")
    known = [
        p.name
        for p in inspect.signature(function).parameters.values()
        if p.kind is not p.VAR_KEYWORD and p.name not in ("model", "regulariser")
    ]
    told = f"{name} has no option {given!r}; its options are {known}.{nearest(given, known)}"
    if "regulariser" in inspect.signature(function).parameters:
        told += (
            " Options of a regulariser follow its name, attach(model, 't2[alpha=0.5]'), or are "
            "given to an instance, attach(model, topoloss.regulariser('t2', alpha=0.5)). To "
            "weight the penalty, multiply it: loss + 1e-3 * penalty()."
        )
    return OptionError(told)


def checked(model: nn.Module, layers: Layers, units: str, watching: Watching) -> Choice:
    """Check the options, and return which layers they choose."""
    if not isinstance(model, nn.Module):
        raise InputError(f"model is {shown(model)}; expected a torch.nn.Module.")
    check_choice("units", units, ("unit", "channel"))
    # A tensor has at most 64 axes.
    check_number("batch_dim", watching.batch_dim, whole=True, least=-64, most=63)
    check_flag("after_activation", watching.after_activation)
    check_flag("eval_pass", watching.repeats)
    mask = watching.mask
    if mask is not None and not isinstance(mask, str) and not callable(mask):
        raise OptionError(
            f"mask={shown(mask)} was given; expected the name of an argument of the model, or a "
            "function (args, kwargs) -> Tensor of shape (samples, positions)."
        )
    if mask is not None and units == "unit":
        raise OptionError(
            "mask= takes positions out of the samples, but with units='unit' positions are parts "
            "of neurons, not samples; pass units='channel', where each position is a sample."
        )
    if isinstance(mask, str):
        taken = inspect.signature(model.forward).parameters.values()
        if all(p.name != mask and p.kind is not p.VAR_KEYWORD for p in taken):
            names = [p.name for p in taken]
            raise OptionError(
                f"mask={mask!r} is not an argument of {type(model).__name__}, which takes {names}."
                f"{nearest(mask, names)}"
            )
    refuse_compiled(model)
    return Choice(model, layers)


def made_sampler(given: str | Sampler, fraction: float | None) -> Sampler:
    """The sampler of that name, with the fraction; or the one that was given."""
    if isinstance(given, str):
        return components.sampler(given, **({} if fraction is None else {"fraction": fraction}))
    if not isinstance(given, Sampler):
        raise OptionError(
            f"sampler is {shown(given)}; expected a name of {available('sampler')} or a "
            "topoloss.Sampler."
        )
    if fraction is not None:
        raise OptionError(
            f"fraction={shown(fraction)} was given together with a sampler instance; give it to "
            "the sampler."
        )
    return given


def made_regulariser(given: str | Regulariser) -> Regulariser:
    if isinstance(given, str):
        return components.regulariser(given)
    if not isinstance(given, Regulariser):
        raise OptionError(
            f"regulariser is {shown(given)}; expected a name of {available('regulariser')} "
            "or a topoloss.Regulariser."
        )
    return given
