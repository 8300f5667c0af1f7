"""What a plugin may contribute: signatures and docstrings only.

Every hook returns a dictionary from name to factory. A factory is anything that
can be called with keyword options and returns a component, most often the
component's class. A hook only registers; it is asked once, never in a forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from topoloss.diagrams import Persistence
    from topoloss.filtrations import Filtration
    from topoloss.losses import Loss
    from topoloss.regularisers import Regulariser
    from topoloss.samplers import Sampler

hookspec = pluggy.HookspecMarker("topoloss")
hookimpl = pluggy.HookimplMarker("topoloss")


@hookspec
def topoloss_filtrations() -> Mapping[str, Callable[..., Filtration]]:  # type: ignore[empty-body]
    """Filtrations: activations to vertices, and the value of each edge."""


@hookspec
def topoloss_persistence() -> Mapping[str, Callable[..., Persistence]]:  # type: ignore[empty-body]
    """Persistence engines: vertices or a matrix of edge values to critical edges."""


@hookspec
def topoloss_losses() -> Mapping[str, Callable[..., Loss]]:  # type: ignore[empty-body]
    """Losses: persistence diagrams to one number."""


@hookspec
def topoloss_regularisers() -> Mapping[str, Callable[..., Regulariser]]:  # type: ignore[empty-body]
    """Regularisers: activations, or a model, to one number."""


@hookspec
def topoloss_samplers() -> Mapping[str, Callable[..., Sampler]]:  # type: ignore[empty-body]
    """Samplers: which neurons of a layer take part."""
