"""Forward pre-hooks for plugins that attach to modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

__all__ = ["OwnHook", "register_first"]


class OwnHook:
    """A hook of one module only: in a copy or pickle of the module it does nothing."""

    def __init__(self, call: Callable[..., Any] | None = None) -> None:
        self._call = call

    def __call__(self, *args: Any) -> Any:
        return None if self._call is None else self._call(*args)

    def __reduce__(self) -> tuple[type[OwnHook], tuple[()]]:
        return OwnHook, ()


def register_first(module: nn.Module, hook: OwnHook) -> RemovableHandle:
    """Register a forward pre-hook that runs before the ones that the module has already.

    With torch's own ``prepend=True`` the compiler of torch 2.11 mistakes one hook for another.
    """
    hooks = module._forward_pre_hooks
    others = list(hooks)
    handle = module.register_forward_pre_hook(hook)
    for key in others:
        hooks[key] = hooks.pop(key)
    return handle
