"""A textbook T1 in float64, and a check that refuses contestants that disagree with it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from topoloss import TopolossError

# Relative to the largest gradient; a wrong edge changes a gradient by about 1.
GRADIENT_TOLERANCE = 1e-4


class DisagreementError(TopolossError):
    """A contestant computes something else, so it is not timed."""


class Reference(NamedTuple):
    """Deaths ascending, shape (n - 1,), and the gradient of T1, shape (samples, n)."""

    deaths: Tensor
    gradient: Tensor


def reference(x: Tensor) -> Reference:
    """Compute T1 with Prim's algorithm, one row of correlations at a time, and autograd."""
    x = x.detach().double().requires_grad_()
    centred = x - x.mean(0)
    v = (centred / centred.norm(dim=0)).T
    i, j = _prim(v.detach().contiguous()).unbind(1)
    deaths = 1 - (v[i] * v[j]).sum(1).abs()
    (-deaths.sum()).backward()
    return Reference(deaths.detach().sort().values, x.grad)


def _prim(v: Tensor) -> Tensor:
    """Edges (n - 1, 2) of the spanning tree of strongest correlations between unit rows."""
    n = len(v)
    outside = torch.ones(n, dtype=torch.bool, device=v.device)
    strongest = torch.full((n,), -torch.inf, dtype=v.dtype, device=v.device)
    inside_end = torch.zeros(n, dtype=torch.long, device=v.device)
    newest = torch.zeros(1, dtype=torch.long, device=v.device)
    edges = torch.empty(n - 1, 2, dtype=torch.long, device=v.device)
    for edge in edges:
        outside[newest] = False
        correlations = (v @ v[newest].T).squeeze(1).abs()
        closer = correlations > strongest
        strongest = torch.where(closer, correlations, strongest)
        inside_end = torch.where(closer, newest, inside_end)
        newest = torch.where(outside, strongest, -torch.inf).argmax(keepdim=True)
        edge[0], edge[1] = inside_end[newest], newest
    return edges


def check(name: str, deaths: Tensor, gradient: Tensor | None, expected: Reference) -> None:
    """Raise a `DisagreementError` unless deaths, and the gradient if there is one, agree.

    A death is a sum of `samples` float32 products, so it may be off by `samples` roundings.
    """
    samples, n = expected.gradient.shape
    if deaths.shape != (n - 1,):
        raise DisagreementError(
            f"{name} found {tuple(deaths.shape)} deaths of {n} neurons; expected ({n - 1},)."
        )
    deaths = deaths.to(expected.deaths).sort().values
    _refuse(name, "deaths", deaths, expected.deaths, samples * torch.finfo(torch.float32).eps)
    if gradient is not None:
        tolerance = GRADIENT_TOLERANCE * float(expected.gradient.abs().max())
        gradient = gradient.to(expected.gradient)
        _refuse(name, "gradients", gradient, expected.gradient, tolerance)


def _refuse(name: str, what: str, found: Tensor, expected: Tensor, tolerance: float) -> None:
    deviation = float((found - expected).abs().max())
    # Written so that NaN is refused as well.
    if not deviation <= tolerance:
        raise DisagreementError(
            f"the {what} of {name} are off by up to {deviation:.1e}; at most {tolerance:.1e} is "
            "rounding. It is not timed: mend the contestant, or lower the largest number of "
            "neurons at which it takes part."
        )
