"""Data with targets, and their split into training, validation and test parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from topoloss import objects
from topoloss.errors import (
    InputError,
    OptionError,
    UnknownNameError,
    check_number,
    listed,
    nearest,
)
from topoloss.expressions import Part as ExpressionPart
from topoloss.expressions import parse
from topoloss.extras import needs_extra

__all__ = ["DATASETS", "Dataset", "Part", "Split", "load", "split"]


# Number of samples of each generated data set.
_GENERATED = 1500


@dataclass(frozen=True)
class Dataset:
    """Samples with their targets, and how they are split.

    Attributes
    ----------
    x : Tensor, shape (samples, ...)
        Inputs, scaled to [0, 1] for images.
    y : Tensor
        Class labels, int64 and counted from 0, shape (samples,); or the targets of a regression,
        of the dtype of `x`, shape (samples, targets).
    train, validation : int
        Sizes of these parts; all other samples form the test part.
    fixed_test : bool
        Every split has the same test part, the last samples, instead of a random one.
    pixel_range : float
        The number that pixels were divided by; 1 for data that are not images.
    standardise : bool
        Shift and scale each feature, and each target of a regression, by the mean and the
        standard deviation of the training part.
    """

    x: Tensor
    y: Tensor
    train: int
    validation: int
    fixed_test: bool = False
    pixel_range: float = 1.0
    standardise: bool = False

    @property
    def outputs(self) -> int:
        """How many outputs a network needs: one for each class, or for each target."""
        return self.y.shape[1] if self.y.is_floating_point() else int(self.y.max()) + 1


class Part(NamedTuple):
    x: Tensor
    y: Tensor


class Split(NamedTuple):
    train: Part
    validation: Part
    test: Part

    def to(self, device: str) -> Split:
        return Split(*(Part(part.x.to(device), part.y.to(device)) for part in self))


def load(name: str) -> Dataset:
    """Load data by name, or from the user's ``package.module:function``.

    Parameters
    ----------
    name : str
        ``"digits"``, ``"breast-cancer"``, ``"wine"`` or the regression ``"diabetes"`` (bundled with
        scikit-learn); ``"teacher"``, ``"spirals"`` or the regressions ``"friedman1"`` to
        ``"friedman3"`` (generated, the same every time); ``"mnist"`` or ``"cifar10"`` (from OpenML,
        which needs a connection); or a reference to a function without arguments. The function
        returns a `Dataset` or a pair (x, y), which is split 60/20/20 and not standardised. A
        floating-point y makes it a regression. ``"digits[train=100]"`` has 100 samples in the
        training part.

    Raises
    ------
    InputError, UnknownNameError
        If the data are unknown, not available or not finite, or labels are not numbered from 0.

    Examples
    --------
    >>> from topoloss.compare.data import load
    >>> digits = load("digits")
    >>> tuple(digits.x.shape), digits.outputs
    ((1797, 64), 10)
    """
    part = _part(name)
    data = _checked(_made(part.name), name)
    return replace(data, **dict(part.options))


def _part(name: str) -> ExpressionPart:
    """Read the name of data, and the size of the training part if it is given."""
    (part, *others) = parse(name).parts
    options = dict(part.options)
    if others or set(options) - {"train"}:
        raise OptionError(
            f"data {name!r} were given; expected a name, or one with the size of the training "
            "part, as in 'digits[train=100]'."
        )
    if options:
        check_number("train", options["train"], whole=True, least=1)
    return part


def _made(name: str) -> Dataset:
    if ":" in name:
        return _own(name)
    if name not in DATASETS:
        raise UnknownNameError(
            f"no data set is named {name!r}; there are {listed(DATASETS)}, and "
            f"your own as package.module:function.{nearest(name, DATASETS)}"
        )
    with needs_extra("compare"):
        return DATASETS[name]()


def split(data: Dataset, seed: int) -> Split:
    """Split at random, reproducibly, without touching the global random state."""
    n = len(data.x)
    used = data.train + data.validation
    if not 0 < used < n:
        raise InputError(
            f"train={data.train} and validation={data.validation} leave no test part of the "
            f"{n} samples."
        )
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randperm(used if data.fixed_test else n, generator=generator)
    order = torch.cat((mixed, torch.arange(len(mixed), n)))
    parts = torch.split(order, [data.train, data.validation, n - used])
    x, y = data.x, data.y
    if data.standardise:
        x = _standardised(x, parts[0])
        y = _standardised(y, parts[0]) if y.is_floating_point() else y
    return Split(*(Part(x[i], y[i]) for i in parts))


def _standardised(x: Tensor, train: Tensor) -> Tensor:
    mean, deviation = x[train].mean(0), x[train].std(0, correction=0)
    # A feature that does not vary in the training part is only shifted.
    return (x - mean) / torch.where(deviation == 0, torch.ones_like(deviation), deviation)


def _digits() -> Dataset:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return Dataset(_inputs(pixels / 16), _labels(labels), 600, 397, pixel_range=16.0)


def _breast_cancer() -> Dataset:
    from sklearn.datasets import load_breast_cancer

    features, labels = load_breast_cancer(return_X_y=True)
    return Dataset(_inputs(features), _labels(labels), 341, 114, standardise=True)


def _wine() -> Dataset:
    from sklearn.datasets import load_wine

    features, labels = load_wine(return_X_y=True)
    return Dataset(_inputs(features), _labels(labels), 90, 38, standardise=True)


def _diabetes() -> Dataset:
    from sklearn.datasets import load_diabetes

    features, targets = load_diabetes(return_X_y=True)
    return Dataset(_inputs(features), _inputs(targets)[:, None], 266, 88, standardise=True)


def _teacher() -> Dataset:
    """Classes that a random network of 10 hidden neurons assigns to Gaussian inputs."""
    generator = torch.Generator().manual_seed(0)
    x, hidden, outputs = (
        torch.randn(shape, generator=generator) for shape in ((_GENERATED, 20), (20, 10), (10, 4))
    )
    return Dataset(x, (x @ hidden / 20**0.5).tanh().mul(3).matmul(outputs).argmax(1), 300, 200)


def _spirals() -> Dataset:
    """Two spirals in the plane, with four more features that are pure noise."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(_GENERATED) % 2
    turn = torch.rand(_GENERATED, generator=generator).sqrt()
    angle = 2 * torch.pi * turn + torch.pi * labels
    plane = turn[:, None] * torch.stack((angle.cos(), angle.sin()), 1)
    noise = torch.randn(_GENERATED, 6, generator=generator)
    x = torch.cat((plane + 0.03 * noise[:, :2], noise[:, 2:]), 1)
    return Dataset(x, labels, 600, 200, standardise=True)


