"""Where the samples of a tensor are, after each function of it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import prod

from torch import Tensor

__all__ = ["followed"]


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
