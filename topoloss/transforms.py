"""Call functions that leave PyTorch, such as engines in NumPy, under any PyTorch transform."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

__all__ = ["Indices", "outside"]

Indices: TypeAlias = tuple[Tensor | None, ...]


def stacked(each: Sequence[Indices]) -> Indices:
    """Stack the results for the elements of a batch, tensor by tensor."""
    return tuple(None if x[0] is None else torch.stack(x) for x in zip(*each, strict=True))


def outside(
    function: Callable[..., Indices],
    *tensors: Tensor,
    join: Callable[[Sequence[Indices]], Indices] = stacked,
) -> tuple[Any, ...]:
    """Give plain tensors to a function that leaves PyTorch, even inside `vmap` and `grad`.

    Parameters
    ----------
    function : callable
        Takes tensors, and returns a tuple of which each item is an integer tensor or None.
    *tensors : Tensor
        Without a gradient: detach them.
    join : callable, optional
        Under :func:`torch.vmap` the function is called for each element of the batch, and `join`
        combines the results into one tuple. The default stacks tensors of equal shapes.

    Returns
    -------
    tuple of Tensor or None

    Notes
    -----
    :func:`torch.compile` leaves the call out of its graphs.

    Examples
    --------
    >>> import numpy, torch, topoloss
    >>> def largest(x):
    ...     return (torch.from_numpy(numpy.asarray(x.numpy().argmax())),)
    >>> def squared_maximum(x):
    ...     (index,) = topoloss.outside(largest, x.detach())
    ...     return x.gather(0, index[None]).square().sum()
    >>> torch.func.grad(squared_maximum)(torch.tensor([1.0, 3.0, 2.0]))
    tensor([0., 6., 0.])
    """
    if torch.compiler.is_compiling():
        # Imported here, as it loads the compiler, which takes seconds.
        from topoloss.uncompiled import call_uncompiled

        found: Indices = call_uncompiled(_apply, function, join, *tensors)
        return found
    return _apply(function, join, *tensors)


def _apply(function: Any, join: Any, *tensors: Tensor) -> Indices:
    found: Indices = _Outside.apply(function, join, *tensors)  # type: ignore[no-untyped-call]
    return found


class _Outside(torch.autograd.Function):
    """The call as an autograd function, whose arguments PyTorch unwraps under its transforms."""

    @staticmethod
    def forward(function: Any, join: Any, *tensors: Tensor) -> Indices:
        indices: Indices = function(*tensors)
        return indices

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Indices) -> None:
        ctx.mark_non_differentiable(*(x for x in output if x is not None))

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[None, ...]:
        return (None,) * len(ctx.needs_input_grad)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], function: Any, join: Any, *tensors: Tensor
    ) -> tuple[Indices, tuple[int | None, ...]]:
        each = [
            _Outside.apply(  # type: ignore[no-untyped-call]
                function,
                join,
                *(
                    x if axis is None else x.select(axis, k)
                    for x, axis in zip(tensors, in_dims[2:], strict=True)
                ),
            )
            for k in range(info.batch_size)
        ]
        joined = join(each)
        return joined, tuple(None if x is None else 0 for x in joined)
