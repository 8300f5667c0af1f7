"""The axis of channels in a product with a weight, and the axis of samples in an einsum."""

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
    """The axis of channels in a product of a weight and another tensor.

    Parameters
    ----------
    function : str
        Name of the function that computes the product.
    args : sequence
        Its arguments.
    weight : Tensor
        One of the operands.
    leads : bool
        Whether the weight comes before the other tensor among the arguments.

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
    """The axis of samples in the result of an einsum.

    Parameters
    ----------
    args : sequence
        The arguments of the einsum.
    axes : mapping
        From the ``id`` of each operand to its axis of samples.

    Returns
    -------
    int or None
        None where it is summed over, or differs between operands.
    """
    operands, output = _letters(args)
    theirs = [(letters, axes.get(id(t))) for t, letters in operands]
    samples = {letters[axis] for letters, axis in theirs if axis is not None}
    found = [k for k, letter in enumerate(output) if letter in samples]
    return found[0] if len(found) == len(samples) == 1 else None


def _of_equation(args: Sequence[Any], weight: Tensor) -> int | None:
    """The axis in an einsum's result of the only letter that no operand but the weight has."""
    if "->" not in args[0]:
        return None
    operands, output = _letters(args)
    mine = next(letters for t, letters in operands if t is weight)
    theirs = [letters for t, letters in operands if t is not weight]
    own = [k for k in output if k in mine and all(k not in letters for letters in theirs)]
    return output.index(own[0]) - len(output) if len(own) == 1 else None


def _letters(args: Sequence[Any]) -> tuple[list[tuple[Tensor, list[str]]], list[str]]:
    """The letter of each axis of an einsum's operands, and of its result.

    The axes of an ellipsis are called "0", "1" and so on, counted from the last one.
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
    # Without an output part: the ellipsis, then the letters that occur once, in alphabetical order.
    once = sorted(k for k in set(every) if every.count(k) == 1 and not k.isdigit())
    return operands, [*_spread("...", most), *once]


def _spread(part: str, axes: int) -> list[str]:
    """The letters of one operand, with numbers in place of the axes of its ellipsis."""
    before, dots, after = part.partition("...")
    return [*before, *(str(k) for k in reversed(range(axes if dots else 0))), *after]
