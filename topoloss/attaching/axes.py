"""Follow the axis that counts samples from the operands of a function to its result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["followed", "reordered"]


class _Moves(NamedTuple):
    """The parameters of a function that may reorder entries along an axis.

    Attributes
    ----------
    parameters : str
        Their names. The one called "dim" or "dims" says along which axes entries are moved.
    moved : str
        The parameter that is the tensor whose entries are moved.
    places : str or None
        The parameter that says what goes where, if some values of it keep the order.
    default : int or None
        The axis if none is given; None means all axes.
    """

    parameters: str
    moved: str = "input"
    places: str | None = None
    default: int | None = None


# In-place functions have the same names with "_" at the end.
_MOVES = {
    "__getitem__": _Moves("input index", places="index"),
    "__setitem__": _Moves("input index value", "value", "index"),
    "index_put": _Moves("input indices values", "values", "indices"),
    "index_select": _Moves("input dim index", places="index"),
    "gather": _Moves("input dim index", places="index"),
    "take_along_dim": _Moves("input indices dim", places="indices"),
    "take": _Moves("input index"),
    "embedding": _Moves("input weight", "weight", "input", default=0),
    "index_copy": _Moves("input dim index source", "source", "index"),
    "index_add": _Moves("input dim index source", "source", "index"),
    "scatter": _Moves("input dim index src", "src", "index"),
    "scatter_add": _Moves("input dim index src", "src", "index"),
    "scatter_reduce": _Moves("input dim index src", "src", "index"),
    "roll": _Moves("input shifts dims"),
    "flip": _Moves("input dims"),
    "flipud": _Moves("input", default=0),
    "fliplr": _Moves("input", default=1),
    "rot90": _Moves("input k dims"),
    "__reversed__": _Moves("input", default=0),
    "sort": _Moves("input dim", default=-1),
    "topk": _Moves("input k dim", default=-1),
    "msort": _Moves("input", default=0),
}
# The index of these functions may hold a part for each axis.
_INDEXING = frozenset({"__getitem__", "__setitem__", "index_put", "index_put_"})


def followed(operand: Tensor, axis: int, result: Tensor, samples: int) -> int | None:
    """Follow the axis of samples from an operand of a function to its result.

    Parameters
    ----------
    operand : Tensor
    axis : int
        The operand's axis that counts samples. Positions or windows of each sample may be folded
        into it.
    result : Tensor
    samples : int
        How many samples there are.

    Returns
    -------
    int or None
        The result's axis that counts samples; None where it is not known.
    """
    shape, before = result.shape, operand.shape
    if shape == before and result.stride() == operand.stride():
        return axis
    candidates = [k for k, length in enumerate(shape) if length == before[axis]]
    if _share_memory(result, operand):
        # An axis keeps its stride in a view.
        moved = [k for k in candidates if result.stride(k) == operand.stride(axis)]
        if len(moved) == 1:
            return moved[0]
    reshaped = result.numel() == operand.numel()
    if not reshaped and len(shape) <= len(before):
        reduced = _reduced(before, axis, shape)
        if reduced:
            return reduced.pop() if len(reduced) == 1 else None
    # A function that does not mix samples keeps the number of entries before the axis. This is no
    # help where tensors are stacked, as the new axis may have the same length. Embeddings, whose
    # operand holds integers, add their axis last.
    if reshaped or len(shape) <= len(before) or not operand.is_floating_point():
        leading = prod(before[:axis])
        same = [k for k in candidates if prod(shape[:k]) == leading]
        if same:
            return same[0]
    if reshaped and axis == 0 and samples and shape and shape[0] % samples == 0:
        return 0
    # In other functions, such as stacking, the axis keeps its place, counted from the first axis or
    # from the last. For an operand of integers, such as an index, it is counted from the first.
    last = len(shape) - len(before) if operand.is_floating_point() else 0
    kept = {axis, axis + last}.intersection(candidates)
    return kept.pop() if len(kept) == 1 else None


def reordered(
    name: str, args: Sequence[Any], kwargs: Mapping[str, Any], axes: Mapping[int, int | None]
) -> bool:
    """Whether a function may put samples into another order.

    Parameters
    ----------
    name : str
        The function's name.
    args, kwargs
        Its arguments.
    axes : mapping
        From the ``id`` of each operand to its axis of samples.
    """
    moves = _MOVES.get(name) or _MOVES.get(name.removesuffix("_"))
    if moves is None:
        return False
    names = moves.parameters.split()
    if name == "embedding" and len(args) > 1 and args[0].is_floating_point():
        args = (args[1], args[0])  # torch.embedding takes the table first
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    operand, index = given.get(moves.moved), given.get(moves.places or "")
    axis = axes.get(id(operand))
    if operand is None or axis is None:
        return False
    if name in _INDEXING:
        if moves.places == "indices":
            index = tuple(index or ())  # it may be a list
        # Values may have fewer axes than the tensor that they are put into: mostly the first ones
        # are missing.
        before = given["input"].ndim - operand.ndim
        moved = _reordered_axes(index, given["input"].shape)
        return not moved.isdisjoint({axis, axis + before})
    if names[-1] == "dims" and len(args) > len(names):
        given["dims"] = args[len(names) - 1 :]  # flip also takes axes as separate arguments
    along = list(_integers(given.get("dim", given.get("dims"))))
    if not along and moves.default is not None:
        along = [moves.default]
    if along and axis not in {k % operand.ndim for k in along}:
        return False
    # An index with as many axes as the operand is read along the axis of samples, an index of rows
    # along its first axis.
    whole = isinstance(index, Tensor) and index.ndim == operand.ndim
    return index is None or not _keeps_order(index, axis if whole else 0, operand.shape[axis])


def _reordered_axes(index: Any, shape: Sequence[int]) -> set[int]:
    """The axes along which an index may reorder entries."""
    each = index if isinstance(index, tuple) else (index,)
    widths = [_width(one) for one in each]
    found, at = set(), 0
    for one, width in zip(each, widths, strict=True):
        if one is Ellipsis:
            at += len(shape) - sum(widths)
        elif width and not isinstance(one, (int, slice)):
            mask = isinstance(one, Tensor) and one.dtype == torch.bool
            if not mask and not _keeps_order(one, None, shape[at]):
                found.add(at)
        at += width
    return found


def _keeps_order(index: Any, along: int | None, length: int) -> bool:
    """Whether an index holds 0, 1, 2 and so on along an axis, and so keeps the order.

    False where its values cannot be read: on the device "meta", in a fake mode, under torch's
    transforms, and while a CUDA graph is captured. Reading them from a GPU waits for the GPU.

    Parameters
    ----------
    index : Tensor, sequence or array
    along : int or None
        By default the first axis that is longer than 1.
    length : int
        The length of the axis whose entries are picked.
    """
    with torch._C.DisableTorchFunction():
        try:
            found = torch.as_tensor(index)
            if found.is_cuda and torch.cuda.is_current_stream_capturing():
                return False
            for k in range(found.ndim) if along is None else (along,):
                if found.shape[k] == length and (along is not None or prod(found.shape[:k]) == 1):
                    numbers = torch.arange(length, device=found.device)
                    numbers = numbers.view(-1, *[1] * (found.ndim - k - 1))
                    if bool((found == numbers).all()):
                        return True
        except (RuntimeError, TypeError, ValueError):
            pass
    return False


def _width(index: Any) -> int:
    """How many axes of a tensor a part of an index refers to."""
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
    """Where the axis may be after other axes were reduced: removed, or left with length 1."""
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
        # Not data_ptr(): it is 0 for all tensors without values, and warns in a fake mode.
        return bool(a.untyped_storage()._cdata == b.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError):
        return False  # a tensor without storage
