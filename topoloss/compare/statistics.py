"""Ranks, tests and intervals, and what may be concluded from them.

A table of scores has a row for each block (a split of one data set, or a whole data set) and
a column for each regulariser; higher scores are better. What a test allows us to conclude depends
on the blocks: splits of one data set share samples, so they are not independent data sets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from topoloss.errors import InputError
from topoloss.extras import needs_extra

if TYPE_CHECKING:
    from pandas import DataFrame, Series

    from topoloss.compare.records import Run

__all__ = [
    "Friedman",
    "PairedDifference",
    "best_on_average",
    "by_regulariser",
    "corrected_t_test",
    "critical_difference",
    "friedman",
    "mean_ranks",
    "nemenyi",
    "of_blocks",
    "paired_difference",
    "scores",
    "select",
    "student_interval",
]


class Friedman(NamedTuple):
    statistic: float
    p: float


@dataclass(frozen=True)
class PairedDifference:
    """A regulariser's scores minus those of a baseline on the same splits.

    Attributes
    ----------
    mean : float
    low, high : float
        Bootstrap interval of the mean, by percentiles.
    t_low, t_high : float
        Student's t interval of the mean.
    t, p : float
        The corrected resampled t-test, two-sided.
    """

    mean: float
    low: float
    high: float
    t_low: float
    t_high: float
    t: float
    p: float


def select(runs: Iterable[Run]) -> list[Run]:
    """Choose the weight of each regulariser on each split of each setup by validation.

    Parameters
    ----------
    runs : iterable of Run

    Returns
    -------
    list of Run
        For each setup, regulariser and seed the run with the best validation score; if several
        tie, the one with the smallest weight. Setups and regularisers stay in the order of the
        runs; seeds ascend.

    Notes
    -----
    Test scores play no part, so the choice does not bias those of the chosen runs.
    """
    best: dict[tuple[int, int, int], Run] = {}
    order: dict[Any, int] = {}
    for run in runs:
        key = (
            order.setdefault(run.setup, len(order)),
            order.setdefault(run.arm.regulariser, len(order)),
            run.seed,
        )
        rival = best.get(key)
        if rival is None or _merit(run) > _merit(rival):
            best[key] = run
    return [best[key] for key in sorted(best)]


def best_on_average(runs: Iterable[Run]) -> list[Run]:
    """Choose one weight of each regulariser for all splits of a setup by validation.

    Parameters
    ----------
    runs : iterable of Run
        Runs of one setup.

    Returns
    -------
    list of Run
        For each regulariser the runs of the weight with the best mean validation score over its
        splits; if several tie, the smallest. Regularisers stay in the order of the runs; seeds
        ascend.
    """
    chosen: list[Run] = []
    for of_name in by_regulariser(runs).values():
        at_weight: dict[float, list[Run]] = {}
        for run in of_name:
            at_weight.setdefault(run.arm.weight, []).append(run)
        means = {w: fmean(r.outcome.validation_score for r in at_weight[w]) for w in at_weight}
        best = max(means, key=lambda weight: (means[weight], -weight))
        chosen += sorted(at_weight[best], key=lambda run: run.seed)
    return chosen


def by_regulariser(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Group runs, in the order in which regularisers appear."""
    grouped: dict[str, list[Run]] = {}
    for run in runs:
        grouped.setdefault(run.arm.regulariser, []).append(run)
    return grouped


def _merit(run: Run) -> tuple[float, float]:
    return run.outcome.validation_score, -run.arm.weight


def scores(chosen: Iterable[Run]) -> DataFrame:
    """Tabulate the test scores of chosen runs of one setup, times 100.

    Returns
    -------
    DataFrame, shape (splits, regularisers)
        Without splits on which some regulariser has no run.

    Raises
    ------
    InputError
        If the runs are of several setups.
    """
    with needs_extra("compare"):
        import pandas as pd
    chosen = list(chosen)
    if len({run.setup for run in chosen}) > 1:
        raise InputError("runs of several setups were given; give those of one setup.")
    columns: dict[str, dict[int, float]] = {}
    for run in chosen:
        columns.setdefault(run.arm.regulariser, {})[run.seed] = 100 * run.outcome.test_score
    return pd.DataFrame(columns).dropna().sort_index()


