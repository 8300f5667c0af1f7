"""Distances between diagrams, by matching their points: ``wasserstein``, ``bottleneck``.

A point is matched to a point of the other diagram, or to the diagonal. scipy finds the matching
and returns indices only; the costs of the matched pairs are valued again under autograd.
"""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import topoloss
from topoloss_plugins.points import check_dimension, chosen
from topoloss_plugins.scales import power_of_two

Ground = Literal["chebyshev", "euclidean"]


class _Matching(topoloss.Loss):
    """A distance between a diagram and a target."""

    target: Tensor

    def __init__(self, target: Sequence[Sequence[float]], dimension: int, ground: Ground) -> None:
        super().__init__()
        check_dimension(dimension)
        topoloss.check_choice("ground", ground, ("chebyshev", "euclidean"))
        self.dimension = dimension
        self.ground = ground
        self.register_buffer("target", _points(target), persistent=False)
        if len(self.target):
            _scipy("optimize")

    def _costs(self, diagrams: Sequence[topoloss.Diagram]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the costs of all pairs of points, and of matching points to the diagonal.

        The latter are given for the diagram and for the target. The last result marks the points
        of the diagram that count.
        """
        d = chosen(diagrams, self.dimension, self)
        births, deaths = self.target.to(d.deaths).unbind(1)
        pairs = self._distance(d.births[:, None] - births, d.deaths[:, None] - deaths)
        # The nearest point of the diagonal is ((birth + death) / 2, (birth + death) / 2).
        lives, lives_of_target = (
            self._distance(lifetimes / 2, -lifetimes / 2)
            for lifetimes in (d.lifetimes, deaths - births)
        )
        return pairs, lives, lives_of_target, d.weights > 0

    def _distance(self, births: Tensor, deaths: Tensor) -> Tensor:
        if self.ground == "chebyshev":
            return torch.maximum(births.abs(), deaths.abs())
        # Scaled by the larger part, so that squares neither under- nor overflow.
        largest = torch.maximum(births.detach().abs(), deaths.detach().abs())
        same = largest == 0
        scale = power_of_two(largest)
        squares = torch.where(same, 1, (births / scale).square() + (deaths / scale).square())
        return torch.where(same, 0, squares.sqrt() * scale)

    def extra_repr(self) -> str:
        points = len(self.target)
        target = f"target of {points} point{'s' * (points != 1)}"
        return f"{target}, dimension={self.dimension}, ground={self.ground!r}"


class Wasserstein(_Matching):
    r"""The Wasserstein distance to a target, :math:`\min_m (\sum_x \|x - m(x)\|^q)^{1/q}`.

    m matches each point of either diagram to a point of the other, or to the diagonal.

    Parameters
    ----------
    target : sequence of (birth, death)
        The diagram to come close to; by default the empty one, for which every point is matched to
        the diagonal.
    dimension : int
        The homology dimension whose points are matched.
    power : float
        The exponent q, at least 1.
    ground : {"chebyshev", "euclidean"}
        The distance between two points: the larger of the differences of births and of deaths, or
        the Euclidean distance.

    Notes
    -----
    Essential classes are left out. The matching is the best one, found by scipy's
    ``linear_sum_assignment`` in time O(n m^2) for m points of the target, on the CPU. The
    gradient is that of the matched pairs; where two matchings are equally good, it is that of one
    of them. It is 0 at distance 0, and for two matched points that are equal.

    References
    ----------
    Cohen-Steiner, Edelsbrunner, Harer, Mileyko, "Lipschitz functions have
    L_p-stable persistence", Found. Comput. Math. 10 (2010), section 2.

    Examples
    --------
    >>> import torch, topoloss
    >>> x = torch.tensor([[0.0, 1.0, 5.0]])  # deaths 1 and 4
    >>> topoloss.pipeline("euclidean", "mst", "wasserstein")(x)  # 1 / 2 + 4 / 2
    tensor(2.5000)
    >>> near = topoloss.loss("wasserstein", target=[(0.0, 3.0)])
    >>> topoloss.pipeline("euclidean", "mst", near)(x)  # 1 / 2 + (4 - 3)
    tensor(1.5000)
    """

    def __init__(
        self,
        *,
        target: Sequence[Sequence[float]] = (),
        dimension: int = 0,
        power: float = 1.0,
        ground: Ground = "chebyshev",
    ) -> None:
        super().__init__(target, dimension, ground)
        topoloss.check_number("power", power, least=1)
        self.power = power

    def forward(self, diagrams: Sequence[topoloss.Diagram]) -> Tensor:
        pairs, lives, lives_of_target, counts = self._costs(diagrams)
        lives = torch.where(counts, lives, 0)
        costs = torch.cat((lives, lives_of_target))
        if not len(costs):
            return lives.sum()
        if len(self.target) and len(lives):
            largest = torch.maximum(costs.detach().amax(), pairs.detach().amax())
            scale = torch.where(largest > 0, largest, 1)
            cheaper = (
                (pairs / scale) ** self.power
                - (lives[:, None] / scale) ** self.power
                - (lives_of_target / scale) ** self.power
            ).detach()
            # Matching a pair pays only if it costs less than matching both points to the diagonal.
            point = assignment(torch.where(counts[:, None], cheaper, 0).clamp(max=0))
            matched = point >= 0
            point = point.clamp(min=0)
            of_target = torch.where(matched, pairs.gather(0, point[None])[0], lives_of_target)
            left = (
                (point[:, None] == torch.arange(len(lives), device=point.device)) & matched[:, None]
            ).any(0)
            costs = torch.cat((torch.where(left, 0, lives), of_target))
        return _norm(costs, self.power)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, power={self.power}"


class Bottleneck(_Matching):
    r"""The bottleneck distance to a target, :math:`\min_m \max_x \|x - m(x)\|_\infty`.

    m matches each point of either diagram to a point of the other, or to the diagonal.

    Parameters
    ----------
    target : sequence of (birth, death)
        The diagram to come close to; by default the empty one, to which the distance is half of
        the longest lifetime.
    dimension : int
        The homology dimension whose points are matched.

    Notes
    -----
    Essential classes are left out. The distance is the cost of one pair of points, or of one point
    and the diagonal. Bisection over all costs finds it, on the CPU, with scipy's
    ``maximum_bipartite_matching``. Only this pair has a gradient. Where costs tie, the first in the
    list counts as the smallest, so that the gradient is that of a single pair there as well.

    References
    ----------
    Cohen-Steiner, Edelsbrunner, Harer, "Stability of persistence diagrams", Discrete Comput.
    Geom. 37 (2007).

    Examples
    --------
    >>> import torch, topoloss
    >>> x = torch.tensor([[0.0, 1.0, 5.0]])  # deaths 1 and 4
    >>> topoloss.pipeline("euclidean", "mst", "bottleneck")(x)
    tensor(2.)
    >>> near = topoloss.loss("bottleneck", target=[(0.0, 3.0)])
    >>> topoloss.pipeline("euclidean", "mst", near)(x)
    tensor(1.)
    """

    def __init__(self, *, target: Sequence[Sequence[float]] = (), dimension: int = 0) -> None:
        super().__init__(target, dimension, "chebyshev")

    def forward(self, diagrams: Sequence[topoloss.Diagram]) -> Tensor:
        pairs, lives, lives_of_target, counts = self._costs(diagrams)
        lives = torch.where(counts, lives, 0)
        pairs = torch.where(counts[:, None], pairs, torch.inf)
        costs = torch.cat((pairs.flatten(), lives, lives_of_target))
        if not len(costs):
            return lives.sum()
        return costs.gather(0, bottleneck_cost(costs.detach(), len(lives))[None])[0]


def _norm(costs: Tensor, power: float) -> Tensor:
    """``sum(costs ** power) ** (1 / power)`` of non-negative numbers, with gradient 0 at 0."""
    if power == 1:
        return costs.sum()
    largest = costs.detach().amax()
    positive = largest > 0
    scale = torch.where(positive, largest, 1)
    total = torch.where(positive, ((costs / scale) ** power).sum(), 1)
    return torch.where(positive, total ** (1 / power) * scale, 0)


@torch.library.custom_op("topoloss::assignment", mutates_args=())
def assignment(costs: Tensor) -> Tensor:
    """Assign rows of (..., n, m) costs, none above 0, to columns so that their sum is lowest.

    Returns the row of each column; each row is taken at most once. A column gets -1 where no row is
    left for it, or only a cost of 0.
    """
    solve = _scipy("optimize").linear_sum_assignment
    taken = np.full((*costs.shape[:-2], costs.shape[-1]), -1)
    for place in np.ndindex(costs.shape[:-2]):
        matrix = costs[place].detach().cpu().double().numpy()
        rows, columns = solve(matrix)
        worth = matrix[rows, columns] < 0
        taken[place][columns[worth]] = rows[worth]
    return torch.from_numpy(taken).to(costs.device)


@assignment.register_fake
def _(costs: Tensor) -> Tensor:
    return costs.new_empty((*costs.shape[:-2], costs.shape[-1]), dtype=torch.int64)


@assignment.register_vmap
def _(info: Any, in_dims: tuple[int], costs: Tensor) -> tuple[Tensor, int]:
    return assignment(costs.movedim(in_dims[0], 0)), 0


@torch.library.custom_op("topoloss::bottleneck_cost", mutates_args=())
def bottleneck_cost(costs: Tensor, points: int) -> Tensor:
    """Find the index of the bottleneck of the best matching among (..., k) costs.

    k is n * m + n + m for n points and m points of the target: the costs of all pairs, row by row,
    then of matching the points to the diagonal, then of matching the target's points to it.
    """
    found = np.empty(costs.shape[:-1], dtype=np.int64)
    for place in np.ndindex(costs.shape[:-1]):
        found[place] = _bottleneck(costs[place].detach().cpu().numpy(), points)
    return torch.from_numpy(found).to(costs.device)


@bottleneck_cost.register_fake
def _(costs: Tensor, points: int) -> Tensor:
    return costs.new_empty(costs.shape[:-1], dtype=torch.int64)


@bottleneck_cost.register_vmap
def _(info: Any, in_dims: tuple[int, None], costs: Tensor, points: int) -> tuple[Tensor, int]:
    return bottleneck_cost(costs.movedim(in_dims[0], 0), points), 0


def _bottleneck(costs: npt.NDArray[Any], n: int) -> int:
    """Bisect for the lowest cost that no pair of some matching exceeds."""
    order = costs.argsort(kind="stable")
    # Ranks break ties, so that exactly one cost is the bottleneck.
    rank = np.empty(len(costs), dtype=np.int64)
    rank[order] = np.arange(len(costs))
    m = (len(costs) - n) // (n + 1)
    pairs = rank[: n * m].reshape(n, m)
    lives, lives_of_target = rank[n * m : n * m + n], rank[n * m + n :]

    def is_enough(most: int) -> bool:
        """Whether some matching has no cost of a rank above `most`.

        Points nearer to the diagonal need no partner. If the others of each diagram can be matched
        for themselves, then one matching covers those of both (Mendelsohn and Dulmage, 1958).
        """
        near = pairs <= most
        return _covers(near[lives > most]) and _covers(near.T[lives_of_target > most])

    low, high = 0, int(max(lives.max(initial=0), lives_of_target.max(initial=0)))
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle + 1, high)
    return int(order[low])


def _covers(may_match: npt.NDArray[np.bool_]) -> bool:
    """Whether all rows can be matched, each to a different column."""
    rows, columns = may_match.shape
    if not rows or rows > columns:
        return not rows
    graph = _scipy("sparse").csr_matrix(may_match)
    match: Callable[..., Any] = _scipy("sparse.csgraph").maximum_bipartite_matching
    return bool((match(graph, perm_type="column") >= 0).all())


def _points(target: object) -> Tensor:
    """Return (m, 2) finite numbers, no death before its birth, or raise an `OptionError`."""
    expected = "expected finite (birth, death) pairs, with births no later than deaths"
    if isinstance(target, Tensor):
        target = target.detach().cpu().double()
    if isinstance(target, str):  # an option in the brackets after a name
        with suppress(ValueError, SyntaxError):
            target = literal_eval(target)
    try:
        points = torch.as_tensor(np.asarray(target, dtype=np.float64)).clone()
    except (TypeError, ValueError, OverflowError) as error:
        raise topoloss.OptionError(
            f"target of type {type(target).__name__} was given; {expected}, by name as in "
            "'wasserstein[target=[(0, 1), (0.5, 2)]]'."
        ) from error
    if points.shape == (0,):
        return points.new_zeros(0, 2)
    pairs = points.ndim == 2 and points.shape[1] == 2
    if not (pairs and bool(torch.isfinite(points).all() and (points[:, 0] <= points[:, 1]).all())):
        raise topoloss.OptionError(
            f"target of shape {tuple(points.shape)} was given; {expected}: shape (points, 2)."
        )
    return points


def _scipy(module: str) -> Any:
    with topoloss.needs_extra("matching"):
        return import_module(f"scipy.{module}")


@topoloss.hookimpl
def topoloss_losses() -> dict[str, type[topoloss.Loss]]:
    return {"wasserstein": Wasserstein, "bottleneck": Bottleneck}
