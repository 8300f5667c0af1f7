"""The modules of a model: their names, their parameters, and which kind each is of."""

from __future__ import annotations

import contextlib
import copy
import weakref
from collections.abc import Iterator
from typing import TypeAlias

import torch
from torch import Tensor, nn

from topoloss.attaching.functions import works_entry_by_entry
from topoloss.errors import AttachmentError

__all__ = [
    "Modules", "adapted", "channel_axis", "is_compiled", "is_norm", "is_whole", "own_modules",
    "refuse_compiled", "trainable",
]  # fmt: skip

# Each of these counts as one linear map, though it does more.
_WHOLE = (nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase, nn.Bilinear)
_CHANNELS_SECOND = (
    nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.PReLU
)  # fmt: skip
_CHANNELS_LAST = (*_WHOLE, nn.Embedding, nn.Linear, nn.TransformerEncoderLayer)


# A name, a module, and a parameter that it holds.
_Owner: TypeAlias = tuple[str, "weakref.ref[nn.Module]", "weakref.ref[Tensor]"]


class Modules:
    """The modules of a model and the owners of its parameters, as they are now."""

    def __init__(self, model: nn.Module) -> None:
        self._model = weakref.ref(model)
        # By whether the module was training: what it does may differ.
        self._activations: weakref.WeakKeyDictionary[nn.Module, dict[bool, bool]] = (
            weakref.WeakKeyDictionary()
        )
        self._owners: dict[int, list[_Owner]] = {}

    def refresh(self) -> None:
        """Look at the model anew: modules and parameters may have been replaced."""
        self._owners = self._found()
        self._strangers: set[int] = set()

    def _found(self) -> dict[int, list[_Owner]]:
        model = self._model()
        assert model is not None
        found: dict[int, list[_Owner]] = {}
        # A tied parameter has all of its names, a module with several names only the first.
        for name, module in model.named_modules():
            for tensor in module._parameters.values():
                if tensor is not None:
                    owner = (name, weakref.ref(module), weakref.ref(tensor))
                    found.setdefault(id(tensor), []).append(owner)
        return found

    def owners(self, tensor: Tensor) -> list[tuple[str, nn.Module]]:
        """The modules that hold a tensor as their own parameter, with their names."""
        key = id(tensor)
        known = key in self._owners or key in self._strangers
        if not known and isinstance(tensor, nn.Parameter):
            # A sharded parameter is replaced by a whole one while its module runs.
            self._owners |= self._found()
            self._strangers.add(key)
        found = []
        for name, module, reference in self._owners.get(key, ()):
            owner = module()
            if owner is not None and reference() is tensor:
                found.append((name, owner))
        return found

    def layer_of(self, parameter: Tensor) -> tuple[str, bool]:
        """Name of the layer that multiplies by a parameter, and whether it is trained."""
        name, module = self.owners(parameter)[0]
        trained = any(p is not None and p.requires_grad for p in module._parameters.values())
        return self.layer_name(name, module, parameter), trained

    def layer_name(self, name: str, module: nn.Module, parameter: Tensor | None) -> str:
        """The module's name, and the parameter's after it where the module has several matrices."""
        own = _own_name(name)
        if own != name:
            return own  # a parametrised weight
        long = {k: p for k, p in module._parameters.items() if p is not None}
        matrices = [k for k, p in long.items() if sum(length > 1 for length in p.shape) >= 2]
        if len(matrices) < 2:
            return name
        mine = [k for k in matrices if module._parameters[k] is parameter]
        return ".".join(filter(None, (name, *mine[:1])))

    def trains(self, module: nn.Module, within: bool) -> bool:
        """Whether a module has a trainable parameter, of its own or somewhere within."""
        return any(p.requires_grad for p in module.parameters(recurse=within))

    def is_activation(self, module: nn.Module, x: Tensor) -> bool:
        """Whether a module has no matrices and works entry by entry; tried once in each mode."""
        found = self._activations.setdefault(module, {})
        if module.training not in found and x.numel() > 0:
            plain = (
                # Torch's own modules are known by the functions that they call.
                not type(module).__module__.startswith("torch.nn.modules.")
                and not any(module.children())
                and not any(True for _ in module.buffers())
                and all(p.ndim < 2 for p in module.parameters())
                and x.is_floating_point()
                and type(x) is Tensor
            )
            # The user's code may fail on fewer samples; the model's pass goes on.
            found[module.training] = False
            with torch._C.DisableTorchFunction(), contextlib.suppress(Exception):
                # With one sample it would not show whether samples are mixed.
                x = torch.cat([x[:4]] * 4)[:4]
                twin = _twin(module)
                found[module.training] = plain and works_entry_by_entry(twin.forward, x)
        return found.get(module.training, False)