def mean_ranks(scores: DataFrame) -> Series:
    """Mean rank of each treatment over the blocks: 1 is best, ties get their mean rank.

    Notes
    -----
    Mean ranks only describe these blocks; they are no test.

    Examples
    --------
    >>> import pandas as pd
    >>> from topoloss.compare.statistics import mean_ranks
    >>> mean_ranks(pd.DataFrame({"none": [90, 91], "t1": [92, 91]})).to_dict()
    {'none': 1.75, 't1': 1.25}
    """
    return scores.rank(axis=1, ascending=False).mean()


def of_blocks(scores: DataFrame, blocks: Sequence[str]) -> DataFrame:
    """Join rows that are not independent of each other into one row for each block.

    Parameters
    ----------
    scores : DataFrame, shape (rows, treatments)
    blocks : sequence of str
        The block of each row; rows that share samples belong to one block.

    Returns
    -------
    DataFrame, shape (blocks, treatments)
        Minus the mean rank over the rows of a block, so that higher is better. Ranks can be
        averaged over rows whose scores have different scales.

    Examples
    --------
    >>> import pandas as pd
    >>> from topoloss.compare.statistics import of_blocks
    >>> table = pd.DataFrame({"none": [90, 0.1, 70], "t1": [91, 0.2, 60]})
    >>> of_blocks(table, ["digits", "digits", "wine"]).loc["digits"].to_dict()
    {'none': -2.0, 't1': -1.0}
    """
    return -scores.rank(axis=1, ascending=False).groupby(list(blocks), sort=False).mean()


def friedman(scores: DataFrame) -> Friedman:
    """Friedman's test that all treatments rank alike.

    Raises
    ------
    InputError
        For fewer than 3 treatments or 2 blocks, or scores that are all tied.

    Notes
    -----
    If the blocks are independent, the test says something about new blocks. Data sets are
    independent. Splits of one data set are not, and make the p-value too small: then the test
    says something about splits of this data set only, and :func:`corrected_t_test` is the one
    to trust.

    References
    ----------
    Demsar, Statistical comparisons of classifiers over multiple data sets, JMLR 7 (2006).

    Examples
    --------
    >>> import pandas as pd
    >>> from topoloss.compare.statistics import friedman
    >>> friedman(pd.DataFrame({"a": [1, 1, 1], "b": [2, 2, 2], "c": [3, 3, 3]})).statistic
    6.0
    """
    _check_blocks(scores)
    with needs_extra("compare"):
        from scipy.stats import friedmanchisquare
    result = friedmanchisquare(*scores.to_numpy().T)
    return Friedman(float(result.statistic), float(result.pvalue))


def nemenyi(scores: DataFrame) -> DataFrame:
    """P-values of Nemenyi's post-hoc test, for all pairs and corrected for their number.

    Returns
    -------
    DataFrame, shape (treatments, treatments)

    Raises
    ------
    InputError
        As for :func:`friedman`.

    Notes
    -----
    As for :func:`friedman`, splits as blocks make the p-values too small for a claim about other
    data sets.

    Examples
    --------
    >>> import pandas as pd
    >>> from topoloss.compare.statistics import nemenyi
    >>> nemenyi(pd.DataFrame({"a": [1, 1], "b": [2, 2], "c": [3, 3]})).loc["a", "c"].round(3)
    np.float64(0.112)
    """
    _check_blocks(scores)
    with needs_extra("compare"):
        from scikit_posthocs import posthoc_nemenyi_friedman
    return posthoc_nemenyi_friedman(scores)


def critical_difference(treatments: int, blocks: int, alpha: float = 0.05) -> float:
    """The least difference of two mean ranks that is significant by Nemenyi's test.

    Examples
    --------
    >>> from topoloss.compare.statistics import critical_difference
    >>> round(critical_difference(4, 14), 2)  # the example of Demsar (2006), section 3.2.2
    1.25
    """
    with needs_extra("compare"):
        from scipy.stats import studentized_range
    q = studentized_range.ppf(1 - alpha, treatments, np.inf) / sqrt(2)
    return float(q * sqrt(treatments * (treatments + 1) / (6 * blocks)))


