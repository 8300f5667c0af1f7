"""From a setup to a run: load its data, build its network, check both, and train."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache

import torch
from torch import nn

from topoloss import components
from topoloss.compare import data, networks, tasks
from topoloss.compare.arms import recipe
from topoloss.compare.data import Dataset
from topoloss.compare.paper.defects import apply_to_data, apply_to_regulariser, fraction_off
from topoloss.compare.records import Arm, Epoch, Run, Setup
from topoloss.compare.training import train
from topoloss.compare.treatments import attached, treated
from topoloss.compare.watching import Watch
from topoloss.errors import InputError, OptionError

__all__ = ["check", "check_arm", "dataset", "run"]


def run(
    setup: Setup,
    arm: Arm,
    seed: int,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    device: str = "cpu",
    watch: Watch | None = None,
) -> Run:
    """Train one network, reproducibly, and leave the global random state as found.

    Parameters
    ----------
    setup : Setup
    arm : Arm
    seed : int
        Fixes the split, the initialisation, and the order of batches, for all arms alike.
    on_epoch : callable, optional
        Called after every epoch.
    device : str
        Where to train. The split and the initialisation are the same everywhere.
    watch : callable, optional
        As for :func:`topoloss.compare.training.train`.
    """
    samples = dataset(setup)
    made = recipe(arm)
    penalties = [
        (apply_to_regulariser(setup.defects, components.regulariser(name)), weight)
        for name, weight in made.penalties
    ]
    with _seeded(seed, device):
        model = treated(_untrained(setup, samples), made.treatment).to(device)
        outcome = train(
            model,
            data.split(samples, seed).to(device),
            penalties,
            setup.protocol,
            treatment=made.treatment,
            seed=seed,
            on_epoch=on_epoch,
            watch=watch,
        )
    off = max((fraction_off(regulariser) for regulariser, _ in penalties), default=0.0)
    outcome = replace(outcome, off=off)
    return Run(setup, arm, seed, outcome, samples.fixed_test)


def check(setup: Setup, device: str = "cpu") -> str:
    """Raise unless the runs of a setup can be done and reproduced.

    Returns
    -------
    str
        A digest of the data and of an untrained network. Two setups whose digests differ are
        different setups, even if their names are the same.

    Raises
    ------
    InputError, OptionError, UnknownNameError
        If the device or the data are not available, the network does not accept the data, a
        batch would hold one sample, or data or network differ when they are made again.
    """
    _check_device(device)
    own = ":" in setup.data  # shipped data are the same every time, and may take long to load
    if own:
        dataset.cache_clear()
    samples = dataset(setup)
    again = _load(setup) if own else samples
    _check_sizes(samples, setup.protocol.batch_size)
    models = []
    for _ in range(2):
        with _seeded(seed=0):
            models.append(_untrained(setup, samples))
    first, second = (
        _digest([made.x, made.y, *model.state_dict().values()])
        for made, model in zip((samples, again), models, strict=True)
    )
    if models[0] is models[1] or first != second:
        raise InputError(
            f"model {setup.model!r} and data {setup.data!r} are not the same when they are "
            "made again: return a new network each time, initialised from torch's global seed, and "
            "seed whatever is random in the data."
        )
    return first


@lru_cache(maxsize=1)
def dataset(setup: Setup) -> Dataset:
    """The data of a setup. The last data loaded are kept in memory."""
    return _load(setup)


def _load(setup: Setup) -> Dataset:
    return apply_to_data(setup.defects, data.load(setup.data))


def check_arm(setup: Setup, arm: Arm) -> None:
    """Raise unless a setup can be trained with an arm.

    Raises
    ------
    InputError
        If the network has no place for the arm's layers, or the arm smooths labels and the task
        is a regression.
    """
    samples, treatment = dataset(setup), recipe(arm).treatment
    with _seeded(seed=0):
        treated(_untrained(setup, samples), treatment)
        for each in attached(_untrained(setup, samples), treatment):
            each.remove()
    if treatment.label_smoothing:
        tasks.smoothed(tasks.of(samples.y), treatment.label_smoothing)


def _untrained(setup: Setup, samples: Dataset) -> nn.Module:
    model = networks.build(setup.model, samples)
    networks.initialise(model, setup.protocol.initialisation)
    return model


@contextmanager
def _seeded(seed: int, device: str = "cpu") -> Iterator[None]:
    where = torch.device(device)
    with torch.random.fork_rng([] if where.type == "cpu" else [where]):
        torch.manual_seed(seed)
        yield


def _check_device(device: str) -> None:
    try:
        torch.zeros(1, device=device).item()  # the device "meta" has no numbers
    except Exception as error:  # whose type depends on the device
        reason = str(error).partition("\n")[0].rstrip(".")
        raise OptionError(
            f"the device {device!r} cannot be used here: {reason}. Choose another one, such as cpu."
        ) from error


def _check_sizes(samples: Dataset, batch_size: int) -> None:
    data.split(samples, seed=0)
    if samples.train % batch_size == 1 or samples.validation < 2:
        raise InputError(
            f"{samples.train} samples for training and {samples.validation} for validation were "
            f"given; in batches of {batch_size} the last would hold one sample, or the "
            "validation part has fewer than two, and one sample has no correlations. Return a "
            "topoloss.compare.data.Dataset with other sizes."
        )


def _digest(tensors: Sequence[torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(str(tuple(tensor.shape)).encode())
        values = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()
