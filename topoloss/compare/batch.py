"""Do runs of several setups in several processes, and append each finished run to one file.

An interrupted batch goes on from its file; nothing else is kept. The weights are listed
beforehand: to search for weights, or to share work between machines, see
:mod:`topoloss.compare.sweep`.
"""

from __future__ import annotations

import csv
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from topoloss.compare import runs, setups
from topoloss.compare.processes import begin_child
from topoloss.compare.records import Arm, Run, Setup, columns, to_row
from topoloss.threads import one_thread

__all__ = ["Job", "missing", "work"]


@dataclass(frozen=True)
class Job:
    """A run to do: a setup, an arm, and the seed of a split."""

    setup: Setup
    arm: Arm
    seed: int


def missing(jobs: Iterable[Job], finished: Iterable[Run]) -> list[Job]:
    """The jobs that have no finished run, in their order and without duplicates."""
    done = {Job(run.setup, run.arm, run.seed) for run in finished}
    return [job for job in dict.fromkeys(jobs) if job not in done]


def work(
    jobs: Sequence[Job],
    file: Path,
    processes: int = 1,
    on_finish: Callable[[Run], None] = lambda run: None,
) -> list[Run]:
    """Do the jobs that have no run in the file yet, and return all runs of the file.

    Parameters
    ----------
    jobs : sequence of Job
    file : Path
        A file of runs. Each finished run is appended at once. A last line that was cut short, by
        a power failure for example, is removed first.
    processes : int
        How many processes, of one torch thread each. With 1 this process does the runs itself.
        Other processes see installed plugins, not those registered by hand.
    on_finish : callable, optional
        Called after every run.

    Raises
    ------
    InputError
        If the file is not a file of runs.
    """
    finished = _read(file)
    left = missing(jobs, finished)
    if left:
        file.parent.mkdir(parents=True, exist_ok=True)
        for run in _here(left) if processes == 1 else _elsewhere(left, processes):
            _append(run, file)
            finished.append(run)
            on_finish(run)
    return finished


def _here(jobs: Sequence[Job]) -> Iterator[Run]:
    with one_thread():
        yield from map(_do, jobs)


def _elsewhere(jobs: Sequence[Job], processes: int) -> Iterator[Run]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, begin_child) as pool:
        try:
            for future in as_completed([pool.submit(_do, job) for job in jobs]):
                yield future.result()
        finally:
            # After an error or Ctrl-C, the jobs that have not begun are left for the next call.
            pool.shutdown(cancel_futures=True)


def _do(job: Job) -> Run:
    try:
        return setups.run(job.setup, job.arm, job.seed)
    except Exception as error:
        error.add_note(
            f"The run {job.arm} of {job.setup.model} on {job.setup.data}, split {job.seed} failed."
        )
        raise


def _read(file: Path) -> list[Run]:
    if not file.exists():
        return []
    text = file.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if whole != text:
        file.write_bytes(whole)
    found = runs.read(file) if whole else []
    if not whole.startswith(",".join(columns(Run)).encode()):
        runs.write(found, file)  # an earlier version wrote the file, with fewer columns
    return found


def _append(run: Run, file: Path) -> None:
    text = StringIO(newline="")
    writer = csv.DictWriter(text, columns(Run))
    if not file.exists() or not file.stat().st_size:
        writer.writeheader()
    writer.writerow(to_row(run))
    with file.open("a", newline="", encoding="utf-8") as opened:
        opened.write(text.getvalue())
