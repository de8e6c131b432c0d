"""The ports in memory: exact where the port promises something, hostile where it does not.

Records: exact versions and conflicts; index reads lag behind. Objects: versions and conditional writes. Queue: deliveries
twice, late, out of order, or never. Every call of a handler goes through the scheduler: others may go first, and the
caller may die on either side of the effect.
"""

from __future__ import annotations

import hashlib
import heapq
from bisect import bisect_right, insort
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from tests.simulation.scheduler import Scheduler

from runvoy_agent.ports import (
    Add,
    Conflict,
    Delete,
    Item,
    ObjectInfo,
    Page,
    Position,
    PostPolicy,
    PreconditionFailed,
    Put,
    QueueName,
    StoredObject,
    Versioned,
    Write,
    check_writes,
)
from runvoy_protocol import ids

START = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)

CommitHook = Callable[[Sequence[Write]], None]


class _Row(NamedTuple):
    sort: str
    body: bytes
    version: int


class SimRecords:
    """Records with atomic conditional commits. `on_commit` sees every commit that was made, in order."""

    def __init__(self, scheduler: Scheduler, *, longest_lag_ms: int = 0) -> None:
        self._scheduler = scheduler
        self._longest_lag_ms = longest_lag_ms
        self._lags = scheduler.stream("index lags")
        self.rows: dict[str, tuple[bytes, int]] = {}
        self._last_versions: dict[str, int] = {}  # of deleted records: an old version never comes true again
        self._index: dict[tuple[str, str], tuple[list[tuple[str, str]], dict[str, _Row]]] = {}
        self._places: dict[str, dict[str, tuple[str, str]]] = {}  # key → index → (partition, sort), as indexed
        self._behind: list[tuple[int, int, str, Item | None, int]] = []
        self._indexed_until: dict[str, int] = {}
        self._expiring: list[tuple[datetime, str]] = []
        self._commits = 0
        self.on_commit: CommitHook = lambda _writes: None

    @property
    def index_lag(self) -> timedelta:
        return timedelta(milliseconds=self._longest_lag_ms)

    def get(self, key: str) -> Versioned | None:
        return self._scheduler.call("records.get", key, lambda: self._get(key))

    def get_many(self, keys: Sequence[str]) -> Sequence[Versioned | None]:
        """Not all of one moment: others may go first between any two."""
        return [
            self._scheduler.call("records.get_many", key, lambda key=key: self._get(key))  # type: ignore[misc]
            for key in keys
        ]

    def commit(self, writes: Sequence[Write]) -> None:
        writes = tuple(writes)
        self._scheduler.call("records.commit", _shown(writes), lambda: self._commit(writes))

    def query(
        self, index: str, partition: str, *, after: Position | None = None, limit: int = 100, descending: bool = False
    ) -> Page:
        return self._scheduler.call(
            "records.query", f"{index} {partition}", lambda: self._query(index, partition, after, limit, descending)
        )

    def purge_expired(self, now: datetime) -> None:
        while self._expiring and self._expiring[0][0] < now:
            _, key = heapq.heappop(self._expiring)
            if key in self.rows:
                self._delete(key)

    def miscount(self, add: Add) -> None:
        """Change a number behind everybody's back."""
        row = self.rows.get(add.key)
        self._put(Put(add.key, Item(check_sum(add, None if row is None else row[0])), 0))

    def _get(self, key: str) -> Versioned | None:
        row = self.rows.get(key)
        return None if row is None else Versioned(key, *row)

    def _commit(self, writes: Sequence[Write]) -> None:
        check_writes(writes)
        for write in writes:
            row = self.rows.get(write.key)
            if isinstance(write, Add):
                check_sum(write, None if row is None else row[0])
                continue
            current = 0 if row is None else row[1]
            if current != write.version:
                raise Conflict(f"{write.key} is at version {current}, not {write.version}")
        self._commits += 1
        for write in writes:
            if isinstance(write, Put):
                self._put(write)
            elif isinstance(write, Add):
                row = self.rows.get(write.key)
                self._put(Put(write.key, Item(check_sum(write, None if row is None else row[0])), 0))
            elif isinstance(write, Delete):
                self._delete(write.key)
        self.on_commit(writes)

    def _put(self, put: Put) -> None:
        row = self.rows.get(put.key)
        version = (self._last_versions.get(put.key, 0) if row is None else row[1]) + 1
        self.rows[put.key] = (put.item.body, version)
        if put.item.expires_at is not None:
            heapq.heappush(self._expiring, (put.item.expires_at, put.key))
        if put.item.indexes or put.key in self._places:
            self._index_later(put.key, put.item, version)

    def _delete(self, key: str) -> None:
        row = self.rows.pop(key, None)
        if row is not None:
            self._last_versions[key] = row[1]
            self._index_later(key, None, row[1])

    def _index_later(self, key: str, item: Item | None, version: int) -> None:
        """Changes of one record come to the indexes in order, at some time."""
        now = self._scheduler.now_ms
        lag = 0
        if self._longest_lag_ms and self._scheduler.faults.enabled and self._lags.random() < 0.3:
            lag = self._lags.randrange(self._longest_lag_ms)
        at = max(now + lag, self._indexed_until.get(key, 0))
        self._indexed_until[key] = at
        self._places.setdefault(key, {})
        heapq.heappush(self._behind, (at, self._commits, key, item, version))

    def _catch_up(self) -> None:
        while self._behind and self._behind[0][0] <= self._scheduler.now_ms:
            _, _, key, item, version = heapq.heappop(self._behind)
            places = self._places.setdefault(key, {})
            for index, (partition, sort) in places.items():
                order, rows = self._index[index, partition]
                del order[bisect_right(order, (sort, key)) - 1]
                del rows[key]
            places.clear()
            for index, entry in (item.indexes if item is not None else {}).items():
                order, rows = self._index.setdefault((index, entry.partition), ([], {}))
                insort(order, (entry.sort, key))
                rows[key] = _Row(entry.sort, item.body if item is not None else b"", version)
                places[index] = (entry.partition, entry.sort)

    def _query(self, index: str, partition: str, after: Position | None, limit: int, descending: bool) -> Page:
        self._catch_up()
        order, rows = self._index.get((index, partition), ([], {}))
        start = None if after is None else (after.sort, after.key)
        if descending:
            end = len(order) if start is None else bisect_right(order, start) - 1
            found = order[max(0, end - limit) : end][::-1]
            more = end > limit
        else:
            begin = 0 if start is None else bisect_right(order, start)
            found = order[begin : begin + limit]
            more = begin + limit < len(order)
        records = [Versioned(key, rows[key].body, rows[key].version) for _, key in found]
        return Page(records, Position(*found[-1]) if more else None)


