"""Which modules of a model are its layers, and how their outputs are laid out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeAlias

import torch
from torch import Tensor, nn

from topoloss.errors import AttachmentError, OptionError, nearest

__all__ = [
    "Layers",
    "ancestors",
    "channel_axis",
    "own_modules",
    "patterns",
    "refuse_compiled",
    "select_layers",
]

Layers: TypeAlias = str | type[nn.Module] | Sequence[str | type[nn.Module]]

_CHANNELS_SECOND = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.PReLU,
)
_CHANNELS_LAST = (
    nn.Bilinear,
    nn.Embedding,
    nn.Linear,
    nn.MultiheadAttention,
    nn.RNNBase,
    nn.TransformerEncoderLayer,
)


def select_layers(model: nn.Module, layers: Layers | None) -> list[str]:
    """Return the names of the modules that `layers` means, in the order of the model."""
    modules = dict(own_modules(model))
    if layers is None:
        names = [name for name, module in modules.items() if _trainable(module)]
        if not names:
            raise AttachmentError(
                f"{type(model).__name__} has no trainable parameters; name the modules to observe "
                f"with layers=, among {list(modules)[1:]}."
            )
        return names
    chosen: set[str] = set()
    for pattern in patterns(layers):
        found = _matches(pattern, modules)
        if not found:
            hint = nearest(pattern, modules) if isinstance(pattern, str) and pattern else ""
            raise AttachmentError(
                f"layers={pattern!r} matches no module of {type(model).__name__}; "
                f"there are {list(modules)[1:]}.{hint}"
            )
        chosen.update(found)
    return [name for name in modules if name in chosen]


def patterns(layers: Layers) -> Sequence[str | type[nn.Module]]:
    """Return what `layers` lists, one by one."""
    if isinstance(layers, (str, type)):
        return [layers]
    if not isinstance(layers, (list, tuple, set, frozenset)) or not layers:
        raise OptionError(
            f"layers={layers!r} was given; expected a name, a glob, a module type, or a list of "
            "at least one of these."
        )
    return list(layers)


def _matches(pattern: object, modules: Mapping[str, nn.Module]) -> list[str]:
    if isinstance(pattern, str):
        return [name for name in modules if name and fnmatchcase(name, pattern)]
    if isinstance(pattern, type) and issubclass(pattern, nn.Module):
        return [name for name, module in modules.items() if isinstance(module, pattern)]
    raise OptionError(f"layers holds {pattern!r}; expected a name, a glob or a module type.")


def own_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """All modules by name, but for the machinery of parametrised weights."""
    for name, module in model.named_modules():
        if "parametrizations" not in name.split("."):
            yield name, module


def _trainable(module: nn.Module) -> bool:
    parameters = list(module.parameters(recurse=False))
    parametrised = getattr(module, "parametrizations", None)
    if isinstance(parametrised, nn.Module):
        parameters += parametrised.parameters()
    return any(p.requires_grad for p in parameters)


def ancestors(name: str) -> Iterator[str]:
    """The names of the modules around a module, the nearest first and the root, "", last."""
    while name:
        name = name.rpartition(".")[0]
        yield name


def channel_axis(module: nn.Module, value: Tensor) -> int | None:
    """The axis of the module's channels in what it put out, or None where it is not known."""
    if value.ndim <= 2 or isinstance(module, _CHANNELS_LAST):
        return -1
    if isinstance(module, _CHANNELS_SECOND):
        return 1
    if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1:
        return -1
    return None


def refuse_compiled(model: nn.Module) -> None:
    """Raise for a model that would not run hooks that are added now."""
    if isinstance(model, torch.jit.ScriptModule):
        raise AttachmentError(
            "the model is scripted or traced, and does not call its layers one by one; attach to "
            "the model that it was made from."
        )
    for module in model.modules():
        # compile() sets the one, torch.compile() wraps in the other.
        compiled = getattr(module, "_compiled_call_impl", None) is not None
        if compiled or type(module).__name__ == "OptimizedModule":
            raise AttachmentError(
                "the model is compiled already; attach first, run it once, then compile, so that "
                "the hooks are compiled with it."
            )
