"""A problem made real: its data and network, checked, and trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import nn

from topoloss.compare import data, networks
from topoloss.compare.data import Dataset
from topoloss.compare.runs import Arm, Problem, Run
from topoloss.compare.training import Epoch, train
from topoloss.errors import InputError, OptionError

__all__ = ["check", "dataset", "run"]


def run(
    problem: Problem,
    arm: Arm,
    seed: int,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    device: str = "cpu",
) -> Run:
    """Train one network, reproducibly, and leave the global random state as found.

    Parameters
    ----------
    problem : Problem
    arm : Arm
    seed : int
        Fixes the split, the initialisation, and the order of batches, for all arms alike.
    on_epoch : callable, optional
        Called after every epoch.
    device : str
        Where to train. The split and the initialisation are the same everywhere.
    """
    samples = dataset(problem)
    with _seeded(seed, device):
        model = networks.build(problem.model, samples).to(device)
        outcome = train(
            model,
            data.split(samples, seed).to(device),
            arm.regulariser,
            arm.weight,
            problem.protocol,
            seed=seed,
            on_epoch=on_epoch,
        )
    return Run(problem, arm, seed, outcome, samples.fixed_test)


def check(problem: Problem, device: str = "cpu") -> str:
    """Raise unless the runs of a problem can be done, and be done again.

    Returns
    -------
    str
        A digest of the data and of an untrained network: runs of another belong to another
        problem, whatever its name is.

    Raises
    ------
    InputError, OptionError, UnknownNameError
        If the device or the data cannot be had, the network does not take them, a batch would
        hold one sample, or data or network are not the same when they are made again.
    """
    _check_device(device)
    own = ":" in problem.data  # other data are the same each time, and may take long
    if own:
        dataset.cache_clear()
    samples = dataset(problem)
    again = _load(problem) if own else samples
    _check_sizes(samples, problem.protocol.batch_size)
    models = [_untrained(problem, samples, seed=0) for _ in range(2)]
    first, second = (
        _digest([made.x, made.y, *model.state_dict().values()])
        for made, model in zip((samples, again), models, strict=True)
    )
    if models[0] is models[1] or first != second:
        raise InputError(
            f"model {problem.model!r} and data {problem.data!r} are not the same when they are "
            "made again: return a new network each time, which follows torch's seed, and seed "
            "what is random in the data."
        )
    return first


@lru_cache(maxsize=1)
def dataset(problem: Problem) -> Dataset:
    """The data of a problem, as its protocol has them; kept until others are asked for."""
    return _load(problem)


def _load(problem: Problem) -> Dataset:
    loaded = data.load(problem.data)
    return data.divided_twice(loaded) if problem.protocol.divide_twice else loaded


def _untrained(problem: Problem, samples: Dataset, seed: int) -> nn.Module:
    with _seeded(seed):
        return networks.build(problem.model, samples)


@contextmanager
def _seeded(seed: int, device: str = "cpu") -> Iterator[None]:
    where = torch.device(device)
    with torch.random.fork_rng([] if where.type == "cpu" else [where]):
        torch.manual_seed(seed)
        yield


def _check_device(device: str) -> None:
    try:
        torch.zeros(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise OptionError(
            f"device={device!r} cannot be used here: {reason}. Choose for example 'cpu'."
        ) from error


def _check_sizes(samples: Dataset, batch_size: int) -> None:
    data.split(samples, seed=0)
    if samples.train % batch_size == 1 or samples.validation < 2:
        raise InputError(
            f"{samples.train} samples for training and {samples.validation} for validation were "
            f"given; in batches of {batch_size} the last would hold one sample, or the "
            "validation part has less than two, which have no correlation. Return a "
            "topoloss.compare.data.Dataset with other sizes."
        )


def _digest(tensors: Sequence[torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(str(tuple(tensor.shape)).encode())
        values = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()
