"""Which weights of a regulariser are tried on each split: a grid, or a search by TPE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from topoloss.compare.arms import parse as parse_arm
from topoloss.compare.names import LARGEST_WEIGHT
from topoloss.compare.paper.protocols import WEIGHTS
from topoloss.errors import OptionError

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

__all__ = ["Grid", "Search", "Tpe", "parse", "state_of"]


@dataclass(frozen=True)
class Grid:
    """Try every weight of a list on every split.

    The weights wait in Optuna's queue. We don't use its grid sampler: it could draw one weight
    twice when several processes draw at once, and it repeats finished weights when the grid grows.
    """

    regulariser: str
    weights: tuple[float, ...]

    @property
    def study(self) -> str:
        return self.regulariser

    @property
    def high(self) -> float:
        """The highest weight."""
        return max(self.weights)

    @property
    def runs(self) -> int:
        """How many runs each split needs."""
        return len(self.weights)

    def sampler(self) -> Any:
        """Return None, because a grid samples nothing."""
        return None

    def offer(self, study: Study) -> bool:
        """Queue the next weight, unless another process did; return whether a weight waits."""
        trials = study.get_trials(deepcopy=False)
        live = {t.user_attrs.get("weight") for t in trials if state_of(t) in _LIVE}
        missing = [w for w in self.weights if w not in live]
        if missing:
            study.enqueue_trial({"weight": missing[0]}, user_attrs={"weight": missing[0]})
        return bool(missing) or any(state_of(t) == "WAITING" for t in trials)

    def weight(self, trial: Trial) -> float:
        """Return the trial's weight; prune the trial if another one has the same weight."""
        import optuna

        weight = trial.user_attrs.get("weight")
        if weight is None:  # another process took the queued weight
            raise optuna.TrialPruned
        rivals = [
            t
            for t in trial.study.get_trials(deepcopy=False)
            if t.number != trial.number and t.user_attrs.get("weight") == weight
        ]
        # Of the live trials only the first goes on.
        if any(state_of(t) == "COMPLETE" for t in rivals) or any(
            state_of(t) in _LIVE and t.number < trial.number for t in rivals
        ):
            raise optuna.TrialPruned
        return trial.suggest_float("weight", 0, LARGEST_WEIGHT)

    def has(self, weight: float) -> bool:
        return weight in self.weights

    def distribution(self) -> Any:
        from optuna.distributions import FloatDistribution

        return FloatDistribution(0, LARGEST_WEIGHT)


@dataclass(frozen=True)
class Tpe:
    """Let Optuna's TPE sampler draw weights from a range on every split, by their logarithm."""

    regulariser: str
    low: float
    high: float
    trials: int

    @property
    def study(self) -> str:
        return f"{self.regulariser} from {self.low:g} to {self.high:g}"

    @property
    def runs(self) -> int:
        return self.trials

    def sampler(self) -> Any:
        from optuna.samplers import TPESampler

        # Without a seed, because with one a resumed sweep would draw its first weights again.
        return TPESampler()

    def offer(self, study: Study) -> bool:
        return self._taken(study.get_trials(deepcopy=False)) < self.trials

    def weight(self, trial: Trial) -> float:
        import optuna

        trials = trial.study.get_trials(deepcopy=False)
        if self._taken([t for t in trials if t.number < trial.number]) >= self.trials:
            raise optuna.TrialPruned
        return trial.suggest_float("weight", self.low, self.high, log=True)

    def _taken(self, trials: Sequence[FrozenTrial]) -> int:
        """How many weights are finished or taken; a finished weight counts once."""
        finished = {t.params["weight"] for t in trials if state_of(t) == "COMPLETE"}
        return len(finished) + sum(state_of(t) in ("WAITING", "RUNNING") for t in trials)

    def has(self, weight: float) -> bool:
        return self.low <= weight <= self.high

    def distribution(self) -> Any:
        from optuna.distributions import FloatDistribution

        return FloatDistribution(self.low, self.high, log=True)


Search: TypeAlias = Grid | Tpe

_LIVE = ("WAITING", "RUNNING", "COMPLETE")


def parse(specifications: Sequence[str], trials: int | None = None) -> list[Search]:
    """Parse arms, checking names and weights; :mod:`topoloss.compare.arms` says how to write them.

    Parameters
    ----------
    specifications : sequence of str
        ``NAME=paper`` stands for the weights of the paper. Options are part of the name of the
        regulariser, in alphabetical order. Specifications that differ in options or in further
        terms are different arms.
    trials : int, optional
        Search with this many trials on each split between the lowest and the highest weight,
        instead of trying each weight.

    Examples
    --------
    >>> from topoloss.compare.searches import parse
    >>> parse(["none", "t1=1e-3,1e-2"])
    [Grid(regulariser='none', weights=(0.0,)), Grid(regulariser='t1', weights=(0.001, 0.01))]
    >>> parse(["t1=1e-6,100"], trials=20)
    [Tpe(regulariser='t1', low=1e-06, high=100.0, trials=20)]
    >>> parse(["t2[beta=0, alpha=1]=0.1"])
    [Grid(regulariser='t2[alpha=1,beta=0]', weights=(0.1,))]
    """
    grids: dict[str, tuple[float, ...]] = {}
    for specification in specifications:
        name, weights = parse_arm(specification)
        grids[name] = tuple(dict.fromkeys((*grids.get(name, ()), *weights)))
    if not grids:
        raise OptionError("no regulariser was given; write for example: none t1=0.001 t2=1")
    return [
        Grid(name, weights) if trials is None or weights == (0.0,) else _tpe(name, weights, trials)
        for name, weights in grids.items()
    ]


def _tpe(name: str, weights: tuple[float, ...], trials: int) -> Tpe:
    low, high = min(weights), max(weights)
    if (weights != WEIGHTS and len(weights) != 2) or not 0 < low < high:
        raise OptionError(
            f"{name}={','.join(f'{w:g}' for w in weights)} is no range to search; write "
            f"{name}=LOWEST,HIGHEST, both positive."
        )
    return Tpe(name, low, high, trials)


def state_of(trial: FrozenTrial) -> str:
    name: str = trial.state.name
    return name
