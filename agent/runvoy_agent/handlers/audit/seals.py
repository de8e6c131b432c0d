"""Sealing the audit: what was recorded minute after minute goes into a chain of hashes, a while later and in bounded portions.

No request waits for it, and nothing that serves one writes to the chain: the reconciler alone does, and two of them at once hold
each other off by the version of the chain's head. A minute is sealed once nobody can still be writing to it; what is seen of it
after that all the same is sealed as late.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import islice
from typing import NamedTuple

import msgspec

from runvoy_agent.core import sealing
from runvoy_agent.core.model import AuditEvent, AuditHead
from runvoy_agent.handlers.documents import store
from runvoy_agent.handlers.documents.store import Loaded
from runvoy_agent.ports import Conflict, Ports, Position, Put, Records
from runvoy_protocol import seals
from runvoy_protocol.errors import RunvoyError
from runvoy_protocol.ids import is_execution_id
from runvoy_protocol.seals import Leaf, Seal

log = logging.getLogger("runvoy.seals")

SEAL_AFTER = timedelta(minutes=10)
"""Longer than from the time that a record says to its commit (a function lives for 5 minutes at most), clocks that differ and
an index that lags included."""

LOOK_FOR_LATE_EVERY = timedelta(minutes=10)
LATE_BY = timedelta(hours=1)
"""How far back it is looked for what came late. What comes later than that stays unsealed, and `audit verify` says so."""

MOST_SEALS = 10
MOST_DAYS = 10
"""What one round may do. A reconciler that was away for long goes on in its next."""

_SAME_MOMENT_MS = 5 * 60 * 1000


class _Chain(NamedTuple):
    """The end of the chain, at the version of its record; 0 where there is none yet."""

    head: AuditHead
    version: int

    def put(self, head: AuditHead) -> Put:
        """The write of another end, if this one is still what is stored."""
        return store.put(Loaded(store.AUDIT_HEAD_KEY, self.head, self.version), head)


class _Found(NamedTuple):
    """A record to be sealed, and where it stands."""

    place: str
    leaf: Leaf


def seal(ports: Ports) -> int:
    """Seal what is old enough; how many records were late. What another reconciler seals meanwhile is left to it."""
    now = ports.clock.now()
    horizon = store.stamp((now - SEAL_AFTER).replace(second=0, microsecond=0))
    loaded = store.load(ports.records, store.AUDIT_HEAD_KEY, AuditHead)
    head = loaded.document
    if head is None:
        if ports.records.get(store.seal_key(1)) is not None:
            log.error("the audit's head is gone and there are seals: the chain is not begun anew")
            return 0
        # Not all that there ever was: the day before the first round, whole.
        first_day = seals.time_of(horizon).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
        head = sealing.beginning(store.stamp(first_day))
    chain = _Chain(head, loaded.version)
    try:
        chain = _seal_until(ports, chain, horizon, now)
        return _seal_late(ports, chain, horizon, now)
    except Conflict:
        current = ports.records.get(store.AUDIT_HEAD_KEY)
        if (0 if current is None else current.version) == chain.version:
            log.error("seal %d of the audit is there, and the head does not know it", chain.head.number + 1)  # noqa: TRY400
        else:
            log.info("another reconciler sealed the audit meanwhile")
        return 0


def _seal_until(ports: Ports, chain: _Chain, horizon: str, now: datetime) -> _Chain:
    """Seal what stands before `horizon`, a seal for each day at least; the chain's end then."""
    made = 0
    scanned_to = chain.head.scanned_to
    for _ in range(MOST_DAYS + MOST_SEALS):
        until = min(horizon, _end_of_day(scanned_to))
        if until <= scanned_to or made == MOST_SEALS:
            break
        found = list(islice(_records_between(ports.records, scanned_to, until), seals.MAX_LEAVES + 1))
        reached = until
        if len(found) > seals.MAX_LEAVES:
            found.pop()
            reached = found[-1].place
        if found:
            leaves = [one.leaf for one in found]
            chain = _commit(ports, chain, sealing.next_seal(chain.head, leaves, (), reached, now))
            made += 1
        scanned_to = reached
    # Nothing but an idle time's end: noted now and then, so that it is not looked through again for ever.
    if seals.time_of(scanned_to) - seals.time_of(chain.head.scanned_to) >= LOOK_FOR_LATE_EVERY:
        head = msgspec.structs.replace(chain.head, scanned_to=scanned_to)
        ports.records.commit([chain.put(head)])
        chain = _Chain(head, chain.version + 1)
    return chain


