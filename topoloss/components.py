"""Names to components: construction by name, and the check of options."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from topoloss import plugins
from topoloss.engines import Persistence
from topoloss.errors import OptionError, PluginError, nearest
from topoloss.filtrations import Filtration
from topoloss.losses import Loss
from topoloss.regularisers import Pipeline, Regulariser
from topoloss.samplers import Sampler

__all__ = ["filtration", "loss", "persistence", "pipeline", "regulariser", "sampler"]


def filtration(name: str, **options: Any) -> Filtration:
    """Construct the filtration of this name.

    Examples
    --------
    >>> import topoloss
    >>> topoloss.filtration("correlation").order
    'abs_dot_descending'
    """
    made: Filtration = _construct("filtration", name, options)
    return made


def persistence(name: str, **options: Any) -> Persistence:
    """Construct the persistence engine of this name."""
    made: Persistence = _construct("persistence", name, options)
    return made


def loss(name: str, **options: Any) -> Loss:
    """Construct the loss of this name."""
    made: Loss = _construct("loss", name, options)
    return made


def sampler(name: str, **options: Any) -> Sampler:
    """Construct the sampler of this name."""
    made: Sampler = _construct("sampler", name, options)
    return made


def regulariser(name: str, **options: Any) -> Regulariser:
    """Construct the regulariser of this name.

    Parameters
    ----------
    name : str
        One of ``topoloss.available("regulariser")``.
    **options
        Options of that regulariser.

    Raises
    ------
    UnknownNameError, OptionError
        Listing the known names or options, and the nearest match.

    Examples
    --------
    >>> import torch, topoloss
    >>> reg = topoloss.regulariser("t2", alpha=1.0)
    >>> x = torch.tensor([[1.0, 1.0, 0.0], [2.0, -2.0, 1.0], [3.0, 1.0, 0.0]])
    >>> reg(x)
    tensor(-0.2500)
    """
    made: Regulariser = _construct("regulariser", name, options)
    return made


def pipeline(
    filtration: str | Filtration,
    persistence: str | Persistence = "mst",
    loss: str | Loss = "t1",
    **options: Any,
) -> Pipeline:
    """Join a filtration, a persistence engine and a loss, by name or instance.

    Parameters
    ----------
    filtration, persistence, loss
        Names or instances, in any mixture.
    **options
        ``on_nonfinite`` and ``check_finite``, see :class:`Regulariser`.

    Examples
    --------
    >>> import topoloss
    >>> reg = topoloss.pipeline("cosine", "mst", topoloss.loss("t2", beta=0.0))
    """
    stages: dict[plugins.Kind, Any] = {
        "filtration": filtration,
        "persistence": persistence,
        "loss": loss,
    }
    made: dict[str, Any] = {
        kind: _construct(kind, given, {}) if isinstance(given, str) else given
        for kind, given in stages.items()
    }
    _check_options("pipeline", Pipeline, made | options)
    return Pipeline(**made, **options)


def _construct(kind: plugins.Kind, name: str, options: Mapping[str, Any]) -> Any:
    factory = plugins.find(kind, name)
    _check_options(f"{kind} {name!r}", factory, options)
    made = factory(**options)
    base = plugins.KINDS[kind][1]
    if not isinstance(made, base):
        raise PluginError(
            f"the factory of {kind} {name!r} returned {made!r}; expected a "
            f"topoloss.{base.__name__}."
        )
    return made


def _check_options(what: str, factory: plugins.Factory, options: Mapping[str, Any]) -> None:
    """Refuse options that the factory does not take, naming those that it does."""
    signature = inspect.signature(factory)
    try:
        signature.bind(**options)
    except TypeError as error:
        known = [
            p.name
            for p in signature.parameters.values()
            if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        unknown = [option for option in options if option not in known]
        hint = nearest(unknown[0], known) if unknown else ""
        raise OptionError(f"{what}: {error}; its options are {known or 'none'}.{hint}") from error
