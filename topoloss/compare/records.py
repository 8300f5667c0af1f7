"""The records of a comparison: what was trained, on what data, and with what result.

Each record is a frozen dataclass. A *row* holds a record as text, one cell for each number, list
or word, so that a CSV file or a database can store it: `to_row` makes a row of a record, and
`from_row` makes the record of a row. Every number is read back exactly as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from itertools import accumulate
from math import nan
from typing import Any, TypeVar, get_type_hints

from topoloss.errors import OptionError, check_choice, check_number
from topoloss.expressions import parse_start

__all__ = [
    "DEATH_BINS",
    "Arm",
    "Defects",
    "Epoch",
    "Measures",
    "Neurons",
    "Outcome",
    "Protocol",
    "Run",
    "Setup",
    "columns",
    "exactly",
    "from_row",
    "to_row",
]

DEATH_BINS = 50

Record = TypeVar("Record")


def _later(default: Any) -> Any:
    """A field that rows of earlier versions lack."""
    return field(default=default, metadata={"later": True})


@dataclass(frozen=True)
class Protocol:
    """How to train.

    Except for `layers` and `eval_pass`, the defaults are the paper's for fully connected networks.

    Attributes
    ----------
    batch_size : int
        The last, partial batch of an epoch is kept.
    max_epochs : int
    patience : int
        How many epochs in a row may pass without a strictly better validation result, as
        `monitor` measures it.
    learning_rate, momentum, nesterov, decay, decay_steps
        Settings of the optimiser. The learning rate of a step is
        ``learning_rate * decay ** (step // decay_steps)``.
    fraction : float
        Of the neurons of each layer, the regulariser sees this fraction: those with the largest
        mean absolute activation.
    layers : {"auto", "trainable"}
        The layers that the regulariser sees: those that :func:`topoloss.attach` takes by
        default, or, by the paper's rule, every module with trainable parameters.
    optimiser : {"sgd", "adamw"}
        AdamW without weight decay is Adam. `momentum` and `nesterov` apply only to SGD; the
        learning rate decays for both.
    initialisation : {"pytorch", "he"}
        PyTorch's default, or He's normal initialisation with biases of 0.
    warmup : int
        Epochs over which the weight of every regulariser rises linearly from 0. For every arm,
        early stopping considers only the epochs after the warm-up.
    monitor : {"loss", "score"}
        What early stopping looks at, on the validation part and without the penalty. The
        authors' code uses the loss, but their paper says accuracy.
    eval_pass : bool
        Compute the regulariser on a separate pass in evaluation mode, as the authors did, instead
        of on the training pass.

    References
    ----------
    Ballester, Casacuberta, Escalera, PMLR 228 (2024), section 5, and the authors' code. He,
    Zhang, Ren, Sun, "Delving deep into rectifiers", ICCV 2015, section 2.2.
    """

    batch_size: int = 256
    max_epochs: int = 1200
    patience: int = 20
    learning_rate: float = 0.01
    momentum: float = 0.9
    nesterov: bool = True
    decay: float = 0.95
    decay_steps: int = 3520
    fraction: float = 1.0
    layers: str = "auto"
    monitor: str = "loss"
    eval_pass: bool = False
    optimiser: str = _later("sgd")
    initialisation: str = _later("pytorch")
    warmup: int = _later(0)

    def __post_init__(self) -> None:
        check_choice("layers", self.layers, ("auto", "trainable"))
        check_choice("monitor", self.monitor, ("loss", "score"))
        check_choice("optimiser", self.optimiser, ("sgd", "adamw"))
        check_choice("initialisation", self.initialisation, ("pytorch", "he"))
        check_number("warmup", self.warmup, whole=True, least=0)
        if self.warmup >= self.max_epochs:
            raise OptionError(
                f"warmup={self.warmup} and max_epochs={self.max_epochs} were given, which leaves "
                "no epoch at the full weight; train for more epochs, or warm up over fewer."
            )


@dataclass(frozen=True)
class Defects:
    """Which defects of the authors' code a run imitates; see `topoloss.compare.paper.defects`.

    Attributes
    ----------
    off_when_degenerate : bool
        The regulariser is switched off in degenerate batches.
    divide_twice : bool
        Pixels are divided by their range a second time.
    """

    off_when_degenerate: bool = False
    divide_twice: bool = False


@dataclass(frozen=True)
class Setup:
    """What regularisers are compared on: a network, its data, and how it is trained.

    Attributes
    ----------
    model, data : str
        Names, or references of the form ``package.module:function``.
    protocol : Protocol
    defects : Defects
        The defects of the authors' code that runs imitate; by default none.
    """

    model: str = "net0"
    data: str = "digits"
    protocol: Protocol = Protocol()
    defects: Defects = Defects()


@dataclass(frozen=True, order=True)
class Arm:
    """What is compared: a regulariser or a treatment, and what is added to it.

    Attributes
    ----------
    regulariser : str
        The terms of the arm, as :func:`topoloss.compare.arms.parse` names them, without the
        strength of the first.
    weight : float
        The strength of the first term: a regulariser's weight in the loss, or a treatment's
        strength.

    Examples
    --------
    >>> from topoloss.compare.records import Arm
    >>> str(Arm("t1+batch-norm", 0.001))
    't1=0.001+batch-norm'
    """

    regulariser: str
    weight: float

    def __str__(self) -> str:
        if not self.weight:
            return self.regulariser
        first, others = parse_start(self.regulariser)
        return f"{first}={exactly(self.weight)}{others}"


def exactly(number: float) -> str:
    """Write a number with enough digits to read it back exactly, but no more than needed.

    Examples
    --------
    >>> from topoloss.compare.records import exactly
    >>> exactly(1.0), exactly(0.1 + 0.2)
    ('1', '0.30000000000000004')
    """
    short = f"{number:g}"
    return short if float(short) == number else repr(number)


@dataclass(frozen=True)
class Epoch:
    """The validation result of an epoch.

    Attributes
    ----------
    number : int
        From 1; 0 stands for the untrained network.
    validation_loss, validation_score : float
    best : bool
        Whether these weights are strictly better than those of all earlier epochs after the
        warm-up. The last weights marked so are restored at the end.
    """

    number: int
    validation_loss: float
    validation_score: float
    best: bool = False


@dataclass(frozen=True)
class Neurons:
    """How alike the neurons that the regulariser sees are.

    Measured in evaluation mode on the first 1024 samples of the validation part.

    Attributes
    ----------
    deaths : tuple of int
        Counts of the deaths in dimension 0 in 50 equal bins of [0, 1].
    lowest, median, highest : float
        Lowest, median and highest death.
    correlation : float
        Mean absolute correlation over all pairs.
    constant : int
        Neurons that do not vary, such as dead ones. Their correlation counts as 0.
    """

    deaths: tuple[int, ...]
    lowest: float
    median: float
    highest: float
    correlation: float
    constant: int

    @property
    def varying_correlation(self) -> float:
        """Mean absolute correlation over the pairs of neurons that vary; NaN without a pair."""
        n = 1 + sum(self.deaths)
        varying = n - self.constant
        pairs = varying * (varying - 1)
        return self.correlation * n * (n - 1) / pairs if pairs else nan

    @property
    def varying_median(self) -> float:
        """Median death of the neurons that vary, as the middle of its bin; NaN if there is none."""
        # Each constant neuron has a death of 1; if all are constant, there is one death fewer.
        own = min(self.constant, sum(self.deaths))
        counts = [*self.deaths[:-1], self.deaths[-1] - own]
        half = sum(counts) / 2
        middle = next((k for k, n in enumerate(accumulate(counts)) if n >= half > 0), nan)
        return (middle + 0.5) / DEATH_BINS


@dataclass(frozen=True)
class Measures:
    """Further measures of the restored network; None where a measure is undefined or unknown.

    Attributes
    ----------
    ece, nll : float or None
        Expected calibration error and negative log-likelihood on the test part.
    temperature : float or None
        Fitted on the validation part.
    scaled_ece, scaled_nll : float or None
        The same two after temperature scaling.
    noisy_score, masked_score : float or None
        On test inputs with Gaussian noise of standard deviation 0.3, and with a random 30% of
        the inputs set to 0.
    effective_rank : float or None
        Effective rank of the activations on the validation part.
    """

    ece: float | None = _later(None)
    nll: float | None = _later(None)
    temperature: float | None = _later(None)
    scaled_ece: float | None = _later(None)
    scaled_nll: float | None = _later(None)
    noisy_score: float | None = _later(None)
    masked_score: float | None = _later(None)
    effective_rank: float | None = _later(None)


@dataclass(frozen=True)
class Outcome:
    """The result of a run.

    Attributes
    ----------
    metric : str
        Name of the score: accuracy or, for a regression, R2.
    test_score, validation_score : float
        Scores of the weights that early stopping restored, as fractions.
    epochs : int
        Epochs trained.
    seconds : float
        Wall-clock time of the training loop.
    diverged : bool
        The loss or an activation became infinite or NaN, which ended the run.
    off : float
        Fraction of the batches in which the regulariser was switched off.
    train_size, validation_size, test_size : int
    before, after : Neurons
        Before training, and with the restored weights.
    step_seconds : float or None
        Mean wall-clock time of a step of training, without evaluation.
    cpu_seconds : float or None
        Processor time that this process spent on training and measuring.
    measures : Measures
        Like `step_seconds` and `cpu_seconds`, unknown for runs of earlier versions.
    """

    metric: str
    test_score: float
    validation_score: float
    epochs: int
    seconds: float
    diverged: bool
    off: float
    train_size: int
    validation_size: int
    test_size: int
    before: Neurons = field(metadata={"prefix": "before_"})
    after: Neurons = field(metadata={"prefix": "after_"})
    step_seconds: float | None = _later(None)
    cpu_seconds: float | None = _later(None)
    measures: Measures = Measures()


@dataclass(frozen=True)
class Run:
    """One trained network.

    Attributes
    ----------
    setup : Setup
    arm : Arm
    seed : int
        Seed of the split, the initialisation and the order of batches.
    outcome : Outcome
    fixed_test : bool
        Whether all splits have the same test part.
    """

    setup: Setup
    arm: Arm
    seed: int
    outcome: Outcome
    fixed_test: bool = False


def columns(kind: type, prefix: str = "", *, later: bool = True) -> list[str]:
    """The names of a row's cells, in the order of the record's fields.

    Without `later`, columns that rows of earlier versions lack are left out.

    A field that is a record itself has a column for each of its own fields instead. A prefix
    tells two records of one type apart: ``before_deaths``, ``after_deaths``.

    Examples
    --------
    >>> from topoloss.compare.records import Arm, columns
    >>> columns(Arm)
    ['regulariser', 'weight']
    """
    listed: list[str] = []
    for name, hint, inner, is_later in _fields(kind):
        if _is_record(hint):
            listed += columns(hint, prefix + inner, later=later)
        elif later or not is_later:
            listed.append(prefix + name)
    return listed


def to_row(record: Any, prefix: str = "") -> dict[str, str]:
    """Return a record as text, column by column.

    Parameters
    ----------
    record : Setup, Protocol, Arm, Run, Outcome or Neurons
    prefix : str
        Put before the name of each column.

    Examples
    --------
    >>> from topoloss.compare.records import Arm, to_row
    >>> to_row(Arm("t1", 0.001))
    {'regulariser': 't1', 'weight': '0.001'}
    """
    row: dict[str, str] = {}
    for name, hint, inner, _ in _fields(type(record)):
        value = getattr(record, name)
        if _is_record(hint):
            row |= to_row(value, prefix + inner)
        else:
            row[prefix + name] = _text(value)
    return row


def from_row(kind: type[Record], row: Mapping[str, str], prefix: str = "") -> Record:
    """Make a record of the row that `to_row` returned.

    Fields whose columns rows of earlier versions lack get their defaults.

    Raises
    ------
    KeyError, ValueError
        If another column is missing, or a text is not a value of its field.

    Examples
    --------
    >>> from topoloss.compare.records import Arm, from_row
    >>> from_row(Arm, {"regulariser": "t1", "weight": "0.001"})
    Arm(regulariser='t1', weight=0.001)
    """
    values = {}
    for name, hint, inner, is_later in _fields(kind):
        if _is_record(hint):
            values[name] = from_row(hint, row, prefix + inner)
        elif not is_later or prefix + name in row:
            values[name] = _value(row[prefix + name], hint)
    return kind(**values)


def _listed_fields(kind: Any) -> tuple[tuple[str, Any, str, bool], ...]:
    """For each field: name, type, prefix of its columns if a record, and whether it came later."""
    types = get_type_hints(kind)
    return tuple(
        (f.name, types[f.name], f.metadata.get("prefix", ""), "later" in f.metadata)
        for f in fields(kind)
    )


_fields: Callable[[Any], tuple[tuple[str, Any, str, bool], ...]] = cache(_listed_fields)


@cache
def _is_record(hint: Any) -> bool:
    return is_dataclass(hint)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _value(text: str, kind: Any) -> Any:
    if kind is bool:
        if text not in ("True", "False"):
            raise ValueError(f"{text!r} is neither True nor False")
        return text == "True"
    if kind == (float | None):
        return float(text) if text else None
    if kind in (int, float):
        return kind(text)
    if kind == tuple[int, ...]:
        return tuple(map(int, text.split()))
    return text
