"""Unlabelled data for a model: one batch, or several batches one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from torch import Tensor, nn

from topoloss.errors import InputError, shown

__all__ = ["Data", "batches", "run"]

Batch: TypeAlias = Tensor | tuple[Any, ...] | Mapping[str, Any]
Data: TypeAlias = Batch | Iterable[Batch]


def batches(data: Data | Any) -> Iterator[Batch]:
    """Yield the batches of `data`: one batch, or a list, a loader or a generator of batches."""
    if isinstance(data, (Tensor, tuple, Mapping)):
        yield data
        return
    if not hasattr(data, "__iter__") or isinstance(data, (str, bytes)):
        raise InputError(
            f"data is {shown(data)}; expected what the model takes: a tensor, a tuple of arguments "
            "or a dict of named ones, or a list or loader of such batches."
        )
    empty = True
    for batch in data:
        empty = False
        # By default a DataLoader turns the tuples of a dataset into lists.
        yield tuple(batch) if isinstance(batch, list) else batch
    if empty:
        raise InputError("data holds no batch; expected at least one.")


def run(model: nn.Module, batch: Batch) -> Any:
    """Call the model on a batch."""
    if isinstance(batch, Mapping):
        return model(**batch)
    if not isinstance(batch, tuple):
        return model(batch)
    try:
        return model(*batch)
    except TypeError as error:
        error.add_note(
            f"topoloss called {type(model).__name__} with a batch of {len(batch)} arguments; give "
            "data without labels: [x for x, _ in loader]."
        )
        raise
