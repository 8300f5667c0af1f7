"""The tables of a comparison, as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan, nan
from statistics import fmean, geometric_mean, median, stdev
from typing import TYPE_CHECKING

from topoloss.compare.records import Arm, Measures, Run
from topoloss.compare.statistics import (
    by_regulariser,
    corrected_t_test,
    critical_difference,
    friedman,
    mean_ranks,
    nemenyi,
    paired_difference,
    scores,
    select,
)

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    "Row",
    "as_markdown",
    "differences",
    "edges",
    "header",
    "measures",
    "neurons",
    "ranks",
    "summarise",
    "summary",
    "weights",
]


def as_markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table; the text does not end with a newline.

    Examples
    --------
    >>> from topoloss.compare.tables import as_markdown
    >>> print(as_markdown(["regulariser", "weight"], [["t1", "0.001"]]))
    | regulariser | weight |
    | - | - |
    | t1 | 0.001 |
    """
    lines = [header, ["-"] * len(header), *rows]
    # An option of a regulariser may contain the sign that separates cells.
    escaped = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


@dataclass(frozen=True)
class Row:
    """One regulariser over all splits; scores are times 100.

    Attributes
    ----------
    regulariser : str
    weights : dict of float to int
        The weights chosen, ascending, and how many splits chose each.
    splits : int
    metric : str
        Name of the score.
    score, deviation : float
        Mean and sample standard deviation (NaN for one split) of the test score.
    gain : float or None
        Mean of the paired differences to ``none``; None without runs of ``none``.
    epochs, seconds : float
        Means.
    diverged, cut : int
        How many of the chosen runs diverged, and how many stopped at the limit of epochs.
    """

    regulariser: str
    weights: dict[float, int]
    splits: int
    metric: str
    score: float
    deviation: float
    gain: float | None
    epochs: float
    seconds: float
    diverged: int
    cut: int

    def cells(self) -> tuple[str, ...]:
        several = len(self.weights) > 1
        chosen = (f"{w:g}" + f" x {n}" * several for w, n in self.weights.items())
        weights = "-" if list(self.weights) == [0] else ", ".join(chosen)
        spread = "" if isnan(self.deviation) else f" ± {self.deviation:.2f}"
        return (
            self.regulariser,
            weights,
            f"{self.splits}",
            f"{self.score:.2f}{spread}",
            "-" if self.gain is None else f"{self.gain:+.2f}",
            f"{self.epochs:.0f}",
            f"{self.seconds:.1f}",
        )

    def note(self) -> str:
        """A remark on runs that diverged or stopped at the limit of epochs; empty without any."""
        counts = {"diverged": self.diverged, "stopped at the limit of epochs": self.cut}
        return ", ".join(f"{count} {what}" for what, count in counts.items() if count)


def header(rows: Sequence[Row]) -> tuple[str, ...]:
    """Names of the columns of :func:`summary`."""
    return (
        *("regulariser", "weight", "splits", f"test {rows[0].metric} (%)", "gain over none"),
        *("epochs", "s per run"),
    )


def summarise(runs: Sequence[Run]) -> list[Row]:
    """Summarise the runs of one setup: a row for each regulariser, in the order of the runs."""
    chosen = by_regulariser(select(runs))
    plain = {run.seed: 100 * run.outcome.test_score for run in chosen.get("none", [])}
    rows = []
    for name, best in chosen.items():
        scored = [100 * run.outcome.test_score for run in best]
        gains = [s - plain[r.seed] for s, r in zip(scored, best, strict=True) if r.seed in plain]
        rows.append(
            Row(
                regulariser=name,
                weights=dict(sorted(Counter(run.arm.weight for run in best).items())),
                splits=len(best),
                metric=best[0].outcome.metric,
                score=fmean(scored),
                deviation=stdev(scored) if len(best) > 1 else nan,
                gain=fmean(gains) if gains and name != "none" else None,
                epochs=fmean(run.outcome.epochs for run in best),
                seconds=fmean(run.outcome.seconds for run in best),
                diverged=sum(run.outcome.diverged for run in best),
                cut=sum(
                    run.outcome.epochs == run.setup.protocol.max_epochs and not run.outcome.diverged
                    for run in best
                ),
            )
        )
    return rows


def summary(rows: Sequence[Row]) -> str:
    """One line for each regulariser: its weight, test score, gain, epochs and time."""
    cells = [list(row.cells()) for row in rows]
    for row, line in zip(rows, cells, strict=True):
        line[3] += f" ({row.note()})" if row.note() else ""
    return as_markdown(header(rows), cells)


