"""Replace the channels that are taken out of a layer by combinations of those that stay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from topoloss import components
from topoloss.pruning.copies import Tree, central, joined, products, tree

__all__ = ["Channels", "Fold", "cheapest", "copies", "fold"]

# Rounding errors are at most this many units in the last place of the largest activation.
_ROUNDING = 256
# Copies up to rounding are at most this far apart. Closer channels are tested for being copies.
_NEAR = 1e-6


class Channels:
    """The channels of a layer, as its readers see them.

    Parameters
    ----------
    x : Tensor, shape (samples, n)
        In the dtype of the model; each position of an image counts as a sample.
    read_by : Tensor of float64, shape (m, n)
        All weights that multiply each channel.
    shifts : bool
        Whether a constant can go into the readers' biases: not if one of them pads with zeros. If
        it can, channels are compared by correlation, otherwise by cosine.
    """

    def __init__(self, x: Tensor, read_by: Tensor, shifts: bool) -> None:
        self.filtration = "correlation" if shifts else "cosine"
        self.tree: Tree = tree(x, self.filtration)
        self.x = x.double()
        self.read_by = read_by
        self.shifts = shifts
        self.rounding = _ROUNDING * torch.finfo(x.dtype).eps

    def constant(self) -> list[int]:
        """Constant channels that can go; if all channels are constant, one stays."""
        constant = self.tree.constant
        return constant[int(len(constant) == self.x.shape[1]) :]


@dataclass(frozen=True)
class Fold:
    """Which channels stay, and what stands in for the others.

    Attributes
    ----------
    kept : Tensor of int64, shape (k,)
    removed : Tensor of int64, shape (n - k,)
    weights : Tensor of float64, shape (n - k, k)
        Channel ``removed[i]`` of `x` is replaced by ``x[:, kept] @ weights[i] + shifts[i]``.
    shifts : Tensor of float64, shape (n - k,)
    """

    kept: Tensor
    removed: Tensor
    weights: Tensor
    shifts: Tensor


def copies(channels: Channels, level: float) -> list[int]:
    """Channels that can go: the constant ones, and all but one of each group of copies.

    At level 0 only those copies go that equal their stand-in up to rounding.
    """
    found = channels.constant()
    x = channels.x
    edges = channels.tree.edges[channels.tree.deaths <= (level or _NEAR)]
    for members in joined(edges):
        representative = members[central(products(x, members, channels.filtration))]
        for k in members:
            slope, shift = _line(x[:, representative], x[:, k], channels.shifts)
            left = (x[:, k] - slope * x[:, representative] - shift).abs().max()
            exact = left <= channels.rounding * x[:, k].abs().max()
            if k != representative and (level or exact):
                found.append(k)
    return found


def cheapest(channels: Channels) -> Iterator[tuple[float, int]]:
    """Yield channels in the order in which they can go, each after how much its removal changes.

    Each time the channel goes whose replacement changes the readers' sums least. The change is the
    part of its power that the most similar remaining channel does not explain, times its squared
    weights, as a share of the power of all sums. The weights of that similar channel then grow by
    those of the channel that it replaces. Power is the variance if a constant can go into the
    biases, otherwise the mean square.
    """
    for k in channels.constant():
        yield 0.0, k
    live = torch.ones(channels.x.shape[1], dtype=torch.bool)
    live[channels.tree.constant] = False
    columns = live.nonzero()[:, 0]
    if len(columns) < 2:
        return
    x = channels.x[:, columns]
    read_by = channels.read_by[:, columns].clone()
    x = x - x.mean(0) if channels.shifts else x
    power = x.square().mean(0)
    total = (x @ read_by.T).square().mean(0).sum() + torch.finfo(x.dtype).tiny
    r = products(channels.x, columns.tolist(), channels.filtration).fill_diagonal_(0)
    squares = r.square()
    best, partner = squares.max(1)
    gone = torch.zeros(len(columns), dtype=torch.bool)
    for _ in range(len(columns) - 1):
        cost = (1 - best) * power * read_by.square().sum(0)
        k = int(cost.masked_fill(gone, torch.inf).argmin())
        by = int(partner[k])
        yield float(cost[k] / total), int(columns[k])
        read_by[:, by] += read_by[:, k] * r[k, by] * (power[k] / power[by]).sqrt()
        gone[k] = True
        squares[:, k] = -1
        lost = (partner == k).nonzero()[:, 0]
        best[lost], partner[lost] = squares[lost].max(1)


def fold(channels: Channels, removed: Sequence[int], refit: bool) -> Fold:
    """Replace the channels that go by those that stay.

    With `refit` each becomes the least-squares combination of all that stay. Without it, a constant
    goes into the shift, and any other channel becomes a multiple of the most similar one that
    stays, plus a shift where one is possible.
    """
    x, shifts = channels.x, channels.shifts
    gone = torch.tensor(sorted(removed), dtype=torch.int64)
    stays = torch.ones(x.shape[1], dtype=torch.bool)
    stays[gone] = False
    kept = stays.nonzero()[:, 0]
    if refit:
        return Fold(kept, gone, *_least_squares(x[:, kept], x[:, gone], shifts))
    weights = x.new_zeros(len(gone), len(kept))
    shift_of = x.new_zeros(len(gone))
    nearest = _nearest(channels, gone, kept)
    for row, k in enumerate(gone.tolist()):
        if k in channels.tree.constant:
            shift_of[row] = x[:, k].mean() if shifts else 0
        else:
            place = nearest[row]
            weights[row, place], shift_of[row] = _line(x[:, kept[place]], x[:, k], shifts)
    return Fold(kept, gone, weights, shift_of)


def _nearest(channels: Channels, gone: Tensor, kept: Tensor) -> list[int]:
    """For each channel that goes, the position in `kept` of the most similar one."""
    v = components.filtration(channels.filtration).vertices(channels.x)
    found: list[int] = (v[gone] @ v[kept].T).abs().argmax(1).tolist()
    return found


def _line(x: Tensor, y: Tensor, shifts: bool) -> tuple[float, float]:
    """Slope and shift of the least-squares line from `x` to `y`; no shift unless `shifts`."""
    x_mean, y_mean = (x.mean(), y.mean()) if shifts else (x.new_zeros(()), y.new_zeros(()))
    slope = ((x - x_mean) * (y - y_mean)).sum() / (x - x_mean).square().sum()
    return float(slope), float(y_mean - slope * x_mean)


def _least_squares(x: Tensor, y: Tensor, shifts: bool) -> tuple[Tensor, Tensor]:
    x_mean, y_mean = (x.mean(0), y.mean(0)) if shifts else (x.new_zeros(()), y.new_zeros(()))
    if not y.shape[1]:  # LAPACK refuses empty matrices
        return y.new_zeros(0, x.shape[1]), y.new_zeros(0)
    # With fewer samples than channels, gelsd gives the solution of smallest norm.
    slopes = torch.linalg.lstsq(x - x_mean, y - y_mean, driver="gelsd").solution.T
    shift = y_mean - slopes @ x_mean if shifts else y.new_zeros(y.shape[1])
    return slopes, shift