def check_sum(add: Add, found: bytes | None) -> bytes:
    """What a number becomes; Conflict over its bound."""
    made = int(found or b"0") + add.amount
    if add.at_most is not None and made > add.at_most:
        raise Conflict(f"{add.key} would be {made}, over {add.at_most}")
    return b"%d" % made


def _shown(writes: Sequence[Write]) -> str:
    return " ".join(
        f"{type(write).__name__.lower()}:{write.key[:48]}"
        + (f"+{write.amount}" if isinstance(write, Add) else f"@{write.version}")
        for write in writes
        if not write.key.startswith("audit#")
    )


class SimObjects:
    """One bucket, versioned. `on_put` sees every put that was made, `on_kept` those that another object forbade."""

    def __init__(self, scheduler: Scheduler, name: str) -> None:
        self._scheduler = scheduler
        self._name = name
        self.stored: dict[str, StoredObject] = {}
        self._versions: dict[tuple[str, str], StoredObject] = {}
        self._modified: dict[str, datetime] = {}
        self._keys: list[str] = []
        self._count = 0
        self.on_put: Callable[[str, bytes], None] = lambda _key, _data: None
        self.on_kept: Callable[[str, bytes], None] = lambda _key, _data: None

    def put(
        self, object_key: str, data: bytes, *, content_type: str, if_absent: bool = False, if_match: str | None = None
    ) -> str:
        return self._scheduler.call(
            f"{self._name}.put", object_key, lambda: self._put(object_key, data, if_absent, if_match)
        )

    def get(self, object_key: str, version: str | None = None) -> StoredObject | None:
        return self._scheduler.call(
            f"{self._name}.get",
            object_key,
            lambda: self.stored.get(object_key) if version is None else self._versions.get((object_key, version)),
        )

    def list(
        self, prefix: str, *, after: str | None = None, up_to: str | None = None, limit: int = 1000
    ) -> Sequence[ObjectInfo]:
        return self._scheduler.call(f"{self._name}.list", prefix, lambda: self._list(prefix, after, up_to, limit))

    def delete(self, object_key: str) -> None:
        self._scheduler.call(f"{self._name}.delete", object_key, lambda: self._delete(object_key))

    def presign_post(self, key_prefix: str, *, content_type: str, max_bytes: int, expires_at: datetime) -> PostPolicy:
        return PostPolicy(f"sim://{self._name}", {})

    def presign_get(self, object_key: str, *, expires_at: datetime) -> str:
        return f"sim://{self._name}/{object_key}"

    def presign_gets(self, object_keys: Sequence[str], *, expires_at: datetime) -> Sequence[str]:
        return [self.presign_get(object_key, expires_at=expires_at) for object_key in object_keys]

    def stored_version(self, object_key: str, version: str | None) -> StoredObject:
        return self.stored[object_key] if version is None else self._versions[object_key, version]

    def _put(self, object_key: str, data: bytes, if_absent: bool, if_match: str | None) -> str:
        current = self.stored.get(object_key)
        if if_absent and current is not None:
            self.on_kept(object_key, data)
            raise PreconditionFailed(f"{object_key} exists")
        if if_match is not None and (current is None or current.etag != if_match):
            raise PreconditionFailed(f"{object_key} is another than expected")
        self._count += 1
        if current is None:
            insort(self._keys, object_key)
        stored = StoredObject(data, hashlib.sha256(data).hexdigest(), f"v{self._count}")
        self.stored[object_key] = stored
        self._modified[object_key] = START + timedelta(milliseconds=self._scheduler.now_ms)
        self._versions[object_key, stored.version] = stored
        self.on_put(object_key, data)
        return stored.etag

    def _list(self, prefix: str, after: str | None, up_to: str | None, limit: int) -> Sequence[ObjectInfo]:
        begin = bisect_right(self._keys, after) if after is not None and after >= prefix else _first(self._keys, prefix)
        found = []
        for key in self._keys[begin : begin + limit]:
            if not key.startswith(prefix) or (up_to is not None and key > up_to):
                break
            found.append(ObjectInfo(key, len(self.stored[key].data), self._modified[key]))
        return found

    def _delete(self, object_key: str) -> None:
        if self.stored.pop(object_key, None) is not None:
            self._keys.remove(object_key)


