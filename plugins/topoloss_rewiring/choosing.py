"""Which connections go, and which come."""

from __future__ import annotations

from fractions import Fraction

import torch
from jaxtyping import Bool, Float
from torch import Tensor

import topoloss

__all__ = ["moved"]


def moved(
    connected: Bool[Tensor, "outputs inputs"],
    weight: Float[Tensor, "outputs inputs"],
    x: Float[Tensor, "samples inputs"],
    y: Float[Tensor, "samples outputs"],
    fraction: float,
) -> Bool[Tensor, "outputs inputs"]:
    """Return connections of which the weakest have given way to the most alike.

    Parameters
    ----------
    connected : Tensor of bool, shape (outputs, inputs)
    weight : Tensor, shape (outputs, inputs)
    x, y : Tensor, shape (samples, inputs) and (samples, outputs)
        Activations of the neurons on both sides.
    fraction : float
        floor(fraction * connections) of them move, or as many as there are free places.

    Returns
    -------
    Tensor of bool, shape (outputs, inputs)
        As many connections. Those of the smallest ``|weight|`` are gone. In their stead stand
        those of the largest ``|cos|`` between two neurons' activations, among pairs that were not
        connected before.

    Raises
    ------
    InputError
        If shapes do not fit.
    NonFiniteError
        If weights or activations hold NaN or infinity.

    Notes
    -----
    Of equals the first, row by row, goes or comes. ``|cos|`` is 1 less the filtration ``cosine``.

    Examples
    --------
    >>> import torch
    >>> from topoloss_rewiring import moved
    >>> connected = torch.tensor([[True, True, False, False]])
    >>> x, y = torch.eye(4)[:, :4] + 1, torch.tensor([[1.0], [1.0], [9.0], [1.0]])
    >>> moved(connected, torch.tensor([[0.1, 2.0, 0.0, 0.0]]), x, y, fraction=0.5)
    tensor([[False,  True,  True, False]])
    """
    _check(connected, weight, x, y, fraction)
    free = int((~connected).sum())
    # As it is written: 0.29 of 100 are 29, and 28 by rounded numbers.
    count = min(int(Fraction(str(fraction)) * int(connected.sum())), free)
    # The vectors of the filtration, of which |cos| of all pairs is one product.
    unit = topoloss.filtration("cosine").vertices(torch.cat((x, y), 1))
    alike = (unit[x.shape[1] :] @ unit[: x.shape[1]].mT).abs()
    gone = _first(weight.abs().masked_fill(~connected, torch.inf), count)
    come = _first((-alike).masked_fill(connected, torch.inf), count)
    return (connected & ~gone) | come


def _check(connected: Tensor, weight: Tensor, x: Tensor, y: Tensor, fraction: float) -> None:
    topoloss.check_number("fraction", fraction, least=0, most=1)
    given = {"connected": connected, "weight": weight, "x": x, "y": y}
    shapes = {name: tuple(tensor.shape) for name, tensor in given.items()}
    fit = x.ndim == y.ndim == 2 and len(x) == len(y)
    if not fit or not shapes["connected"] == shapes["weight"] == (y.shape[1], x.shape[1]):
        raise topoloss.InputError(
            f"tensors of the shapes {shapes} were given; expected connections and weights "
            "(outputs, inputs), and activations (samples, inputs) and (samples, outputs)."
        )
    bad = [name for name in ("weight", "x", "y") if not torch.isfinite(given[name]).all()]
    if bad:
        raise topoloss.NonFiniteError(
            f"{' and '.join(bad)} hold NaN or infinity, so that nothing says which connections are "
            "weak and which neurons alike; lower the learning rate."
        )


def _first(values: Tensor, count: int) -> Tensor:
    """Mark the lowest entries, of equals the first."""
    chosen = values.flatten().sort(stable=True).indices[:count]
    return (
        torch.zeros(values.numel(), dtype=torch.bool, device=values.device)
        .index_fill(0, chosen, True)
        .reshape(values.shape)
    )