def paired_difference(
    scores: DataFrame, treatment: str, baseline: str, test_per_train: float
) -> PairedDifference:
    """Compare a treatment with a baseline, split by split.

    Parameters
    ----------
    scores : DataFrame, shape (splits, treatments)
        At least 2 splits of one data set.
    treatment, baseline : str
        Columns.
    test_per_train : float
        Size of the test part over the number of samples that were learnt from. The validation
        part counts as learnt from if it stopped training or chose the weight.

    Notes
    -----
    The first interval lies between percentiles of 9999 bootstrap means, with a fixed seed. Unlike
    BCa it is defined when all differences are equal. Over few splits it is too narrow: with 8 it
    covers the mean in about 90% of all cases. Student's t interval, ``mean -+ t s / sqrt(k)`` with
    k - 1 degrees of freedom, is wider and right for normal differences. Both take splits as if
    they were independent, so they are about the mean over such splits of these very samples, and
    too narrow for new samples. The corrected t-test beside them allows for new samples.

    Examples
    --------
    >>> import pandas as pd
    >>> from topoloss.compare.statistics import paired_difference
    >>> two = pd.DataFrame({"none": [90.0, 91.0, 90.0], "t1": [92.0, 92.0, 93.0]})
    >>> difference = paired_difference(two, "t1", "none", test_per_train=0.5)
    >>> difference.low, difference.mean, difference.high
    (1.0, 2.0, 3.0)
    """
    with needs_extra("compare"):
        from scipy.stats import bootstrap
    differences = (scores[treatment] - scores[baseline]).to_numpy()
    t, p = corrected_t_test(differences, test_per_train)
    interval = bootstrap(
        (differences,), np.mean, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return PairedDifference(
        float(differences.mean()),
        float(interval.low),
        float(interval.high),
        *student_interval(differences),
        t,
        p,
    )


def student_interval(differences: Any) -> tuple[float, float]:
    """Student's 95% interval of the mean of at least 2 differences.

    Examples
    --------
    >>> from topoloss.compare.statistics import student_interval
    >>> low, high = student_interval([1, 2, 3])  # 2 -+ 4.3027 / sqrt(3)
    >>> round(low, 3), round(high, 3)
    (-0.484, 4.484)
    """
    with needs_extra("compare"):
        from scipy.stats import t as student
    differences = np.asarray(differences, dtype=float)
    k, mean = len(differences), float(differences.mean())
    half = float(student.ppf(0.975, k - 1) * differences.std(ddof=1) / sqrt(k))
    return mean - half, mean + half


def corrected_t_test(differences: Any, test_per_train: float) -> tuple[float, float]:
    """Corrected resampled t-test of Nadeau and Bengio: statistic and two-sided p-value.

    Parameters
    ----------
    differences : array_like, shape (splits,)
        Paired differences over random splits of one data set.
    test_per_train : float
        Size of the test part over the number of samples that were learnt from. Nadeau and Bengio
        count only the training part. A validation part that stopped the training or chose a
        weight was learnt from as well, which makes the ratio smaller; report both.

    Raises
    ------
    InputError
        For fewer than 2 splits.

    Notes
    -----
    The variance of the mean over k splits is taken as ``(1/k + test/train) * s**2``, with k - 1
    degrees of freedom, because the parts overlap. The test says something, approximately, about
    new samples from the same source, and nothing about other data sets. If all splits have the
    same test part it says nothing either, because the differences do not show the variance of
    that part. If all differences are equal, the statistic is infinite, or 0 if they are 0.

    References
    ----------
    Nadeau, Bengio, Inference for the generalization error, Machine Learning 52 (2003).

    Examples
    --------
    >>> from topoloss.compare.statistics import corrected_t_test
    >>> t, p = corrected_t_test([1, 2, 3], test_per_train=2 / 3)  # variance of the mean: 1
    >>> round(t, 12), round(p, 3)
    (2.0, 0.184)
    """
    with needs_extra("compare"):
        from scipy.stats import t as student
    differences = np.asarray(differences, dtype=float)
    k = len(differences)
    if k < 2:
        raise InputError(f"{k} paired differences were given; a test over splits needs at least 2.")
    mean = differences.mean()
    error = sqrt((1 / k + test_per_train) * differences.var(ddof=1))
    # Differences that are equal but for rounding have no variance.
    if np.ptp(differences) <= 1e-9 * np.abs(differences).max():
        statistic = float(np.copysign(np.inf, mean)) if mean else 0.0
    else:
        statistic = float(mean / error)
    return statistic, float(2 * student.sf(abs(statistic), k - 1))


def _check_blocks(scores: DataFrame) -> None:
    blocks, treatments = scores.shape
    if blocks < 2 or treatments < 3:
        raise InputError(
            f"{treatments} treatments on {blocks} blocks were given; Friedman's and Nemenyi's "
            "tests need at least 3 treatments on 2 blocks."
        )
    if (scores.nunique(axis=1) == 1).all():
        raise InputError("all scores of each block are tied, so there is nothing to rank.")