def _friedman(which: int) -> Dataset:
    from sklearn import datasets

    # The noise is about a tenth of the targets' standard deviation.
    make, noise = {
        1: (datasets.make_friedman1, 0.5),
        2: (datasets.make_friedman2, 40.0),
        3: (datasets.make_friedman3, 0.03),
    }[which]
    # Different seeds, because the second and the third function draw the same inputs from one seed.
    features, targets = make(_GENERATED, noise=noise, random_state=which - 1)
    return Dataset(_inputs(features), _inputs(targets)[:, None], 300, 200, standardise=True)


def _mnist() -> Dataset:
    return _images("mnist_784", (1, 28, 28), test=1 / 7)  # 10,000 of 70,000


def _cifar10() -> Dataset:
    return _images("CIFAR_10", (3, 32, 32), test=1 / 6)  # 10,000 of 60,000


def _images(name: str, shape: tuple[int, ...], test: float) -> Dataset:
    """The last images are the test part; a fifth of the others is the validation part."""
    pixels, labels = _from_openml(name)
    images = _inputs(pixels / 255).reshape(-1, *shape)
    seen = len(images) - round(test * len(images))
    return Dataset(images, labels, seen - seen // 5, seen // 5, fixed_test=True, pixel_range=255.0)


DATASETS: dict[str, Callable[[], Dataset]] = {
    "digits": _digits,
    "breast-cancer": _breast_cancer,
    "wine": _wine,
    "diabetes": _diabetes,
    "teacher": _teacher,
    "spirals": _spirals,
    "friedman1": partial(_friedman, 1),
    "friedman2": partial(_friedman, 2),
    "friedman3": partial(_friedman, 3),
    "mnist": _mnist,
    "cifar10": _cifar10,
}


def _from_openml(name: str) -> tuple[Any, Tensor]:
    from sklearn.datasets import fetch_openml

    try:
        pixels, labels = fetch_openml(
            name, version=1, return_X_y=True, as_frame=False, parser="liac-arff", n_retries=1
        )
    except OSError as error:
        raise InputError(
            f"{name} could not be fetched from OpenML ({error}); it needs a connection the "
            "first time. The data set 'digits' needs none."
        ) from error
    return pixels, _labels(labels.astype(np.int64))


def _own(reference: str) -> Dataset:
    made = objects.call(reference, "data")
    if isinstance(made, Dataset):
        return made
    if not (isinstance(made, tuple) and len(made) == 2):
        raise InputError(
            f"data {reference!r} returned {type(made).__name__}; expected a "
            "topoloss.compare.data.Dataset or a pair (x, y)."
        )
    try:
        x, y = map(_tensor, made)
    except (TypeError, ValueError) as error:
        raise InputError(f"data {reference!r} cannot be converted to tensors: {error}") from error
    y = y.float() if y.is_floating_point() else y.long()
    if y.is_floating_point() and y.ndim == 1:
        y = y[:, None]
    fifth = len(x) // 5
    return Dataset(x.float(), y, train=len(x) - 2 * fifth, validation=fifth)


def _tensor(values: Any) -> Tensor:
    if hasattr(values, "toarray") or not _is_dense(values):
        raise ValueError("they are sparse; return .toarray(), or .to_dense() of a tensor.")
    tensor = values if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))
    if tensor.is_complex():
        raise ValueError("they are complex numbers.")
    return tensor if tensor.ndim else tensor[None]