def _seal_late(ports: Ports, chain: _Chain, horizon: str, now: datetime) -> int:
    """Look for records of minutes that were sealed without them, for clocks are set back and an index may lag for long; how many
    there were."""
    head = chain.head
    if head.number == 0 or (head.late_looked_at and timedelta(0) <= now - head.late_looked_at < LOOK_FOR_LATE_EVERY):
        return 0
    since = max(head.began, store.stamp(seals.time_of(min(head.scanned_to, horizon)) - LATE_BY))
    known = _sealed_since(ports.records, head, since)
    if known is None:
        return 0
    unknown = (one for one in _records_between(ports.records, since, head.scanned_to) if one.leaf.event_id not in known)
    late = [one.leaf for one in islice(unknown, seals.MAX_LEAVES)]
    looked = chain._replace(head=msgspec.structs.replace(head, late_looked_at=now))
    if late:
        log.warning(
            "%d records of the audit came after their minute was sealed, the first is %s", len(late), late[0].event_id
        )
        _commit(ports, looked, sealing.next_seal(head, (), late, head.scanned_to, now))
    else:
        ports.records.commit([looked.put(looked.head)])
    return len(late)


def _commit(ports: Ports, chain: _Chain, made: Seal) -> _Chain:
    head = sealing.after(chain.head, made)
    ports.records.commit([chain.put(head), store.put_new(store.seal_key(made.number), made)])
    # Beside the table: who can write there cannot at the same time write the log.
    log.info("sealed the audit until %s: seal %d, %s", made.ends, made.number, head.hash)
    return _Chain(head, chain.version + 1)


def _sealed_since(records: Records, head: AuditHead, since: str) -> set[str] | None:
    """The ids in all seals that end after `since`; None if one of them is not what it was."""
    known: set[str] = set()
    for number in range(head.number, 0, -1):
        try:
            found = store.load(records, store.seal_key(number), Seal).document
            if found is None:
                log.error("seal %d of the audit is gone", number)
                return None
            if found.ends <= since:
                break
            known.update(one.event_id for one in seals.unpack(found))
        except (RunvoyError, msgspec.MsgspecError) as error:
            log.error("seal %d of the audit was changed: %s", number, error)  # noqa: TRY400
            return None
    return known


def _records_between(records: Records, since: str, until: str) -> Iterator[_Found]:
    """The records that stand after `since` and before `until`, in their order."""
    day = seals.time_of(since).replace(hour=0, minute=0, second=0, microsecond=0)
    while store.stamp(day) < until:
        streams = [_of_shard(records, store.day(day), shard, since, until) for shard in range(store.SHARDS)]
        yield from heapq.merge(*streams)
        day += timedelta(days=1)


def _of_shard(records: Records, of_day: str, shard: int, since: str, until: str) -> Iterator[_Found]:
    sort, event_id = seals.parse_place(since)
    last = sort
    after: Position | None = Position(sort, store.audit_key(event_id) if event_id else "")
    while after is not None:
        page = records.query(store.INDEX_AUDIT, store.shard_partition(of_day, shard), after=after, limit=200)
        for record in page.records:
            event_id = record.key.removeprefix(store.audit_key(""))
            if not is_execution_id(event_id):
                log.error("%.80s is no record of the audit, and is not sealed", record.key)
                continue
            # What somebody made unreadable, or moved, is sealed as it is and where it was found: it must not hold up the rest.
            last = max(_stamp_of(event_id, record.body) or last, last)
            where = seals.place(last, event_id)
            if where > until:
                return
            yield _Found(where, seals.leaf(event_id, record.body))
        after = page.after


def _stamp_of(event_id: str, body: bytes) -> str | None:
    """When a record says it was, if it says so and its id, which was made in the same moment, does not contradict."""
    try:
        at = msgspec.json.decode(body, type=AuditEvent).at
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    made_ms = int(event_id[:12], 16)
    return store.stamp(at) if abs(at.timestamp() * 1000 - made_ms) < _SAME_MOMENT_MS else None


def _end_of_day(place: str) -> str:
    return store.stamp(seals.time_of(place).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1))