def _first(keys: list[str], prefix: str) -> int:
    position = bisect_right(keys, prefix)
    return position - 1 if position and keys[position - 1] == prefix else position


class SimQueue:
    """Sends to a transport, which delivers as it likes."""

    def __init__(self, scheduler: Scheduler, transport: Callable[[QueueName, bytes, float], None]) -> None:
        self._scheduler = scheduler
        self._transport = transport

    def send(self, queue: QueueName, body: bytes, *, delay_seconds: float = 0) -> None:
        self._scheduler.call(
            "queue.send", f"{queue} {body.decode()}", lambda: self._transport(queue, body, delay_seconds)
        )


class SimSecrets:
    """Values by name. `on_delete` sees every name before its value goes."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.values: dict[str, bytes] = {}
        self.on_delete: Callable[[str], None] = lambda _name: None

    def put(self, name: str, value: bytes, *, if_absent: bool = False) -> None:
        self._scheduler.call("secrets.put", name, lambda: self._put(name, value, if_absent))

    def get(self, name: str) -> bytes | None:
        return self._scheduler.call("secrets.get", name, lambda: self.values.get(name))

    def delete(self, name: str) -> None:
        self._scheduler.call("secrets.delete", name, lambda: self._delete(name))

    def _put(self, name: str, value: bytes, if_absent: bool) -> None:
        if if_absent and name in self.values:
            raise PreconditionFailed(f"{name} exists")
        self.values[name] = value

    def _delete(self, name: str) -> None:
        self.on_delete(name)
        self.values.pop(name, None)


class SimClock:
    """Virtual time; ids and randomness from the seed. Telling the time is no interleaving point: nobody can change it."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._rng = scheduler.stream("clock")

    def now(self) -> datetime:
        return START + timedelta(milliseconds=self._scheduler.now_ms)

    def new_id(self) -> str:
        return ids.uuid7(self.now(), self.random(10))

    def random(self, count: int) -> bytes:
        return self._rng.randbytes(count)

    def sleep(self, seconds: float) -> None:
        if self._scheduler.invocation is not None:
            self._scheduler.pause(seconds * 1000)
