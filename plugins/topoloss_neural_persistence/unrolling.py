"""The matrix of a linear layer whose weight is not that matrix, such as a convolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

import torch
from jaxtyping import Float
from topoloss_plugins.scales import power_of_two
from torch import Tensor, nn
from torch.func import functional_call

import topoloss

__all__ = ["unrolled"]

_ABOVE_BIAS = 2.0**12


def unrolled(layer: nn.Module, shape: Sequence[int]) -> Float[Tensor, "outputs inputs"]:
    """Return the matrix of a linear layer on inputs of a given shape, without its bias.

    Parameters
    ----------
    layer : Module
        A convolution of any kind, average pooling, or another module that is linear except for an
        added constant.
    shape : sequence of int
        The shape of one input, without the batch: (channels, height, width) for images.

    Returns
    -------
    Tensor, shape (outputs, inputs)
        Differentiable in the layer's parameters, and in their dtype. It holds a number for each
        pair of an input and an output, most of them 0 for a large image.

    Raises
    ------
    InputError
        For a layer that is not linear, or does not take inputs of this shape.

    Examples
    --------
    >>> import torch
    >>> from topoloss_neural_persistence import unrolled
    >>> difference = torch.nn.Conv1d(1, 1, 2, bias=False)
    >>> _ = difference.weight.data.copy_(torch.tensor([[[-1.0, 1.0]]]))
    >>> unrolled(difference, (1, 3)).tolist()
    [[-1.0, 1.0, 0.0], [0.0, -1.0, 1.0]]
    """
    if not isinstance(layer, nn.Module) or not isinstance(shape, (list, tuple)):
        raise topoloss.InputError(
            f"a {type(layer).__name__} and a shape of type {type(shape).__name__} were given; "
            "expected a module, and the shape of one input such as (channels, height, width)."
        )
    p = next((p for p in layer.parameters() if p.is_floating_point()), torch.zeros(()))
    size = torch.Size(shape).numel()
    tensors = _widened(layer)
    wide = torch.promote_types(p.dtype, torch.float32)
    units = torch.eye(size, dtype=wide, device=p.device).reshape(size, *shape)

    def outputs(x: Tensor) -> Tensor:
        # functional_call cannot replace the parameters of a scripted layer.
        found: Tensor = functional_call(layer, tensors, (x,)) if tensors else layer(x)
        return found.flatten(1)

    with torch.autocast(p.device.type, enabled=False):
        try:
            constant = outputs(torch.zeros_like(units[:1]))
        except (RuntimeError, ValueError, AttributeError) as error:
            raise topoloss.InputError(
                f"{type(layer).__name__} does not take inputs of shape {tuple(shape)}, or returns "
                "no tensor; expected the shape of one input, without the batch. It said: "
                f"{error}"
            ) from error
        # Inputs large enough that adding the bias does not lose the digits of small weights.
        scale = _ABOVE_BIAS * power_of_two(constant.detach().abs().amax())
        matrix = ((outputs(scale * units) - constant) / scale).T
        if not _is_linear(outputs, matrix, constant, scale, shape):
            raise topoloss.InputError(
                f"{type(layer).__name__} is not linear on inputs of shape {tuple(shape)}; expected "
                "a layer without an activation, such as a convolution."
            )
    return matrix.to(p.dtype)


def _widened(layer: nn.Module) -> dict[str, Tensor]:
    """Return half-precision tensors in float32, because half is too coarse to test linearity."""
    tensors = chain(layer.named_parameters(), layer.named_buffers())
    return {
        name: x.float()
        for name, x in tensors
        if x.is_floating_point() and torch.promote_types(x.dtype, torch.float32) != x.dtype
    }


@torch.no_grad()
def _is_linear(
    outputs: Callable[[Tensor], Tensor],
    matrix: Tensor,
    constant: Tensor,
    scale: Tensor,
    shape: Sequence[int],
) -> bool:
    """Return whether the matrix agrees with the layer on an input with numbers of both signs."""
    x = scale * torch.linspace(-1, 2, matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    received = outputs(x.reshape(1, *shape))[0] - constant[0]
    expected = matrix @ x
    rounding = 1e-3 * float(expected.abs().max())
    return torch.allclose(received, expected, rtol=0, atol=rounding)
