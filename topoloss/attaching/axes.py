"""Where the samples of a tensor are, after each function of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from math import prod
from typing import Any

import torch
from torch import Tensor

__all__ = ["followed", "reordered"]

# Functions that put entries along axes into another order: where the axes stand among their
# arguments, and which they are if left out; None is all.
_REORDERING: dict[str, tuple[int, int | None]] = {
    "index_select": (1, None), "gather": (1, None), "take_along_dim": (2, None), "roll": (2, None),
    "flip": (1, None), "sort": (1, -1), "topk": (2, -1), "msort": (1, 0), "flipud": (1, 0),
}  # fmt: skip


def followed(operand: Tensor, axis: int, result: Tensor, samples: int) -> int | None:
    """Follow the axis of samples from an operand of a function to its result.

    Parameters
    ----------
    operand : Tensor
    axis : int
        Of the operand. It counts samples or, where they were folded into it, samples and within
        each positions or windows.
    result : Tensor
    samples : int
        How many samples there are.

    Returns
    -------
    int or None
        None where it cannot be told.
    """
    shape, before = result.shape, operand.shape
    if shape == before and result.stride() == operand.stride():
        return axis
    candidates = [k for k, length in enumerate(shape) if length == before[axis]]
    if _share_memory(result, operand):
        # A view moves an axis with its stride.
        moved = [k for k in candidates if result.stride(k) == operand.stride(axis)]
        if len(moved) == 1:
            return moved[0]
    reshaped = result.numel() == operand.numel()
    if not reshaped and len(shape) <= len(before):
        reduced = _reduced(before, axis, shape)
        if reduced:
            return reduced.pop() if len(reduced) == 1 else None
    # Functions that mix no samples leave as many entries before the axis as there were. Only
    # where they stack tensors a new axis may have the same length; embeddings add theirs last.
    if reshaped or len(shape) <= len(before) or not operand.is_floating_point():
        leading = prod(before[:axis])
        same = [k for k in candidates if prod(shape[:k]) == leading]
        if same:
            return same[0]
    if reshaped and axis == 0 and samples and shape and shape[0] % samples == 0:
        return 0
    # Whatever else a function does, such as stacking, the axis stays where it was, counted from the
    # first or from the last; of an index, from the first.
    last = len(shape) - len(before) if operand.is_floating_point() else 0
    kept = {axis, axis + last}.intersection(candidates)
    return kept.pop() if len(kept) == 1 else None


def reordered(
    name: str,
    args: Sequence[Any],
    kwargs: dict[str, Any],
    axis: int,
    counts: Callable[[Tensor], bool],
) -> bool:
    """Whether a function may put what is along an axis of its first operand into another order.

    Parameters
    ----------
    name : str
        Of the function.
    args, kwargs
        Its arguments; the first is the operand.
    axis : int
    counts : callable
        Whether an index tensor is known to hold 0, 1, 2 and so on, and leaves the order.
    """
    operand, *rest = args
    if name == "__getitem__":
        return axis in _picked(rest[0], operand.ndim, counts)
    if name not in _REORDERING or any(isinstance(a, Tensor) and counts(a) for a in rest):
        return False
    position, default = _REORDERING[name]
    last = None if name == "flip" else position + 1
    given = kwargs.get("dim", kwargs.get("dims", args[position:last]))
    axes = list(_integers(given)) or ([] if default is None else [default])
    return not axes or axis in {k % operand.ndim for k in axes}


def _picked(index: Any, ndim: int, counts: Callable[[Tensor], bool]) -> set[int]:
    """The axes along which an index picks entries in an order that is not known."""
    each = index if isinstance(index, tuple) else (index,)
    widths = [_width(one) for one in each]
    found, at = set(), 0
    for one, width in zip(each, widths, strict=True):
        if one is Ellipsis:
            at += ndim - sum(widths)
        elif width and not isinstance(one, (int, slice)):
            mask = isinstance(one, Tensor) and one.dtype == torch.bool
            if not mask and not (isinstance(one, Tensor) and counts(one)):
                found.add(at)
        at += width
    return found


def _width(index: Any) -> int:
    """Of how many axes a part of an index is."""
    if index is None or index is Ellipsis or isinstance(index, bool):
        return 0
    return index.ndim if isinstance(index, Tensor) and index.dtype == torch.bool else 1


def _integers(values: Any) -> Iterator[int]:
    if isinstance(values, int):
        yield values
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _integers(value)


def _reduced(before: Sequence[int], axis: int, shape: Sequence[int]) -> set[int]:
    """Where the axis may be now, if other axes were summed up, to length 1 or away."""
    if len(shape) == len(before):
        summed = all(now in (1, length) for now, length in zip(shape, before, strict=True))
        return {axis} if summed and shape[axis] == before[axis] else set()
    others = [k for k in range(len(before)) if k != axis]
    return {
        axis - sum(k < axis for k in gone)
        for gone in combinations(others, len(before) - len(shape))
        if [length for k, length in enumerate(before) if k not in gone] == list(shape)
    }


def _share_memory(a: Tensor, b: Tensor) -> bool:
    try:
        return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):
        return False  # a tensor without storage