def _twin(module: nn.Module) -> nn.Module:
    """A copy of a module that shares neither its counters, its lists nor its parameters."""
    twin = copy.copy(module)
    for name, value in vars(module).items():
        if isinstance(value, (dict, list, set)):
            setattr(twin, name, copy.copy(value))
    twin._parameters = copy.deepcopy(module._parameters)
    return twin


def _own_name(name: str) -> str:
    """The name of a module without what torch adds to it for parametrised weights."""
    parts = name.split(".")
    end = parts.index("parametrizations") if "parametrizations" in parts else None
    return ".".join(parts[:end])


def own_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """All modules by name, but for those that torch adds for parametrised weights."""
    for name, module in model.named_modules():
        if "parametrizations" not in name.split("."):
            yield name, module


def trainable(module: nn.Module) -> bool:
    """Whether a module has trainable parameters of its own."""
    parameters = list(module.parameters(recurse=False))
    parametrised = getattr(module, "parametrizations", None)
    if isinstance(parametrised, nn.Module):
        parameters += parametrised.parameters()
    return any(p.requires_grad for p in parameters)


def is_whole(module: nn.Module) -> bool:
    """Whether a module counts as one linear map, whatever it does inside."""
    return isinstance(module, _WHOLE)


def adapted(module: nn.Module) -> nn.Module | None:
    """The layer that a module holds and may adapt, as in fine-tuning."""
    # Low-rank adapters keep it under this name.
    layer = getattr(module, "base_layer", None)
    return layer if isinstance(layer, nn.Module) and hasattr(layer, "weight") else None


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a norm: it is called one, and all its parameters have one axis."""
    # A softmax with a learnt temperature, or a circulant map, has such parameters, too.
    named = "norm" in type(module).__name__.lower()
    parameters = list(module.parameters())
    scales = bool(parameters) and all(p.ndim == 1 for p in parameters)
    return named and scales and not any(module.children())


def channel_axis(module: nn.Module, value: Tensor) -> int | None:
    """The axis of channels in a module's output, or None where it is not known."""
    if value.ndim <= 2 or isinstance(module, _CHANNELS_LAST):
        return -1
    if isinstance(module, _CHANNELS_SECOND):
        return 1
    if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1:
        return -1
    return None


def is_compiled(module: nn.Module) -> bool:
    """Whether calling the module runs compiled code."""
    # Module.compile() sets the attribute, torch.compile() wraps the module in that type.
    compiled = getattr(module, "_compiled_call_impl", None) is not None
    return compiled or type(module).__name__ == "OptimizedModule"


def refuse_compiled(model: nn.Module) -> None:
    """Raise for a model that would not run hooks that are added now."""
    if isinstance(model, torch.jit.ScriptModule):
        raise AttachmentError(
            "the model is scripted or traced, and does not call its layers one by one; attach to "
            "the model that it was made from."
        )
    if any(map(is_compiled, model.modules())):
        raise AttachmentError(
            "the model is compiled already; attach first, run it once, then compile, so that "
            "the hooks are compiled with it."
        )
