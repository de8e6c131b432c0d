"""What Records promises, as a dictionary: the judge of tests/property/test_records_machine.py.

Beside the port's contract it holds what SqliteRecords adds to it: tombstones, so that no version number comes true twice.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from datetime import UTC, datetime
from typing import NamedTuple

from runvoy_agent.local.records import TOMBSTONE_LIFETIME
from runvoy_agent.ports import Add, Check, Delete, IndexEntry, Item, Put, Versioned, Write

_TOMBSTONE_MS = TOMBSTONE_LIFETIME // (TOMBSTONE_LIFETIME / 86_400_000)


class Row(NamedTuple):
    """A record, or what is left of one: `body` is None in a tombstone."""

    version: int
    body: bytes | None
    indexes: Mapping[str, IndexEntry]
    expires_ms: int | None


class Model:
    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}

    def copy(self) -> Model:
        other = Model()
        other.rows = copy(self.rows)
        return other

    def version(self, key: str) -> int:
        row = self.rows.get(key)
        return 0 if row is None or row.body is None else row.version

    def get(self, key: str) -> Versioned | None:
        row = self.rows.get(key)
        return None if row is None or row.body is None else Versioned(key, row.body, row.version)

    def commit(self, writes: Sequence[Write]) -> bool:
        """Apply all, or nothing and False: that is when it must be a Conflict."""
        if not all(self._holds(write) for write in writes):
            return False
        for write in writes:
            last = self.rows.get(write.key)
            match write:
                case Put(key=key, item=item):
                    expires_ms = None if item.expires_at is None else _ms(item.expires_at)
                    self.rows[key] = Row((last.version if last else 0) + 1, item.body, item.indexes, expires_ms)
                case Add(key=key):
                    self.rows[key] = Row((last.version if last else 0) + 1, b"%d" % self._sum(write), {}, None)
                case Delete(key=key) if last is not None:
                    self.rows[key] = Row(last.version, None, {}, None)
        return True

    def _holds(self, write: Write) -> bool:
        if isinstance(write, Add):
            return write.at_most is None or self._sum(write) <= write.at_most
        return self.version(write.key) == write.version

    def _sum(self, add: Add) -> int:
        found = self.get(add.key)
        return (0 if found is None else int(found.body)) + add.amount

    def purge(self, now: datetime) -> int:
        now_ms, forget_ms, purged = _ms(now), _ms(now) + int(_TOMBSTONE_MS), 0
        for key, row in list(self.rows.items()):
            if row.body is not None and row.expires_ms is not None and row.expires_ms < now_ms:
                self.rows[key] = Row(row.version, None, {}, forget_ms)
                purged += 1
            elif row.body is None and row.expires_ms is None:
                self.rows[key] = row._replace(expires_ms=forget_ms)
            elif row.body is None and row.expires_ms is not None and row.expires_ms < now_ms:
                del self.rows[key]
        return purged

    def listed(self, index: str, partition: str) -> list[tuple[str, Versioned]]:
        """The partition's records with their sorts, in order."""
        found = [(entry.sort, record) for record, entry in self._entries(index) if entry.partition == partition]
        return sorted(found, key=lambda pair: (pair[0].encode(), pair[1].key.encode()))

    def _entries(self, index: str) -> Iterator[tuple[Versioned, IndexEntry]]:
        for key, row in self.rows.items():
            if row.body is not None and index in row.indexes:
                yield Versioned(key, row.body, row.version), row.indexes[index]


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def to_plain(writes: Sequence[Write]) -> list[list[object]]:
    """Writes as JSON, for a worker process."""
    plain: list[list[object]] = []
    for write in writes:
        if isinstance(write, Add):
            plain.append(["Add", write.key, write.amount, write.at_most])
            continue
        entry: list[object] = [type(write).__name__, write.key, write.version]
        if isinstance(write, Put):
            item = write.item
            indexes = {name: list(place) for name, place in item.indexes.items()}
            expires_ms = None if item.expires_at is None else _ms(item.expires_at)
            entry += [base64.b64encode(item.body).decode(), indexes, expires_ms]
        plain.append(entry)
    return plain


def from_plain(plain: Sequence[Sequence[object]]) -> list[Write]:
    writes: list[Write] = []
    for kind, key, version, *rest in plain:
        assert isinstance(key, str)
        assert isinstance(version, int)
        if kind == "Put":
            body, indexes, expires_ms = rest
            assert isinstance(body, str)
            assert isinstance(indexes, dict)
            places = {name: IndexEntry(*place) for name, place in indexes.items()}
            expires_at = datetime.fromtimestamp(expires_ms / 1000, UTC) if isinstance(expires_ms, int) else None
            writes.append(Put(key, Item(base64.b64decode(body), places, expires_at), version))
        elif kind == "Add":
            [at_most] = rest
            assert at_most is None or isinstance(at_most, int)
            writes.append(Add(key, version, at_most))
        else:
            writes.append((Delete if kind == "Delete" else Check)(key, version))
    return writes
