"""The database that the processes of a sweep share, opened with Optuna."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topoloss.errors import InputError
from topoloss.extras import needs_extra

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

__all__ = ["database", "open_storage", "using_experimental"]


def database(folder: Path) -> str:
    """The address of a folder's own storage."""
    return f"sqlite:///{folder / 'study.db'}"


def open_storage(address: str, heartbeat: int) -> RDBStorage:
    """Open a storage, and make its tables if it is new.

    Parameters
    ----------
    address : str
        Of a database, as for Optuna.
    heartbeat : int
        Seconds between a running trial's signs of life.

    Raises
    ------
    InputError
        If the storage cannot be opened.
    """
    with needs_extra("compare"):
        import optuna
        import sqlalchemy
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # a failed run raises its error anyway
    # Several processes wait for one another's writes.
    engine = {"connect_args": {"timeout": 60}} if address.startswith("sqlite") else None
    # When several processes make the tables of a new storage at once, all but one fail at first.
    for attempt in reversed(range(5)):
        try:
            with using_experimental(optuna):
                made = optuna.storages.RDBStorage(
                    address, engine_kwargs=engine, heartbeat_interval=heartbeat
                )
            break
        except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
            if attempt == 0 or not isinstance(error, sqlalchemy.exc.DatabaseError):
                raise InputError(f"the storage {address} cannot be opened: {error}.") from error
            time.sleep(0.2)
    if made.engine.dialect.name == "sqlite":
        _lock_from_the_start(made.engine)
    return made


def _lock_from_the_start(engine: Any) -> None:
    """Make each transaction of SQLite take the write lock before it reads.

    SQLite has no ``SELECT ... FOR UPDATE``: two processes could both read that a trial waits,
    and both take it.
    """
    from sqlalchemy import event

    engine.dispose()  # connections made before would not take the lock

    @event.listens_for(engine, "connect")
    def leave_transactions_to_us(connection: Any, record: object) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


@contextmanager
def using_experimental(optuna: Any) -> Iterator[None]:
    """Silence Optuna's warning that heartbeats are experimental; we notice a kill by them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
