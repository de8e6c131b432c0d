"""The Records port on SQLite.

A deleted record leaves a tombstone with its last version, and a record put again counts on from there: an old version
number never comes true twice. Tombstones go a day after `purge_expired` first saw them; nobody holds a version that long
(a handler reads and commits within one delivery).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from runvoy_agent.local.database import Database
from runvoy_agent.ports import Add, Conflict, Delete, Item, Page, Position, Put, Versioned, Write, check_writes

TOMBSTONE_LIFETIME = timedelta(days=1)
_PURGE_BATCH = 500
_MOST_VARIABLES = 500  # SQLite takes 999 in one statement, newer ones more

# A tombstone is a row without a body. Times are milliseconds since 1970.
_SCHEMA = """
CREATE TABLE records (key TEXT PRIMARY KEY, version INTEGER NOT NULL, body BLOB, expires_at INTEGER);
CREATE TABLE entries ("index" TEXT, partition TEXT, sort TEXT, key TEXT,
                      PRIMARY KEY ("index", partition, sort, key)) WITHOUT ROWID;
CREATE INDEX entries_by_key ON entries (key);
CREATE INDEX records_by_expiry ON records (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX new_tombstones ON records (key) WHERE body IS NULL AND expires_at IS NULL
"""


class SqliteRecords:
    """Records in one SQLite file. Index names, partitions, sorts and keys are ordered as their UTF-8 bytes."""

    def __init__(self, path: Path) -> None:
        self._database = Database(path, _SCHEMA, version=1)

    @property
    def index_lag(self) -> timedelta:
        return timedelta(0)

    def get(self, key: str) -> Versioned | None:
        _check_text(key)
        # Cast: what somebody changed with SQLite's own functions may have become text.
        statement = "SELECT CAST(body AS BLOB), version FROM records WHERE key = ?"
        with self._database.read() as connection:
            row = connection.execute(statement, (key,)).fetchone()
        return None if row is None or row[0] is None else Versioned(key, row[0], row[1])

    def get_many(self, keys: Sequence[str]) -> Sequence[Versioned | None]:
        _check_text(*keys)
        found: dict[str, Versioned] = {}
        with self._database.read() as connection:
            for begun in range(0, len(keys), _MOST_VARIABLES):
                part = keys[begun : begun + _MOST_VARIABLES]
                marks = ", ".join("?" * len(part))
                statement = f"""
                    SELECT key, CAST(body AS BLOB), version FROM records WHERE key IN ({marks}) AND body IS NOT NULL
                """  # noqa: S608 - question marks alone are put into the text
                found.update((row[0], Versioned(*row)) for row in connection.execute(statement, part))
        return [found.get(key) for key in keys]

    def commit(self, writes: Sequence[Write]) -> None:
        writes = tuple(writes)
        _check_writes(writes)
        if writes:
            self._database.write(lambda connection: _commit(connection, writes))

    def query(
        self, index: str, partition: str, *, after: Position | None = None, limit: int = 100, descending: bool = False
    ) -> Page:
        """As the port says; ValueError for a limit under 1."""
        if limit < 1:
            raise ValueError("the limit of a query is at least 1")
        _check_text(index, partition)
        sign, order = ("<", "DESC") if descending else (">", "ASC")
        place = "" if after is None else f"AND (sort, entries.key) {sign} (?, ?)"
        # Only `sign` and `order` are put into the text; both are constants.
        statement = f"""
            SELECT sort, entries.key, CAST(body AS BLOB), version FROM entries JOIN records ON records.key = entries.key
            WHERE "index" = ? AND partition = ? {place} ORDER BY sort {order}, entries.key {order} LIMIT ?
        """  # noqa: S608
        start = () if after is None else (after.sort, after.key)
        with self._database.read() as connection:
            rows = connection.execute(statement, (index, partition, *start, limit + 1)).fetchall()
        records = [Versioned(key, body, version) for _, key, body, version in rows[:limit]]
        more = len(rows) > limit
        return Page(records, Position(*rows[limit - 1][:2]) if more else None)

    def purge_expired(self, now: datetime) -> int:
        """Forget the records that expired before `now`; how many. Works in short transactions, so commits get through."""
        purged = 0
        while batch := self._database.write(lambda connection: _purge(connection, now), durable=False):
            purged += batch
        self._database.write(lambda connection: _age_tombstones(connection, now), durable=False)
        return purged

    def close(self) -> None:
        """Close the file; later calls raise Unavailable."""
        self._database.close()


def _check_writes(writes: Sequence[Write]) -> None:
    """Refuse here what SQLite would refuse halfway: other commits share the transaction."""
    check_writes(writes)
    for write in writes:
        _check_text(write.key)
        if isinstance(write, Put):
            for index, entry in write.item.indexes.items():
                _check_text(index, *entry)


def _check_text(*texts: str) -> None:
    for text in texts:
        text.encode()  # UnicodeEncodeError is a ValueError


def _commit(connection: sqlite3.Connection, writes: Sequence[Write]) -> None:
    last_versions: list[int] = []  # of the key's row, be it a tombstone
    sums: dict[str, int] = {}
    for write in writes:
        row = connection.execute("SELECT version, body IS NULL FROM records WHERE key = ?", (write.key,)).fetchone()
        last_version, absent = row or (0, True)
        last_versions.append(last_version)
        if isinstance(write, Add):
            sums[write.key] = _sum(connection, write)
            continue
        current = 0 if absent else last_version
        if current != write.version:
            raise Conflict(f"{write.key} is at version {current}, not {write.version}")
    for write, last_version in zip(writes, last_versions, strict=True):
        if isinstance(write, Add):
            _put(connection, Put(write.key, Item(b"%d" % sums[write.key]), 0), last_version + 1)
        elif isinstance(write, Put):
            _put(connection, write, last_version + 1)
        elif isinstance(write, Delete):
            connection.execute("DELETE FROM entries WHERE key = ?", (write.key,))
            connection.execute("UPDATE records SET body = NULL, expires_at = NULL WHERE key = ?", (write.key,))


def _sum(connection: sqlite3.Connection, add: Add) -> int:
    """What the record's number becomes."""
    statement = "SELECT CAST(body AS BLOB) FROM records WHERE key = ? AND body IS NOT NULL"
    row = connection.execute(statement, (add.key,)).fetchone()
    found = (0 if row is None else int(row[0])) + add.amount
    if add.at_most is not None and found > add.at_most:
        raise Conflict(f"{add.key} would be {found}, over {add.at_most}")
    return found


def _put(connection: sqlite3.Connection, put: Put, version: int) -> None:
    item = put.item
    expires_at = None if item.expires_at is None else _milliseconds(item.expires_at)
    if version > 1:
        connection.execute("DELETE FROM entries WHERE key = ?", (put.key,))
    connection.execute("REPLACE INTO records VALUES (?, ?, ?, ?)", (put.key, version, item.body, expires_at))
    for index, entry in item.indexes.items():
        connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?)", (index, entry.partition, entry.sort, put.key))


def _purge(connection: sqlite3.Connection, now: datetime) -> int:
    expired = connection.execute(
        "SELECT key FROM records WHERE expires_at < ? AND body IS NOT NULL LIMIT ?", (_milliseconds(now), _PURGE_BATCH)
    ).fetchall()
    forget_at = _milliseconds(now + TOMBSTONE_LIFETIME)
    for (key,) in expired:
        connection.execute("DELETE FROM entries WHERE key = ?", (key,))
        connection.execute("UPDATE records SET body = NULL, expires_at = ? WHERE key = ?", (forget_at, key))
    return len(expired)


def _age_tombstones(connection: sqlite3.Connection, now: datetime) -> None:
    """Start the lifetime of new tombstones (commits have no clock) and remove those at the end of theirs."""
    connection.execute(
        "UPDATE records SET expires_at = ? WHERE body IS NULL AND expires_at IS NULL",
        (_milliseconds(now + TOMBSTONE_LIFETIME),),
    )
    connection.execute("DELETE FROM records WHERE body IS NULL AND expires_at < ?", (_milliseconds(now),))


def _milliseconds(at: datetime) -> int:
    return int(at.timestamp() * 1000)
