"""Where the channels stand in a product with a weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from topoloss.attaching.functions import tensors_in

__all__ = ["channel_of_product"]

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


def _of_equation(args: Sequence[Any], weight: Tensor) -> int | None:
    """The axis of the one index of an einsum that the weight alone brings in."""
    equation, *operands = args
    if not isinstance(equation, str) or "->" not in equation:
        return None
    inputs, output = equation.replace(" ", "").split("->")
    theirs = inputs.split(",")
    mine = theirs.pop(next(k for k, t in enumerate(tensors_in(operands)) if t is weight))
    own = [k for k in output if k.isalpha() and k in mine and all(k not in t for t in theirs)]
    if len(own) != 1:
        return None
    before, after = output.split(own[0])
    # An ellipsis stands for any number of axes: count from the other end.
    return len(before) if "..." in after else -1 - len(after)
