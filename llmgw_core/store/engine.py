"""The database: opening it, its transactions, and one exception for everything that fails.

SQLite runs in WAL mode, so readers never wait for the writer. Write transactions begin
IMMEDIATE: they queue for the write lock at their start (up to `BUSY_SECONDS`) instead of
failing in the middle when a read turns into a write.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import URL, Connection, event
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from llmgw_core.domain.errors import ConfigError, StoreUnavailable
from llmgw_core.store import schema

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator

T = TypeVar("T")

BUSY_SECONDS = 5.0
WAL_PAGES = 4000
"""Pages (of 4 KiB) in the write-ahead log before it is copied into the database."""
_SQLITE = "sqlite:///"
_WRITE = "llmgw_write"


class Store:
    """One database. `url` is `sqlite:///FILE`; open it before use and close it after.

    Everything that uses a connection from `begin` or `connect` sees `StoreUnavailable` for
    every failure of the database or its driver, except SQLAlchemy's `IntegrityError`: a
    violated constraint says that the data is at fault, not the store.
    """

    def __init__(self, url: str) -> None:
        """Raises `ConfigError` when `url` has another form."""
        self._file = _sqlite_file(url)
        self._engine: AsyncEngine | None = None

    async def open(self) -> None:
        """Create or migrate the database as needed. Raises `ConfigError` when it cannot be
        used at all, `StoreUnavailable` when it does not answer now."""
        if self._engine is not None:
            return
        _create_file(self._file)
        with _config_errors(self._file), _store_errors():
            _probe(self._file)
            await unhurried(_prepare(self._file))
        self._engine = _engine(self._file)

    def another(self) -> Store:
        """One of the same database, not open: for an event loop of its own."""
        return Store(f"{_SQLITE}{self._file}")

    @property
    def exists(self) -> bool:
        """Whether there is a database."""
        return self._file.is_file()

    async def open_as_it_is(self) -> None:
        """Open it for reading what is there: nothing is created or migrated. Raises
        `StoreUnavailable` when there is nothing."""
        if self._engine is not None:
            return
        if not self.exists:
            raise StoreUnavailable("there is no database yet")
        with _store_errors():
            _probe(self._file)
        self._engine = _engine(self._file)

    @property
    def engine(self) -> AsyncEngine:
        """SQLAlchemy's engine. Raises `StoreUnavailable` when the store is not open."""
        if self._engine is None:
            raise StoreUnavailable("the store is not open")
        return self._engine

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """A write transaction: committed at the end, rolled back by an exception."""
        with _store_errors():
            async with self.engine.execution_options(**{_WRITE: True}).begin() as connection:
                yield connection

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[AsyncConnection]:
        """A connection to read with; all reads see one state of the database."""
        with _store_errors():
            async with self.engine.connect() as connection:
                yield connection

    async def aclose(self) -> None:
        """Close all connections; further use raises `StoreUnavailable`. May be repeated."""
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.dispose()


def _sqlite_file(url: str) -> Path:
    name = url.removeprefix(_SQLITE)
    if not url.startswith(_SQLITE) or name in {"", ":memory:"}:
        shown = url.split("://", 1)[0]  # The rest may hold a password.
        raise ConfigError(
            f"the store must be an SQLite file, written sqlite:///FILE (given: {shown}://...)",
            path="store.url",
        )
    return Path(name)


def _create_file(file: Path) -> None:
    """Make sure that `file` exists; a new one is for its owner alone (so are SQLite's side
    files, which copy its mode)."""
    try:
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return
    except OSError as error:
        raise ConfigError(
            f"cannot create the database {file}: {error.strerror}; "
            "its directory must exist and be writable",
            path="store.url",
        ) from error


def _probe(file: Path) -> None:
    """Fail here if SQLite cannot open `file` at all: a connection of aiosqlite that fails to open
    leaves a thread that may outlive the event loop by a moment, and then ends in a traceback."""
    try:
        sqlite3.connect(file).close()
    except sqlite3.Error as error:
        raise StoreUnavailable(str(error)) from error


async def unhurried(work: Coroutine[Any, Any, T]) -> T:
    """`work`, which takes moments, to its end even when this is cancelled: whoever leaves a commit
    alone does not know what became of it, and what drops a connection in the making leaves
    aiosqlite's thread to report to an event loop that has ended."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # there is nobody left to hear of it
        raise


def _engine(file: Path, *, migrating: bool = False) -> AsyncEngine:
    engine = create_async_engine(
        URL.create("sqlite+aiosqlite", database=str(file)),
        connect_args={"timeout": BUSY_SECONDS},
        # The connection used last first: one that others have written past must read all it knows
        # again, which the books' pages would pay for with every batch.
        **({"poolclass": NullPool} if migrating else {"pool_use_lifo": True}),
    )

    @event.listens_for(engine.sync_engine, "connect")
    def configure(dbapi_connection: Any, _record: object) -> None:
        # The driver must not begin transactions by itself: `begin` below does.
        dbapi_connection.isolation_level = None
        cursor = dbapi_connection.cursor()
        cursor.execute("PRAGMA synchronous=NORMAL")
        # Under load the same pages change again and again: fewer checkpoints copy them less often.
        cursor.execute(f"PRAGMA wal_autocheckpoint={WAL_PAGES}")
        # Rebuilding a table (SQLite's ALTER) would fire its ON DELETE actions.
        cursor.execute(f"PRAGMA foreign_keys={'OFF' if migrating else 'ON'}")
        if migrating:
            # Of a new file: what retention frees can be given back piece by piece.
            cursor.execute("PRAGMA auto_vacuum=INCREMENTAL")
            cursor.execute("PRAGMA journal_mode=WAL")  # The file keeps it.
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        write = connection.get_execution_options().get(_WRITE, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


async def _prepare(file: Path) -> None:
    engine = _engine(file, migrating=True)
    try:
        known = schema.revisions()
        async with engine.connect() as connection:
            due = await connection.run_sync(schema.migration_due, known, known[-1])
        if due:
            await _migrate(engine, known)
    finally:
        await engine.dispose()


async def _migrate(engine: AsyncEngine, known: list[str]) -> None:
    writing = engine.execution_options(**{_WRITE: True})
    async with writing.begin() as connection:
        # Asked again under the write lock: another process may have been first.
        if await connection.run_sync(schema.migration_due, known, known[-1]):
            await connection.run_sync(schema.upgrade)


@contextmanager
def _store_errors() -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise
    except (DBAPIError, PoolTimeout, OSError) as error:
        raise StoreUnavailable(str(error)) from error


@contextmanager
def _config_errors(file: Path) -> Iterator[None]:
    """Tell apart what only a person can mend from what may pass."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{file}: {error.message}", path="store.url") from error
    except StoreUnavailable as error:
        cause = str(getattr(error.__cause__, "orig", error.__cause__))
        for sign, sentence in _UNUSABLE.items():
            if sign in cause:
                raise ConfigError(f"{file} {sentence}", path="store.url") from error
        raise


_UNUSABLE = {
    "not a database": "is not an SQLite database; name another file",
    "malformed": "is damaged; restore it from a backup",
    "readonly": "is read-only; the gateway must be able to write it and its directory",
    "unable to open": "cannot be opened as a file; check that it and its directory are writable",
}
"""By the text of SQLite's message (its error codes are lost on the way through aiosqlite)."""
