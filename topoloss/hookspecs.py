"""What a plugin may contribute: signatures and docstrings only.

Every hook returns a dictionary from name to factory. A factory is anything that
can be called with keyword options and returns a component, most often the
component's class. A hook only registers: it is called once, without arguments, when its
plugin is registered or loaded from its entry point, and never in a forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from topoloss.engines import Persistence
    from topoloss.filtrations import Filtration
    from topoloss.losses import Loss
    from topoloss.regularisers import Regulariser
    from topoloss.samplers import Sampler

hookspec = pluggy.HookspecMarker("topoloss")
hookimpl = pluggy.HookimplMarker("topoloss")


@hookspec
def topoloss_filtrations() -> Mapping[str, Callable[..., Filtration]]:  # type: ignore[empty-body]
    """Offer filtrations, which turn activations into vertices and give each edge a value.

    Returns
    -------
    dict of str to callable
        Each makes a :class:`topoloss.Filtration`. Used by
        :func:`topoloss.filtration` and the first stage of :func:`topoloss.pipeline`.
    """


@hookspec
def topoloss_persistence() -> Mapping[str, Callable[..., Persistence]]:  # type: ignore[empty-body]
    """Offer persistence engines, which pick critical edges.

    Returns
    -------
    dict of str to callable
        Each makes a :class:`topoloss.Persistence`. Used by
        :func:`topoloss.persistence` and the second stage of :func:`topoloss.pipeline`.
    """


@hookspec
def topoloss_losses() -> Mapping[str, Callable[..., Loss]]:  # type: ignore[empty-body]
    """Offer losses, which turn persistence diagrams into one number.

    Returns
    -------
    dict of str to callable
        Each makes a :class:`topoloss.Loss`. Used by :func:`topoloss.loss` and the
        third stage of :func:`topoloss.pipeline`.
    """


@hookspec
def topoloss_regularisers() -> Mapping[str, Callable[..., Regulariser]]:  # type: ignore[empty-body]
    """Offer regularisers, which turn activations, weights or parameters into one number.

    Returns
    -------
    dict of str to callable
        Each makes a :class:`topoloss.Regulariser`. Used by
        :func:`topoloss.regulariser` and :func:`topoloss.attach`.
    """


@hookspec
def topoloss_samplers() -> Mapping[str, Callable[..., Sampler]]:  # type: ignore[empty-body]
    """Offer samplers, which choose the neurons of a layer that take part.

    Returns
    -------
    dict of str to callable
        Each makes a :class:`topoloss.Sampler`. Used by :func:`topoloss.sampler` and
        ``topoloss.attach(..., sampler=name)``.
    """