def _is_dense(values: Any) -> bool:
    return not isinstance(values, Tensor) or values.layout == torch.strided


def _checked(data: Dataset, name: str) -> Dataset:
    x, y = data.x, data.y
    if not (_is_dense(x) and _is_dense(y)):
        raise InputError(f"data {name!r}: the tensors are sparse; return .to_dense() of them.")
    if not (isinstance(x, Tensor) and x.is_floating_point() and x.ndim > 1 and len(x)):
        raise InputError(
            f"data {name!r}: the inputs are {_described(x)}; expected a floating-point tensor of "
            "shape (samples, ...)."
        )
    labelled = isinstance(y, Tensor) and y.dtype == torch.int64 and y.ndim == 1
    targets = isinstance(y, Tensor) and y.is_floating_point() and y.ndim == 2
    if not (labelled or targets) or len(x) != len(y):
        raise InputError(
            f"data {name!r}: for {len(x)} inputs there are {_described(y)}; expected as many class "
            "labels, int64 of shape (samples,), or targets of a regression, floating-point of "
            "shape (samples, targets)."
        )
    for what, values in (("inputs", x), ("targets", y)):
        bad = ~torch.isfinite(values).reshape(len(x), -1).all(1)
        if bad.any():
            raise InputError(
                f"data {name!r}: {int(bad.sum())} of {len(bad)} {what} hold NaN or infinity; "
                "remove or impute them."
            )
    if labelled:
        classes = torch.unique(y)
        if not torch.equal(classes, torch.arange(len(classes))):
            raise InputError(
                f"data {name!r}: the labels are {classes.tolist()[:10]}; number the "
                f"{len(classes)} classes from 0 on."
            )
    return data


def _described(values: Any) -> str:
    if isinstance(values, Tensor):
        return f"{values.dtype} of shape {tuple(values.shape)}"
    return type(values).__name__


def _inputs(pixels: Any) -> Tensor:
    return torch.tensor(pixels, dtype=torch.float32)


def _labels(labels: Any) -> Tensor:
    return torch.tensor(labels, dtype=torch.int64)
