"""One SQLite file, opened for many threads: pooled readers, one writer, and commits that share their fsync.

A transaction is on disk when `write` returns (WAL, synchronous FULL), unless it was asked for with durable=False: then
it survives the death of this process, not that of the machine.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

from runvoy_agent.ports import Unavailable

T = TypeVar("T")

BUSY_TIMEOUT_SECONDS = 10.0
_IDLE_READERS = 8
_LONGEST_PATH = 504  # SQLite's limit is 512 (MAX_PATHNAME), and it puts a suffix behind it
_OPENING = threading.Lock()


class _Job(Generic[T]):
    """One caller's part of a transaction."""

    __slots__ = ("action", "done", "durable", "error", "result")

    def __init__(self, action: Callable[[sqlite3.Connection], T], durable: bool) -> None:
        self.action = action
        self.durable = durable
        self.done = False
        self.result: T | None = None
        self.error: BaseException | None = None


class Database:
    """A SQLite file with a schema. Safe from several threads and several processes.

    Connections belong to the pool, not to threads: a thread that dies leaves none behind.
    """

    def __init__(self, path: Path, schema: str, version: int, busy_timeout_seconds: float = BUSY_TIMEOUT_SECONDS):
        """Open or make the file. Raises Unavailable, also for a file of a newer schema `version`."""
        self._path = path
        self._busy_timeout_seconds = busy_timeout_seconds
        self._mutex = threading.Lock()  # guards the next three
        self._readers: list[sqlite3.Connection] = []
        self._waiting: list[_Job[Any]] = []
        self._closed = False
        self._writing = threading.Lock()  # held by the one that writes for all who wait; guards the next two
        self._synchronous = ""
        length = len(os.fsencode(path.absolute()))
        if length > _LONGEST_PATH:
            raise Unavailable(
                f"{path} cannot be opened: SQLite takes paths of up to {_LONGEST_PATH} bytes, and it has {length}"
            )
        with _unavailable(path):
            self._writer = self._open()
            try:
                self._migrate(schema, version)
            except BaseException:
                self._writer.close()
                raise

    def write(self, action: Callable[[sqlite3.Connection], T], *, durable: bool = True) -> T:
        """Run `action` in a write transaction and commit it; its result, or what it raised (then nothing was written).

        Callers that come while another commits are committed together, by one of them, with one fsync. They see each
        other's writes in the order of the batch, and none returns before all of it is on disk. `action` must do nothing
        but use the connection: it runs on whichever caller's thread.
        """
        job = _Job(action, durable)
        with self._mutex:
            self._waiting.append(job)
        with self._writing:
            if not job.done:
                with self._mutex:
                    batch, self._waiting = self._waiting, []
                self._commit(batch)
        if job.error is not None:
            raise job.error
        return job.result  # type: ignore[return-value]  # set wherever there is no error

    @contextlib.contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """A connection for SELECTs, this caller's alone. Each statement sees the last commit."""
        with _unavailable(self._path):
            connection = self._reader()
            healthy = False
            try:
                yield connection
                healthy = True
            finally:
                self._put_back(connection, healthy)

    def close(self) -> None:
        """Close every connection; later calls raise Unavailable."""
        with self._writing:
            with self._mutex:
                self._closed = True
                readers, self._readers = self._readers, []
            for connection in (*readers, self._writer):
                connection.close()

    # -- connections

    def _open(self) -> sqlite3.Connection:
        with _OPENING:
            # Made by us to be 0600 (SQLite's -wal and -shm take over the mode). Never opened when it exists: closing a
            # descriptor of the file would drop the POSIX locks that SQLite holds on it in this process.
            with contextlib.suppress(FileExistsError):
                os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            # isolation_level None: transactions are begun and ended here, not by the sqlite3 module.
            connection = sqlite3.connect(
                self._path, timeout=self._busy_timeout_seconds, isolation_level=None, check_same_thread=False
            )
        try:
            _enter_wal(connection, self._busy_timeout_seconds)
            connection.execute("PRAGMA synchronous=FULL")
            # macOS: fsync alone leaves the data in the drive's cache. Elsewhere this does nothing.
            connection.execute("PRAGMA fullfsync=ON")
        except BaseException:
            connection.close()
            raise
        return connection

    def _migrate(self, schema: str, version: int) -> None:
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            found = int(self._writer.execute("PRAGMA user_version").fetchone()[0])
            if found > version:
                raise Unavailable(
                    f"{self._path} was written by a newer runvoy (schema {found}; this one knows {version})"
                )
            if found < version:
                for statement in schema.split(";"):
                    self._writer.execute(statement)
                self._writer.execute(f"PRAGMA user_version={version:d}")
            self._writer.execute("COMMIT")
        finally:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")

    def _reader(self) -> sqlite3.Connection:
        with self._mutex:
            if self._closed:
                raise Unavailable(f"{self._path} is closed")
            if self._readers:
                return self._readers.pop()
        connection = self._open()
        connection.execute("PRAGMA query_only=ON")
        return connection

    def _put_back(self, connection: sqlite3.Connection, healthy: bool) -> None:
        with self._mutex:
            if healthy and not self._closed and len(self._readers) < _IDLE_READERS:
                self._readers.append(connection)
                return
        connection.close()

    # -- writing

    def _commit(self, batch: list[_Job[Any]]) -> None:
        """Commit a batch and tell every job its outcome; raises only what no job may swallow (an interrupt)."""
        failure = "interrupted"
        try:
            if self._closed:
                failure = "it is closed"
            else:
                self._transact(batch)
                failure = ""
        except sqlite3.Error as error:
            failure = str(error)
        finally:
            for job in batch:
                if failure:  # a job's own error was found in a transaction that never was
                    job.error = Unavailable(f"{self._path}: {failure}")
                job.done = True

    def _transact(self, batch: list[_Job[Any]]) -> None:
        connection = self._writer
        if connection.in_transaction:  # the last one failed, and so did its rollback
            connection.execute("ROLLBACK")
        wanted = "FULL" if any(job.durable for job in batch) else "NORMAL"
        if wanted != self._synchronous:  # NORMAL appends to the WAL without fsync; the next FULL commit syncs it all
            connection.execute(f"PRAGMA synchronous={wanted}")
            self._synchronous = wanted
        connection.execute("BEGIN IMMEDIATE")
        try:
            for job in batch:
                connection.execute("SAVEPOINT job")
                try:
                    job.result = job.action(connection)
                except Exception as error:
                    if world_failed(error):
                        raise
                    connection.execute("ROLLBACK TO job")
                    job.error = error
                connection.execute("RELEASE job")
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")


def world_failed(error: BaseException) -> bool:
    """Whether SQLite reports the disk, the file or a lock, rather than a mistake in a statement."""
    return isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError


@contextlib.contextmanager
def _unavailable(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        if not world_failed(error):
            raise
        raise Unavailable(f"{path}: {error}") from error
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}") from error


def _enter_wal(connection: sqlite3.Connection, patience_seconds: float) -> None:
    # Several processes that open a new file at once: SQLite does not wait for the lock this takes, so we do.
    give_up_at = time.monotonic() + patience_seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > give_up_at:
                raise
        time.sleep(0.005)
