"""The database that the processes of a sweep share, opened with Optuna."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topoloss.errors import InputError, TopolossError
from topoloss.extras import needs_extra

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

__all__ = ["database", "open_storage", "reading", "using", "using_experimental"]


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
        except (sqlalchemy.exc.SQLAlchemyError, ImportError, ValueError) as error:
            mistaken = isinstance(error, (sqlalchemy.exc.ArgumentError, ImportError))
            if attempt == 0 or not isinstance(error, sqlalchemy.exc.DatabaseError):
                raise InputError(
                    f"the storage {address} cannot be opened: {_reason(error)}. "
                    f"{_ADDRESS if mistaken else _REMEDY}"
                ) from error
            time.sleep(0.2)
    if made.engine.dialect.name == "sqlite":
        _lock_from_the_start(made.engine)
    return made


@contextmanager
def using(address: str) -> Iterator[None]:
    """Say which storage it is that fails inside, and how to go on.

    Raises
    ------
    TopolossError
        In place of Optuna's and SQLAlchemy's errors.
    """
    import optuna
    import sqlalchemy

    try:
        yield
    except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
        raise TopolossError(f"the storage {address} failed: {_reason(error)}. {_REMEDY}") from error


@contextmanager
def reading(address: str) -> Iterator[None]:
    """Raise an `InputError` where what is read inside is not what was once stored."""
    try:
        yield
    except TopolossError:
        raise
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"the storage {address} is damaged: {error}. {_REMEDY}") from error


_REMEDY = (
    "Its finished runs stay in it. If the disk is full, make room and repeat the command. If the "
    "file is damaged, move it away and repeat the command; --runs FOLDER/runs.csv keeps the runs "
    "of an earlier report."
)


_ADDRESS = "Expected the address of a database, as for Optuna, such as sqlite:///runs.db."


def _reason(error: BaseException) -> str:
    """What the database said, without the SQL."""
    original = getattr(error, "orig", None) or error.__cause__
    return str(error).strip() if original is None else _reason(original)


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
