"""Make components from their names, and check their options."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from topoloss import objects, plugins
from topoloss.engines import Persistence
from topoloss.errors import (
    InputError,
    OptionError,
    PluginError,
    UnknownNameError,
    listed,
    nearest,
    shown,
)
from topoloss.expressions import Part, parse
from topoloss.filtrations import Filtration
from topoloss.losses import Loss
from topoloss.pipelines import Pipeline
from topoloss.regularisers import Regulariser
from topoloss.samplers import Sampler

__all__ = [
    "check_options",
    "filtration",
    "look_up",
    "loss",
    "persistence",
    "pipeline",
    "regulariser",
    "sampler",
]

_STAGES: tuple[plugins.Kind, ...] = ("filtration", "persistence", "loss")


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
        One of ``topoloss.available("regulariser")``; an object of your own,
        ``"package.module:object"``; or a pipeline, ``"correlation/mst/t1"``. Options may follow
        each name in brackets, as in ``"t1[reduction=mean]"``.
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
    >>> topoloss.regulariser("cosine/mst/t2[alpha=1.0]").loss
    T2(alpha=1.0, beta=0.5)
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
    made: dict[str, Any] = {
        kind: _construct(kind, given, {}) if isinstance(given, str) else given
        for kind, given in zip(_STAGES, (filtration, persistence, loss), strict=True)
    }
    check_options("pipeline", Pipeline, made | options)
    return Pipeline(**made, **options)


def look_up(kind: plugins.Kind, text: str, options: Mapping[str, Any]) -> Callable[[], Any]:
    """Return a function that makes the component that a text describes.

    Parameters
    ----------
    kind : str
    text : str
        In the grammar of :mod:`topoloss.expressions`.
    options : mapping
        Further options.

    Raises
    ------
    UnknownNameError, OptionError
        At once, if a name or an option does not exist.
    """
    parts = parse(text).parts if isinstance(text, str) else (Part(text),)
    if len(parts) == 1:
        return _look_up_part(kind, parts[0], options)
    if kind != "regulariser":
        raise OptionError(f"{text!r} is a pipeline, which is a regulariser; expected a {kind}.")
    for stage, part in zip(_STAGES, parts, strict=True):
        _look_up_part(stage, part, {})
        if stage in options:
            raise OptionError(
                f"{text!r} was given {stage}={shown(options[stage])} as well; give it once."
            )
    check_options("pipeline", Pipeline, dict.fromkeys(_STAGES) | dict(options))
    return partial(pipeline, *map(str, parts), **options)


def _construct(kind: plugins.Kind, text: str, options: Mapping[str, Any]) -> Any:
    return look_up(kind, text, options)()


def _look_up_part(kind: plugins.Kind, part: Part, options: Mapping[str, Any]) -> Callable[[], Any]:
    factory = _factory(kind, part.name)
    what, written = f"{kind} {part.name!r}", dict(part.options)
    twice = next((option for option in options if option in written), None)
    if twice is not None:
        raise OptionError(
            f"{what} was given {twice}={shown(written[twice])} in its name and "
            f"{twice}={shown(options[twice])} as an option; give it once."
        )
    check_options(what, factory, written | dict(options))
    return partial(_made, kind, part.name, partial(factory, **written, **options))


def _factory(kind: plugins.Kind, name: str) -> plugins.Factory:
    """The factory that a plugin offers under this name; without one, the user's own object."""
    try:
        return plugins.find(kind, name)
    except UnknownNameError as unknown:
        if not isinstance(name, str) or ":" not in name:
            raise
        try:
            found = objects.find(name, kind, "object")
        except InputError as error:
            raise UnknownNameError(
                f"{unknown} There is no object of your own with that name either: {error}"
            ) from error
    base = plugins.KINDS[kind][1]
    if isinstance(found, base):
        return lambda: copy.deepcopy(found)  # each call makes a new component
    if isinstance(found, tuple(base for _, base in plugins.KINDS.values())) or not callable(found):
        raise OptionError(
            f"{kind} {name!r} is {shown(found)}; expected a topoloss.{base.__name__}, or a class "
            "or function that makes one."
        )
    factory: plugins.Factory = found
    return factory


def _made(kind: plugins.Kind, name: str, make: Callable[[], Any]) -> Any:
    component = make()
    base = plugins.KINDS[kind][1]
    if not isinstance(component, base):
        raise PluginError(
            f"the factory of {kind} {name!r} returned {component!r}; expected a "
            f"topoloss.{base.__name__}."
        )
    return component


def check_options(what: str, factory: plugins.Factory, options: Mapping[str, Any]) -> None:
    """Raise an `OptionError` for options that the factory does not take, listing those it takes."""
    try:
        signature = inspect.signature(factory)
    except ValueError as error:  # some callables written in C have no signature
        raise OptionError(
            f"{what} is {shown(factory)}, whose options Python cannot read; expected a class or "
            "function that makes a component."
        ) from error
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
        raise OptionError(f"{what}: {error}; its options are {listed(known)}.{hint}") from error
