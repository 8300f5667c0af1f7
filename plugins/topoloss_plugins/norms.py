"""Regularisers that are not topological: ``l1``, ``l2`` and ``none``."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

import topoloss


class _Norm(topoloss.Regulariser):
    source = "parameters"

    # The options of Regulariser are about activations, and this one takes parameters.
    def __init__(self) -> None:
        super().__init__()

    def compute(self, parameters: Mapping[str, Tensor]) -> Tensor:
        trainable = [p for p in parameters.values() if p.requires_grad]
        if not trainable:
            raise topoloss.InputError(
                f"{type(self).__name__} was given {len(parameters)} parameters and no trainable "
                "one; set requires_grad on those that should count."
            )
        device, dtype = trainable[0].device, torch.float32
        for p in trainable:
            dtype = torch.promote_types(dtype, p.dtype)
        return torch.stack([self.norm(p.to(dtype)).to(device) for p in trainable]).sum()

    def norm(self, w: Tensor) -> Tensor:
        raise NotImplementedError


class L1(_Norm):
    """Sum of ``|w|`` over all trainable parameters, biases included, unscaled.

    The gradient at ``w = 0`` is 0.

    Examples
    --------
    >>> import torch, topoloss
    >>> layer = torch.nn.Linear(2, 1, bias=False)
    >>> _ = torch.nn.init.constant_(layer.weight, -3.0)
    >>> parameters = dict(layer.named_parameters())
    >>> topoloss.regulariser("l1")(parameters).item(), topoloss.regulariser("l2")(parameters).item()
    (6.0, 18.0)
    """

    def norm(self, w: Tensor) -> Tensor:
        return w.abs().sum()


class L2(_Norm):
    """Sum of ``|w|^2`` over all trainable parameters, biases included, unscaled."""

    def norm(self, w: Tensor) -> Tensor:
        return (w * w.conj()).real.sum()


class NoPenalty(topoloss.Regulariser):
    """Always zero: a name for training without a regulariser, for example in a comparison.

    Examples
    --------
    >>> import torch, topoloss
    >>> topoloss.attach(torch.nn.Linear(2, 1), "none")().item()
    0.0
    """

    source = "parameters"

    # The options of Regulariser are about activations, and this one takes parameters.
    def __init__(self) -> None:
        super().__init__()

    def compute(self, parameters: Mapping[str, Tensor]) -> Tensor:
        first = next(iter(parameters.values()), torch.zeros(()))
        zero = first.new_zeros(()).abs()  # abs: a penalty is real even for complex parameters
        return zero.to(torch.promote_types(zero.dtype, torch.float32))


@topoloss.hookimpl
def topoloss_regularisers() -> dict[str, type[topoloss.Regulariser]]:
    return {"l1": L1, "l2": L2, "none": NoPenalty}
