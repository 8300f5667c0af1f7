"""Do many runs in several processes, on several machines, and go on after an interruption.

A thin layer on Optuna: :mod:`topoloss.compare.studies` says how runs are stored. Each split
searches for a weight by itself. When a process is killed, its trial goes stale, and another
process tries the same weight again.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING

from topoloss.compare.processes import begin_child
from topoloss.compare.records import Arm, Epoch, Run, Setup
from topoloss.compare.searches import Search
from topoloss.compare.setups import check
from topoloss.compare.storage import using
from topoloss.compare.studies import Plan, Studies
from topoloss.errors import TopolossError
from topoloss.owners import picklable
from topoloss.threads import one_thread

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

__all__ = ["HEARTBEAT_SECONDS", "sweep"]

HEARTBEAT_SECONDS = 20


def sweep(
    searches: Sequence[Search],
    seeds: Sequence[int],
    setup: Setup,
    storage: str,
    *,
    jobs: int = 1,
    known: Sequence[Run] = (),
    device: str = "cpu",
    heartbeat: int = HEARTBEAT_SECONDS,
    on_found: Callable[[int], None] = lambda number: None,
    on_start: Callable[[Arm, int], None] = lambda arm, seed: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    on_finish: Callable[[Run], None] = lambda run: None,
) -> list[Run]:
    """Do the runs of every search on every split that the storage does not hold yet.

    Parameters
    ----------
    searches : sequence of Search
    seeds : sequence of int
    setup : Setup
    storage : str
        Address of a database, as for Optuna. Processes and machines that share it share the
        runs; each calls this function.
    jobs : int
        Largest number of processes. Each uses one torch thread: on a busy processor, threads
        that wait for one another make training many times slower. With more than 1, the processes
        see installed plugins, not those registered by hand, and `on_start` and `on_epoch` are not
        called.
    known : sequence of Run
        Finished runs to put into the storage first; those of another setup are left out.
    device : str
        Where to train.
    heartbeat : int
        Seconds between heartbeats. If a process sent none for twice as long, any process that
        notices does its run again.
    on_found : callable
        Called once, with the number of runs that were finished already.
    on_start, on_epoch, on_finish : callable
        Called for every run. For a run that was finished already, or that another process did,
        only `on_finish` is called.

    Returns
    -------
    list of Run
        In the order of `searches`, then of `seeds`, then of the weights.

    Raises
    ------
    InputError
        If the storage cannot be opened, is damaged, or holds runs of another setup.
    TopolossError
        If the storage fails later, as on a full disk.

    Notes
    -----
    A finished run is never lost or repeated, no matter which process is killed when.
    """
    digest = check(setup, device)
    plan = Plan(tuple(searches), tuple(seeds), setup, digest, storage, device, heartbeat)
    with using(storage), Studies(plan) as studies:
        studies.restore(known)

        def report() -> None:
            for finished in studies.unreported():
                on_finish(finished)

        report()
        missing = studies.missing()
        on_found(plan.runs - missing)
        if jobs == 1:
            with one_thread():
                studies.work(on_start, on_epoch, report)
        elif missing:
            _share(plan, min(jobs, missing), report)
        report()
        return studies.runs()


def _share(plan: Plan, jobs: int, report: Callable[[], None]) -> None:
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    with ProcessPoolExecutor(jobs, context, _begin_child, (stop,)) as pool:
        try:
            running = {pool.submit(_work_in_child, plan) for _ in range(jobs)}
            while running:
                done, running = wait(running, timeout=2, return_when="FIRST_EXCEPTION")
                report()
                for future in done:
                    future.result()
        except BrokenProcessPool as error:
            raise TopolossError(
                "a process of the comparison was killed, perhaps for lack of memory. Finished runs "
                "are kept: repeat the command, or use fewer --jobs."
            ) from error
        except BaseException:
            stop.set()  # because leaving the pool waits for its processes
            raise


_stop: Event


def _begin_child(stop: Event) -> None:
    global _stop
    _stop = stop
    begin_child()


def _work_in_child(plan: Plan) -> None:
    def end_if_stopped(epoch: Epoch) -> None:
        if _stop.is_set():
            raise KeyboardInterrupt

    try:
        with using(plan.storage), Studies(plan) as studies:
            studies.work(on_epoch=end_if_stopped)
    except Exception as error:
        raise picklable(error) from error