def ranks(table: DataFrame, blocks: str) -> str:
    """Mean ranks, with Friedman's test and Nemenyi's of all pairs.

    Parameters
    ----------
    table : DataFrame, shape (blocks, regularisers)
        Scores.
    blocks : str
        What the blocks are, for the text above the table.

    Raises
    ------
    InputError
        If there are too few blocks or regularisers for the tests.
    """
    mean, test, pairs = mean_ranks(table), friedman(table), nemenyi(table)
    names = list(table)
    rows = [(n, f"{mean[n]:.2f}", *(f"{pairs.loc[n, m]:.3g}" for m in names)) for n in names]
    return (
        f"Friedman's test over {len(table)} blocks: statistic {test.statistic:.4g}, "
        f"p = {test.p:.3g}. The blocks are {blocks}. P-values of Nemenyi's test; critical "
        f"difference of the mean ranks at 5%: {critical_difference(len(names), len(table)):.2f}."
        "\n\n" + as_markdown(("regulariser", "mean rank", *names), rows)
    )


def differences(chosen: Sequence[Run], baselines: Sequence[str] = ("none", "naive")) -> str:
    """Gains over some baselines on the same splits, with intervals and tests."""
    grouped = by_regulariser(chosen)
    rows = [
        _difference(name, runs, baseline, grouped[baseline])
        for baseline in baselines
        for name, runs in grouped.items()
        if name not in ("none", baseline) and _shared(runs, grouped.get(baseline, [])) > 1
    ]
    if not rows:
        return (
            f"No paired differences: they need {' or '.join(f'`{name}`' for name in baselines)}, "
            "and at least 2 splits."
        )
    outcome = chosen[0].outcome
    header = (
        *("regulariser", "against", "splits", "gain", "95% interval", "95% t interval"),
        *("corrected p, test over training", "test over training and validation"),
    )
    licensed = (
        "All splits have the same test part, so no p-values are given: the splits say nothing "
        "about other test samples."
        if chosen[0].fixed_test
        else "The corrected resampled t-test (Nadeau and Bengio) allows for the overlap of the "
        f"parts, of {outcome.test_size} samples for the test, {outcome.train_size} for training "
        f"and {outcome.validation_size} for validation. By its authors the ratio is test over "
        "training; the validation part was learnt from too, as it stopped training or chose the "
        "weight."
    )
    return (
        f"Paired differences in the test {outcome.metric} (%). The first interval is the "
        "percentile bootstrap's, the second Student's, which is wider where splits are few; both "
        f"hold for these samples. {licensed}\n\n" + as_markdown(header, rows)
    )


def _shared(runs: Sequence[Run], others: Sequence[Run]) -> int:
    return len({run.seed for run in runs} & {run.seed for run in others})


def _difference(
    name: str, runs: Sequence[Run], baseline: str, plain: Sequence[Run]
) -> tuple[str, ...]:
    outcome = runs[0].outcome
    pairs = scores((*plain, *runs))
    d = paired_difference(pairs, name, baseline, outcome.test_size / outcome.train_size)
    learnt_from = outcome.train_size + outcome.validation_size
    differences = pairs[name] - pairs[baseline]
    ps = (d.p, corrected_t_test(differences, outcome.test_size / learnt_from)[1])
    return (
        *(name, baseline, f"{len(pairs)}", f"{d.mean:+.2f}"),
        *(f"{d.low:+.2f} to {d.high:+.2f}", f"{d.t_low:+.2f} to {d.t_high:+.2f}"),
        *("-" if runs[0].fixed_test else f"{p:.3g}" for p in ps),
    )


def neurons(chosen: Sequence[Run]) -> str:
    """How alike the neurons are before and after training; and the time of an epoch."""
    grouped = by_regulariser(chosen)
    time_of = {
        name: sum(r.outcome.seconds for r in runs) / sum(r.outcome.epochs for r in runs)
        for name, runs in grouped.items()
    }
    rows = []
    for name, runs in grouped.items():
        before, after = ([getattr(r.outcome, w) for r in runs] for w in ("before", "after"))
        overhead = f"{time_of[name] / time_of['none']:.2f}" if "none" in time_of else "-"
        rows.append(
            (
                name,
                *(f"{fmean(n.constant for n in part):.0f}" for part in (before, after)),
                *(f"{fmean(n.varying_correlation for n in part):.3f}" for part in (before, after)),
                *(f"{fmean(n.varying_median for n in part):.2f}" for part in (before, after)),
                f"{100 * fmean(r.outcome.off for r in runs):.1f}",
                f"{1000 * time_of[name]:.1f}",
                overhead,
            )
        )
    header = (
        *("regulariser", "constant neurons before", "after"),
        *("mean abs. correlation before", "after", "median death before", "after"),
        *("batches switched off (%)", "ms per epoch", "times none"),
    )
    return (
        "Neurons, before and after training, on the validation part: how many are constant, and "
        "the correlations and deaths of those that are not.\n\n" + as_markdown(header, rows)
    )


