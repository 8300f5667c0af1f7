"""The database that the processes of a sweep share, opened with Optuna."""

from __future__ import annotations

import sqlite3
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from topoloss.errors import InputError, OptionError, TopolossError
from topoloss.extras import needs_extra

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

__all__ = [
    "check_address",
    "database",
    "open_storage",
    "reading",
    "using",
    "using_experimental",
]


def database(folder: Path) -> str:
    """The address of a folder's own storage; its path may have any letters."""
    return f"{_SQLITE}{_quoted(str(folder / 'study.db'))}"


_SQLITE = "sqlite:///"


def _quoted(path: str) -> str:
    """Percent-encode the characters that have a meaning in an address."""
    return "".join(f"%{ord(c):02X}" if c in "%?#{}" else c for c in path)


def _file(address: str) -> str | None:
    """The path in an address of SQLite that has no options, or None."""
    if not address.startswith(_SQLITE) or "?" in address:
        return None
    return unquote(address.removeprefix(_SQLITE))


def check_address(address: str) -> None:
    """Raise an `OptionError` for a database in memory, which no other process sees."""
    if address == "sqlite://" or ":memory:" in address or _file(address) == "":
        raise OptionError(
            f"--storage {address} would be lost with this process; name a file, such as "
            "sqlite:///runs.db."
        )


def open_storage(address: str, heartbeat: int) -> RDBStorage:
    """Open a storage, and make its tables if it is new.

    Parameters
    ----------
    address : str
        Address of a database, as for Optuna.
    heartbeat : int
        Seconds between the heartbeats of a running trial.

    Raises
    ------
    InputError
        If the storage cannot be opened.
    """
    with needs_extra("compare"):
        import optuna
        import sqlalchemy
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # a failed run raises its error anyway
    url, engine = _engine(address)
    # When several processes make the tables of a new storage at once, all but one fail at first.
    for attempt in reversed(range(5)):
        try:
            with using_experimental(optuna):
                made = optuna.storages.RDBStorage(
                    url, engine_kwargs=engine, heartbeat_interval=heartbeat
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


def _engine(address: str) -> tuple[str, dict[str, Any] | None]:
    """The URL and the engine options for Optuna; SQLite waits for the writes of other processes."""
    file = _file(address)
    if file is None:
        waits = {"connect_args": {"timeout": 60}}
        return address, waits if address.startswith("sqlite") else None

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(file, timeout=60, check_same_thread=False)

    # Pass the path itself: versions of SQLAlchemy read a path in an address differently.
    return "sqlite:///study.db", {"creator": connect}


@contextmanager
def using(address: str) -> Iterator[None]:
    """If the storage fails inside, say which storage it is and how to go on.

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
    """Raise an `InputError` if what is read inside is not what was once stored."""
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

    engine.dispose()  # existing connections would not take the lock

    @event.listens_for(engine, "connect")
    def leave_transactions_to_us(connection: Any, record: object) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


@contextmanager
def using_experimental(optuna: Any) -> Iterator[None]:
    """Silence Optuna's warning that heartbeats are experimental; they show us killed processes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
