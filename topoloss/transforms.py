"""Functions that leave PyTorch, such as engines in NumPy, under every transform of PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

__all__ = ["Indices", "outside"]

Indices: TypeAlias = tuple[Tensor | None, ...]


def stacked(each: Sequence[Indices]) -> Indices:
    """Join what the elements of a batch gave, tensor by tensor."""
    return tuple(None if x[0] is None else torch.stack(x) for x in zip(*each, strict=True))


def outside(
    function: Callable[..., Indices],
    *tensors: Tensor,
    join: Callable[[Sequence[Indices]], Indices] = stacked,
) -> tuple[Any, ...]:
    """Call a function that leaves PyTorch; inside `vmap` and `grad`, too, it gets plain tensors.

    Parameters
    ----------
    function : callable
        From tensors to a tuple of integer tensors, or None in their place.
    *tensors : Tensor
        Without a gradient: detach them.
    join : callable, optional
        Under :func:`torch.vmap` the function is called for each element of the batch, and this
        makes one tuple of what it returned. By default tensors of equal shapes are stacked.

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
    """PyTorch takes the wrappers of its transforms off the arguments of such functions."""

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