def measures(chosen: Sequence[Run]) -> str:
    """Calibration, robustness, rank and time of a step; means over the splits that have them."""
    rows = [
        (
            name,
            *(
                _mean([_measured(r.outcome.measures, m) for r in runs], factor, mean)
                for m, factor, mean in _MEASURES
            ),
            _mean([r.outcome.step_seconds for r in runs], 1000),
        )
        for name, runs in by_regulariser(chosen).items()
    ]
    metric = chosen[0].outcome.metric
    header = (
        *("regulariser", "ECE (%)", "NLL", "temperature", "scaled ECE (%)", "scaled NLL"),
        *(f"{metric} with noise (%)", f"{metric}, inputs masked (%)", "effective rank"),
        "ms per step",
    )
    return (
        "On the test part: the expected calibration error and the negative log-likelihood, before "
        "and after temperature scaling, and the score on corrupted inputs. If a whole validation "
        "part is classified correctly, no temperature is best: such splits have none, and their "
        "unscaled values count. The effective rank is of the activations on the validation part."
        "\n\n" + as_markdown(header, rows)
    )


# Each with its factor in the table, and its mean: geometric for a temperature, itself a factor.
_MEASURES = (
    *(("ece", 100, fmean), ("nll", 1, fmean), ("temperature", 1, geometric_mean)),
    *(("scaled_ece", 100, fmean), ("scaled_nll", 1, fmean)),
    *(("noisy_score", 100, fmean), ("masked_score", 100, fmean), ("effective_rank", 1, fmean)),
)


def _measured(measures: Measures, name: str) -> float | None:
    unscaled = name.startswith("scaled_") and measures.temperature is None
    value: float | None = getattr(measures, name.removeprefix("scaled_") if unscaled else name)
    return value


def _mean(
    values: Sequence[float | None], factor: float, mean: Callable[[Sequence[float]], float] = fmean
) -> str:
    """The mean of the known values, and their number if some are unknown."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    on_some = f" ({len(known)} of {len(values)} splits)" if len(known) < len(values) else ""
    return f"{factor * mean(known):.3g}{on_some}"


def weights(runs: Sequence[Run], chosen: Sequence[Run]) -> str:
    """Validation scores at each weight that was tried, and how many splits chose it."""
    times_chosen = Counter(run.arm for run in chosen)
    of_arm: dict[Arm, list[float]] = {}
    for run in runs:
        of_arm.setdefault(run.arm, []).append(100 * run.outcome.validation_score)
    rows = [
        (
            *(arm.regulariser, f"{arm.weight:g}", f"{len(values)}", f"{median(values):.2f}"),
            *(f"{min(values):.2f}", f"{times_chosen[arm]}"),
        )
        for arm, values in of_arm.items()
    ]
    metric = runs[0].outcome.metric
    header = ("regulariser", "weight", "splits", f"median validation {metric} (%)", "lowest")
    return f"{as_markdown((*header, 'chosen on'), rows)}\n\n{edges(runs, chosen)}"


def edges(runs: Sequence[Run], chosen: Sequence[Run]) -> str:
    """Say which of the chosen weights are the lowest or the highest that was tried."""
    tried: dict[str, set[float]] = {}
    for run in runs:
        tried.setdefault(run.arm.regulariser, set()).add(run.arm.weight)
    times_chosen = Counter(run.arm for run in chosen)
    splits = Counter(run.arm.regulariser for run in chosen)
    found = [
        f"{name} {weight:g}, the {end}, on {times_chosen[Arm(name, weight)]} of {splits[name]}"
        for name, weights in tried.items()
        for end, weight in (("lowest", min(weights)), ("highest", max(weights)))
        if len(weights) > 1 and times_chosen[Arm(name, weight)]
    ]
    if not any(len(weights) > 1 for weights in tried.values()):
        return "Every regulariser was tried at one weight."
    if not found:
        return "No split chose a weight at an end of those that were tried."
    return (
        "Some splits chose a weight at an end of those that were tried, so a better one may lie "
        f"beyond: {'; '.join(found)}."
    )
