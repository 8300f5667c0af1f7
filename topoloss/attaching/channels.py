"""Where the channels stand in a product with a weight, and the samples in an einsum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from topoloss.attaching.functions import tensors_in

__all__ = ["axis_of_equation", "channel_of_product"]

_OF_MATRICES = frozenset({"matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "baddbmm"})


def channel_of_product(
    function: str, args: Sequence[Any], weight: Tensor, leads: bool
) -> int | None:
    """The axis of channels in what a function makes of a weight and something else.

    Parameters
    ----------
    function : str
        Its name.
    args : sequence
        Its arguments.
    weight : Tensor
        One of the operands.
    leads : bool
        Whether the weight is an earlier operand than what it is multiplied with.

    Returns
    -------
    int or None
        None where it is not known.
    """
    if function == "einsum":
        return _of_equation(args, weight)
    if function == "tensordot":
        return None
    if not leads:
        return -1
    return -2 if function in _OF_MATRICES else None


def axis_of_equation(args: Sequence[Any], axes: Mapping[int, int | None]) -> int | None:
    """The axis of samples in what an einsum makes.

    Parameters
    ----------
    args : sequence
        Those of the einsum.
    axes : mapping
        The axis of samples of each operand that has one, by its id.

    Returns
    -------
    int or None
        None where it was summed up, or differs between operands.
    """
    operands, output = _letters(args)
    theirs = [(letters, axes.get(id(t))) for t, letters in operands]
    samples = {letters[axis] for letters, axis in theirs if axis is not None}
    found = [k for k, letter in enumerate(output) if letter in samples]
    return found[0] if len(found) == len(samples) == 1 else None


def _of_equation(args: Sequence[Any], weight: Tensor) -> int | None:
    """The axis of the one index of an einsum that the weight alone brings in."""
    if "->" not in args[0]:
        return None
    operands, output = _letters(args)
    mine = next(letters for t, letters in operands if t is weight)
    theirs = [letters for t, letters in operands if t is not weight]
    own = [k for k in output if k in mine and all(k not in letters for letters in theirs)]
    return output.index(own[0]) - len(output) if len(own) == 1 else None


def _letters(args: Sequence[Any]) -> tuple[list[tuple[Tensor, list[str]]], list[str]]:
    """The index of each axis of the operands of an einsum, and of what it makes.

    The axes of an ellipsis are called "0", "1" and so on from the last one.
    """
    inputs, arrow, output = args[0].replace(" ", "").partition("->")
    tensors = list(tensors_in(args[1:]))
    operands = [
        (t, _spread(part, t.ndim - len(part.replace("...", ""))))
        for t, part in zip(tensors, inputs.split(","), strict=True)
    ]
    every = [letter for _, letters in operands for letter in letters]
    most = sum(letter.isdigit() for letter in set(every))
    if arrow:
        return operands, _spread(output, most)
    # Without an end: the ellipsis, then what occurs once, in the order of the alphabet.
    once = sorted(k for k in set(every) if every.count(k) == 1 and not k.isdigit())
    return operands, [*_spread("...", most), *once]


def _spread(part: str, axes: int) -> list[str]:
    """The letters of one operand, and in place of its ellipsis so many numbers."""
    before, dots, after = part.partition("...")
    return [*before, *(str(k) for k in reversed(range(axes if dots else 0))), *after]
