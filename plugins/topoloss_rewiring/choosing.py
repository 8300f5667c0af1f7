"""Choose which connections to remove and which to add."""

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
    """Replace the weakest connections by connections between the most similar neurons.

    Parameters
    ----------
    connected : Tensor of bool, shape (outputs, inputs)
    weight : Tensor, shape (outputs, inputs)
    x, y : Tensor, shape (samples, inputs) and (samples, outputs)
        Activations of the neurons on both sides.
    fraction : float
        floor(fraction * connections) connections move, or fewer if there are not as many
        unconnected pairs.

    Returns
    -------
    Tensor of bool, shape (outputs, inputs)
        The same number of connections. Those of smallest ``|weight|`` are replaced by the pairs
        of largest ``|cos|`` between the two neurons' activations, among pairs that were not
        connected before.

    Raises
    ------
    InputError
        If shapes do not fit.
    NonFiniteError
        If weights or activations hold NaN or infinity.

    Notes
    -----
    Of equal values the first in row-major order is taken. ``|cos|`` is 1 minus the value of the
    filtration ``cosine``.

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
    # Exact arithmetic on the decimal: 0.29 of 100 is 29, but floor(0.29 * 100) in floats is 28.
    count = min(int(Fraction(str(fraction)) * int(connected.sum())), free)
    # The unit vectors of the filtration: one matrix product gives the cosines of all pairs.
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
            f"{' and '.join(bad)} hold NaN or infinity, so the weakest connections or the most "
            "similar neurons are undefined; lower the learning rate."
        )


def _first(values: Tensor, count: int) -> Tensor:
    """Mark the `count` lowest entries; of equal entries, the first."""
    chosen = values.flatten().sort(stable=True).indices[:count]
    return (
        torch.zeros(values.numel(), dtype=torch.bool, device=values.device)
        .index_fill(0, chosen, True)
        .reshape(values.shape)
    )
