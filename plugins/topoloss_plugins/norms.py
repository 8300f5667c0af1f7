"""Regularisers that are not topological: ``l1``, ``l2`` and ``none``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import topoloss


class _WeightNorm(topoloss.Regulariser):
    observes = "model"

    def __init__(self) -> None:
        super().__init__()

    def compute(self, model: nn.Module) -> Tensor:
        parameters = [p for p in model.parameters() if p.requires_grad]
        if not parameters:
            raise topoloss.InputError(
                f"{type(model).__name__} has no trainable parameters to regularise; "
                "set requires_grad on those that should count."
            )
        device, dtype = parameters[0].device, torch.float32
        for p in parameters:
            dtype = torch.promote_types(dtype, p.dtype)
        return torch.stack([self.norm(p.to(dtype)).to(device) for p in parameters]).sum()

    def norm(self, w: Tensor) -> Tensor:
        raise NotImplementedError


class L1(_WeightNorm):
    """Sum of ``|w|`` over all trainable parameters, biases included, unscaled.

    The gradient at ``w = 0`` is 0.

    Examples
    --------
    >>> import torch, topoloss
    >>> layer = torch.nn.Linear(2, 1, bias=False)
    >>> _ = torch.nn.init.constant_(layer.weight, -3.0)
    >>> topoloss.regulariser("l1")(layer).item(), topoloss.regulariser("l2")(layer).item()
    (6.0, 18.0)
    """

    def norm(self, w: Tensor) -> Tensor:
        return w.abs().sum()


class L2(_WeightNorm):
    """Sum of ``w^2`` over all trainable parameters, biases included, unscaled."""

    def norm(self, w: Tensor) -> Tensor:
        return w.square().sum()


class NoPenalty(topoloss.Regulariser):
    """Zero: the name under which a comparison runs without a regulariser.

    Examples
    --------
    >>> import torch, topoloss
    >>> topoloss.regulariser("none")(torch.nn.Linear(2, 1)).item()
    0.0
    """

    observes = "model"

    def __init__(self) -> None:
        super().__init__()

    def compute(self, model: nn.Module) -> Tensor:
        parameter = next(model.parameters(), None)
        return torch.zeros((), device=None if parameter is None else parameter.device)


@topoloss.hookimpl
def topoloss_regularisers() -> dict[str, type[topoloss.Regulariser]]:
    return {"l1": L1, "l2": L2, "none": NoPenalty}
