"""Forgetting executions that are long over: their objects first, their records last, so that whoever dies in between leaves what
the next one finds again. Members, keys, images, secrets, locks, the audit and its seals are never touched."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec

from runvoy_agent.core import retention
from runvoy_agent.core.model import Execution
from runvoy_agent.core.progress import Retained
from runvoy_agent.handlers.documents import all_executions, store
from runvoy_agent.handlers.documents.store import Loaded
from runvoy_agent.ports import Conflict, Delete, ObjectInfo, Objects, Ports, Write
from runvoy_protocol import object_keys
from runvoy_protocol.errors import ErrorCode, RunvoyError

log = logging.getLogger("runvoy.retention")

MOST_AT_ONCE = 1000
"""Executions and left objects in one sweep; `more` tells that there are others."""

EVERY = timedelta(days=1)

_LISTED_AT_ONCE = 50_000
"""Of the inbox: a page of a folder costs by all that is in it."""


class Removing(NamedTuple):
    """How objects go, all versions included. A deployment whose buckets have rules of their own for that has none."""

    inbox: Callable[[str], None]
    outbox: Callable[[str], None]


class Swept(NamedTuple):
    """What was forgotten, or would be: executions, requests and batches that belong to none any more, objects and their bytes.
    `oldest_left`: when the oldest execution was admitted that was looked at and stays."""

    executions: int = 0
    requests: int = 0
    objects: int = 0
    bytes: int = 0
    more: bool = False
    oldest_left: datetime | None = None


class _Sweep:
    """What one sweep forgets, and how much that was; with `dry_run` it only counts."""

    def __init__(self, ports: Ports, removing: Removing | None, most: int, *, dry_run: bool) -> None:
        self._ports = ports
        self._removing = removing
        self._most = most
        self._dry_run = dry_run
        self.executions = self.requests = self.objects = self.bytes = 0

    def is_full(self) -> bool:
        return not self._dry_run and self.executions + self.requests >= self._most

    def forget(self, current: Loaded[Execution], execution: Execution) -> None:
        """An execution's objects, then its records."""
        if self._removing is not None:
            inbox, outbox = self._ports.inbox, self._ports.outbox
            key_id, execution_id = execution.key_id, execution.execution_id
            self._remove(outbox, object_keys.execution_prefix(execution_id), self._removing.outbox)
            self._remove(outbox, object_keys.receipts_prefix(key_id, execution_id), self._removing.outbox)
            self._remove(inbox, object_keys.request(key_id, execution_id), self._removing.inbox)
        if not self._dry_run:
            request = self._ports.records.get(store.request_key(execution.execution_id))
            writes: list[Write] = [current.delete]
            if request is not None:
                writes.append(Delete(request.key, request.version))
            try:
                self._ports.records.commit(writes)
            except Conflict:
                log.info("%s changed while it was to be forgotten; it is looked at again", execution.execution_id)
                return
        self.executions += 1

    def forget_left(self, info: ObjectInfo, key_id: str, request_id: str) -> None:
        """An object of the inbox that belongs to no execution, and its receipts."""
        if self._removing is None:
            return
        self._remove(self._ports.outbox, object_keys.receipts_prefix(key_id, request_id), self._removing.outbox)
        self._remove_one(info, self._removing.inbox)
        self.requests += 1

    def _remove(self, objects: Objects, prefix: str, remove: Callable[[str], None]) -> None:
        after: str | None = None
        while True:
            page = objects.list(prefix, after=after)
            for info in page:
                self._remove_one(info, remove)
            if not page:
                return
            after = page[-1].key

    def _remove_one(self, info: ObjectInfo, remove: Callable[[str], None]) -> None:
        if not self._dry_run:
            remove(info.key)
        self.objects += 1
        self.bytes += info.size


def sweep(
    ports: Ports,
    oldest: datetime,
    keep: timedelta,
    removing: Removing | None = None,
    *,
    dry_run: bool = False,
    most: int = MOST_AT_ONCE,
) -> Swept:
    """Forget what ended longer ago than `keep`, of the executions admitted since `oldest`, `most` at once; with `dry_run` say what
    that would be. INVALID_REQUEST for a `keep` that is too short."""
    before = _before(ports, keep)
    made = _Sweep(ports, removing, most, dry_run=dry_run)
    oldest_left = _sweep_executions(ports, made, oldest, before)
    if removing is not None:
        _sweep_left(ports, made, before)
    return Swept(made.executions, made.requests, made.objects, made.bytes, made.is_full(), oldest_left)


def keep_up(ports: Ports, created_at: datetime, keep: timedelta, removing: Removing | None = None) -> Swept | None:
    """The sweep of the reconciler: once a day, or at once where the last one left something, and from where it left off. None
    where none was due."""
    now, before = ports.clock.now(), _before(ports, keep)
    mark = store.load(ports.records, store.RETAINED_KEY, Retained)
    if mark.document is not None and not mark.document.more and now - mark.document.at < EVERY:
        return None
    oldest = created_at if mark.document is None else mark.document.oldest
    swept = sweep(ports, oldest, keep, removing)
    # One that stays for long, its task never seen stopped, holds the mark: a day's few queries are all that costs.
    reached = oldest if swept.more else swept.oldest_left or before
    try:
        ports.records.commit([store.put(mark, Retained(at=now, oldest=max(reached, created_at), more=swept.more))])
    except Conflict:
        log.info("another sweep was finished meanwhile; its mark stays")
    return swept


def _before(ports: Ports, keep: timedelta) -> datetime:
    """What ended before this time is kept no longer; INVALID_REQUEST for a `keep` that is too short."""
    if keep < retention.SHORTEST_KEEP:
        raise RunvoyError(
            ErrorCode.INVALID_REQUEST, "executions are kept for a day at least", "Give --keep 1d, or more."
        )
    return ports.clock.now() - keep


def _sweep_executions(ports: Ports, made: _Sweep, oldest: datetime, before: datetime) -> datetime | None:
    """Forget executions until there are none, or enough; when the oldest was admitted that was looked at and stays."""
    oldest_left: datetime | None = None
    for loaded in _admitted(ports, oldest, before):
        if made.is_full():
            break
        execution = loaded.document
        if execution is None:
            continue
        if retention.may_be_forgotten(execution, before):
            made.forget(loaded, execution)
        elif oldest_left is None or execution.admitted_at < oldest_left:
            oldest_left = execution.admitted_at
    return oldest_left


def _admitted(ports: Ports, oldest: datetime, before: datetime) -> Iterator[Loaded[Execution]]:
    """Every execution that was admitted on these days, as its record has it now: an index may be behind."""
    if oldest > before:
        return
    for record in all_executions.since(ports.records, oldest, before):
        yield store.load_execution(ports.records, msgspec.json.decode(record.body, type=Execution).execution_id)


def _sweep_left(ports: Ports, made: _Sweep, before: datetime) -> None:
    """Requests that were refused, and batches whose executions must be over by now."""
    after: str | None = None
    while not made.is_full():
        page = ports.inbox.list("requests/", after=after, limit=_LISTED_AT_ONCE)
        for info in page:
            batch, request = object_keys.parse_batch(info.key), object_keys.parse_request(info.key)
            if made.is_full():
                return
            if batch is not None and info.modified_at < before - retention.LONGEST_LIFE:
                made.forget_left(info, batch.key_id, batch.batch_id)
            elif request is not None and info.modified_at < before:
                known = store.load_execution(ports.records, request.request_id).document
                if known is None or known.key_id != request.key_id:
                    made.forget_left(info, request.key_id, request.request_id)
        if not page:
            return
        after = page[-1].key
