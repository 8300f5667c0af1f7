"""Exchange results, failures included, among the processes of a group."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import torch.distributed as dist

from topoloss.errors import OptionError, TopolossError, shown

__all__ = ["Processes"]

T = TypeVar("T")


class Processes:
    """The processes of a group of :mod:`torch.distributed`, which work together.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup
        For example ``torch.distributed.group.WORLD``. Every process of the group must make the
        same calls in the same order.

    Attributes
    ----------
    group : torch.distributed.ProcessGroup
    rank : int
        The rank of this process in the group.
    size : int
        How many processes there are.

    Raises
    ------
    OptionError
        For anything but a group that this process belongs to.

    Notes
    -----
    If a process fails, the others raise an error that says which one and why. If it ends, or never
    makes the call, they raise an error as soon as the group notices, at the latest at its timeout
    (``torch.distributed.init_process_group(timeout=...)``).

    A copy works with the same group. It cannot be pickled, because a group cannot.
    """

    def __init__(self, group: Any) -> None:
        if not dist.is_available() or not isinstance(group, dist.ProcessGroup):
            why = ", to which this process does not belong" if _is_of_others(group) else ""
            raise OptionError(
                f"group={shown(group)} was given{why}; expected a group of torch.distributed that "
                "this process belongs to, such as torch.distributed.group.WORLD after "
                "init_process_group(), or None."
            )
        self.group = group
        self.rank: int = dist.get_rank(group)
        self.size: int = dist.get_world_size(group)

    def all_gather(self, work: Callable[[], T]) -> list[T]:
        """Call `work` in every process, and return what each call returned, by rank.

        Parameters
        ----------
        work : callable
            Its result must be picklable.

        Raises
        ------
        TopolossError
            If another process failed. An error of `work` in this process is raised as it is.
        """
        mine = _outcome(work)
        every: list[Any] = [None] * self.size
        with self.talking(mine[1]):
            dist.all_gather_object(every, (_message(mine[1]), mine[0]), self.group)
        return self._found(every, mine[1])

    def broadcast(self, work: Callable[[], T]) -> T:
        """Call `work` in the first process only, and return its result in every process."""
        mine = _outcome(work) if self.rank == 0 else (None, None)
        first = [(_message(mine[1]), mine[0])]
        with self.talking(mine[1]):
            dist.broadcast_object_list(first, group=self.group, group_src=0)
        found: list[T] = self._found(first, mine[1])
        return found[0]

    def _found(self, outcomes: list[Any], failure: Exception | None) -> list[Any]:
        """Return the results of all processes, or raise an error if one of them failed."""
        if failure is not None:
            raise failure
        failed = [f"rank {rank}: {why}" for rank, (why, _) in enumerate(outcomes) if why]
        if failed:
            raise TopolossError(
                f"rank {self.rank} of {self.size} processes cannot go on, as others failed: "
                f"{'; '.join(failed)}"
            )
        return [found for _, found in outcomes]

    @contextmanager
    def talking(self, failure: Exception | None = None) -> Iterator[None]:
        """Explain the errors of functions of torch.distributed that are called in this context.

        Parameters
        ----------
        failure : Exception, optional
            The failure that this process reports to the others. It is raised if they cannot be
            reached.

        Raises
        ------
        TopolossError
            If a process has ended, or never makes the call.
        """
        try:
            yield
        except RuntimeError as error:
            raise failure or TopolossError(
                f"rank {self.rank} of {self.size} processes got no answer from another one, "
                "which has ended, or did not make the same call within the group's timeout. Its "
                f"own output says why. torch.distributed reports: {error}"
            ) from error

    def __deepcopy__(self, memo: dict[int, Any]) -> Processes:
        return self

    def __reduce__(self) -> NoReturn:
        raise TopolossError(
            "a group of processes cannot be pickled; pickle an object with group=None, or keep its "
            "state_dict()."
        )

    def __repr__(self) -> str:
        return f"Processes(rank {self.rank} of {self.size})"


def _is_of_others(group: object) -> bool:
    return dist.is_available() and group is dist.GroupMember.NON_GROUP_MEMBER


def _outcome(work: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return work(), None
    except Exception as error:
        return None, error


def _message(failure: Exception | None) -> str:
    return "" if failure is None else f"{type(failure).__name__}: {failure}"
