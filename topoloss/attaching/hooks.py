"""The hooks of an observation on its model, which are removed when the observation is freed."""

from __future__ import annotations

import copy
import warnings
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from topoloss.attaching.modules import own_modules
from topoloss.attaching.recording import Recorder
from topoloss.errors import AttachmentError, AttachmentWarning

__all__ = ["Link", "connect", "disconnect", "forgotten", "refuse_scripted"]


class Link:
    """What the hooks of an observation share; copies of hooks share a copy of it.

    A copied hook records nothing until a copied observation puts its recorder here.
    """

    def __init__(self) -> None:
        self.recorder: Recorder | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"recorder": None}


class _Hook:
    """A hook of one module; `kind` is the recorder's method that it calls."""

    def __init__(self, link: Link, kind: str, name: str, module: nn.Module | None = None) -> None:
        self.link = link
        self.kind = kind
        self.name = name
        self.module = None if module is None else weakref.ref(module)

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any = None) -> None:
        recorder = self.link.recorder
        if recorder is None:
            if not torch.compiler.is_compiling():
                _take_off(module, self.link)
        elif self.kind == "begin":
            recorder.begin(module, args, kwargs)
        elif torch.compiler.is_compiling():
            recorder.on_compiled(self.name, output, last=self.kind == "end")
        else:
            # What the recorder does with tensors is not part of the model's pass.
            with torch._C.DisableTorchFunction():
                if self.kind == "end":
                    recorder.end(module, output)
                else:
                    recorder.on_module(self.name, module, args, kwargs, output)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Hook, (self.link, self.kind, self.name)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Hook:
        link = copy.deepcopy(self.link, memo)
        module = None if self.module is None else self.module()
        copied = memo.get(id(module))
        if copied is not None:
            # Freed when the copying ends: only then is it known whether the observation was copied.
            memo.setdefault(id(memo), []).append(_WhenCopied(link, copied))
        return _Hook(link, self.kind, self.name, copied)


class _WhenCopied:
    """Takes the hooks off a copied module if its observation was not copied with it."""

    def __init__(self, link: Link, module: nn.Module) -> None:
        self._link, self._module = link, module

    def __del__(self) -> None:
        if self._link.recorder is None:
            _take_off(self._module, self._link)


def refuse_scripted(model: nn.Module) -> None:
    """Raise for a model with a scripted module, on which torch allows no hooks."""
    for name, module in own_modules(model):
        if isinstance(module, torch.jit._script.RecursiveScriptModule):
            raise AttachmentError(
                f"module {name!r} is scripted, and torch allows no hooks on it; put the module "
                "that it was made from in its place, and attach again."
            )


def connect(model: nn.Module, link: Link) -> None:
    """Put the hooks on the model."""
    # Begin before other hooks, which may change the inputs: a repeated pass then runs them once.
    # With torch's own prepend=True the compiler of torch 2.11 mistakes one hook for another.
    others = list(model._forward_pre_hooks)
    begin = _Hook(link, "begin", "", model)
    model.register_forward_pre_hook(begin, with_kwargs=True)
    for key in others:
        model._forward_pre_hooks[key] = model._forward_pre_hooks.pop(key)
    for name, module in model.named_modules():
        if module is not model and "parametrizations" not in name.split("."):
            module.register_forward_hook(_Hook(link, "on_module", name, module), with_kwargs=True)
    end = _Hook(link, "end", "", model)
    model.register_forward_hook(end, with_kwargs=True, always_call=True)


def disconnect(model: nn.Module, link: Link) -> None:
    """Take the hooks off, and free what was recorded."""
    if link.recorder is not None:
        link.recorder.forget()
        link.recorder = None
    for module in model.modules():
        _take_off(module, link)


_HOOKS = (
    "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_forward_hooks",
    "_forward_hooks_with_kwargs", "_forward_hooks_always_called",
)  # fmt: skip


def _take_off(module: nn.Module, link: Link) -> None:
    for kind in ("_forward_pre_hooks", "_forward_hooks"):
        hooks: Mapping[int, Any] = getattr(module, kind, {})
        ours = [k for k, h in hooks.items() if isinstance(h, _Hook) and h.link is link]
        for key in ours:
            for each in _HOOKS:
                getattr(module, each, {}).pop(key, None)


class _Forgotten:
    """Warns once, at the next pass, of an attachment that nobody kept."""

    def __call__(self, module: nn.Module, args: Any) -> None:
        for key, hook in list(module._forward_pre_hooks.items()):
            if isinstance(hook, _Forgotten):
                module._forward_pre_hooks.pop(key)
        warnings.warn(
            f"an attachment to this {type(module).__name__} was dropped before the model was "
            "run: keep what topoloss.attach or topoloss.observe returns, as in "
            "penalty = topoloss.attach(model).",
            AttachmentWarning,
            stacklevel=2,
        )


def forgotten(model: nn.Module) -> None:
    """Warn at the model's next pass."""
    if not any(isinstance(h, _Forgotten) for h in model._forward_pre_hooks.values()):
        model.register_forward_pre_hook(_Forgotten())
