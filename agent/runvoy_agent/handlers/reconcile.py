"""The reconciler: once a minute, mend what got lost between two steps. Every repair is one that a delivery would have
made, had it come; so running it twice, or beside the handlers, changes nothing more."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple

import msgspec

from runvoy_agent.core import lifecycle, locks
from runvoy_agent.core.model import Execution, InboxGrantee, Reconciled
from runvoy_agent.handlers import kills, lock_queues, messages, outbox, releases, store
from runvoy_agent.handlers.messages import EndEvent, EndMessage, InboxDelivery, StartMessage
from runvoy_agent.ports import Conflict, Ports, TaskState
from runvoy_protocol import ids, object_keys
from runvoy_protocol.object_keys import RequestKey
from runvoy_protocol.states import State

log = logging.getLogger("runvoy.reconcile")

LISTED_BACK = timedelta(minutes=70)
"""A grant lives for 55 minutes and a request for 60: an upload older than this cannot be on its way any more."""

FIRST_LOOK_BACK = timedelta(hours=2)
OVERLAP = timedelta(minutes=5)
"""Index reads may be stale, and what was written as the last round went by is none of its."""

PUSH_AGAIN_AFTER = timedelta(seconds=30)
LOOK_AFTER = timedelta(minutes=1)
GONE_AFTER = timedelta(minutes=10)
GONE_LOOKS_APART = timedelta(minutes=2)
DEADLINE_GRACE = timedelta(seconds=150)
"""After a deadline the runner has its grace (90 s at most) to end the command, and a minute to say so."""


class Repair(NamedTuple):
    """What was wrong with what, and what was done."""

    subject: str
    problem: str
    action: str


def handle(ports: Ports, *, starting_up: bool = False) -> list[Repair]:
    """One round. `starting_up`: nothing else runs yet, so nothing can be merely late and no grace is given."""
    began = ports.clock.now()
    mark = store.load(ports.records, store.RECONCILED_KEY, Reconciled)
    since = mark.document.at if mark.document else began - FIRST_LOOK_BACK
    repairs = [
        *_lost_uploads(ports, starting_up),
        *_active_executions(ports, starting_up),
        *_held_up_locks(ports),
        *_stale_projections(ports, since - OVERLAP),
    ]
    try:
        ports.records.commit([store.put(mark, Reconciled(at=began))])
    except Conflict:
        log.info("another round was finished meanwhile; the earlier mark stays")
    for repair in repairs:
        log.info("%s: %s; %s", *repair)
    return repairs


def _lost_uploads(ports: Ports, starting_up: bool) -> Iterator[Repair]:
    """Objects in the inbox, of keys that were granted uploads lately, that no delivery was handled for.

    Listed from the UUIDv7 of the oldest moment. What a `--id TEXT` made has no time in its id: the few whose id sorts
    before that are found when a stack starts, where all is listed.
    """
    now = ports.clock.now()
    oldest = now - LISTED_BACK
    for shard in range(store.SHARDS):
        for record in store.partition_records(ports.records, store.INDEX_GRANTEES, store.shard_partition("", shard)):
            grantee = msgspec.json.decode(record.body, type=InboxGrantee)
            if grantee.granted_at >= oldest:
                yield from _lost_uploads_of(ports, grantee.key_id, oldest, from_first=starting_up)


def _lost_uploads_of(ports: Ports, key_id: str, oldest: datetime, *, from_first: bool) -> Iterator[Repair]:
    after = None if from_first else object_keys.request(key_id, ids.uuid7(oldest, bytes(10)))
    while True:
        page = ports.inbox.list(object_keys.inbox_prefix(key_id), after=after)
        for info in page:
            place = object_keys.parse_request(info.key)
            if place is None or info.modified_at < oldest:
                continue
            if not _is_answered(ports, info.key, place):
                ports.queue.send("inbox", messages.encode(InboxDelivery(object_key=info.key)))
                yield Repair(info.key, "no delivery of it was handled", "delivered it again")
        if not page:
            return
        after = page[-1].key


def _is_answered(ports: Ports, object_key: str, place: RequestKey) -> bool:
    """Whether this very object has its receipt: one of the same id may have been answered otherwise before."""
    stored = ports.inbox.get(object_key)
    if stored is None:
        return True
    digest = hashlib.sha256(stored.data).hexdigest()
    return ports.outbox.get(object_keys.receipt(place.key_id, place.request_id, digest)) is not None


def _active_executions(ports: Ports, starting_up: bool) -> Iterator[Repair]:
    for shard in range(store.SHARDS):
        partition = store.shard_partition("", shard)
        for record in store.partition_records(ports.records, store.INDEX_ACTIVE, partition):
            # The index may be behind: decide on the record itself.
            execution_id = msgspec.json.decode(record.body, type=Execution).execution_id
            current = store.load_execution(ports.records, execution_id)
            if current.document is not None and current.document.is_active:
                yield from _repair(ports, current.document, starting_up)


def _repair(ports: Ports, execution: Execution, starting_up: bool) -> Iterator[Repair]:
    now = ports.clock.now()
    idle = now - execution.updated_at
    if execution.state is State.QUEUED:
        expired = lifecycle.expire_in_queue(execution, now)
        if expired is not None:
            yield from _end_in_queue(ports, execution.execution_id)
        elif execution.granted and (starting_up or idle > PUSH_AGAIN_AFTER):
            _push(ports, execution)
            yield Repair(execution.execution_id, "it may start and was not pushed", "pushed it again")
        return
    patience = PUSH_AGAIN_AFTER if execution.state is State.TERMINATING else LOOK_AFTER
    if not starting_up and idle < patience:
        return
    task = ports.launcher.describe(execution.execution_id, execution.attempt)
    if task.phase != "missing" and execution.missing_since is not None:
        store.with_retries(ports.clock, partial(_note_look, ports, execution.execution_id, missing=False))
    if task.phase == "stopped":
        _send_end(ports, execution, "stopped", task)
        yield Repair(execution.execution_id, "its task stopped and nobody was told", "told it again")
    elif task.phase == "missing" and execution.state is State.STARTING:
        yield from _repair_unlaunched(ports, execution, starting_up)
    elif task.phase == "missing":
        yield from _repair_missing(ports, execution)
    elif execution.started_at is None and ports.outbox.get(object_keys.started(execution.execution_id)) is not None:
        # Before any clock is looked at: it began in time, and would be ended for not having begun.
        _send_end(ports, execution, "started")
        yield Repair(execution.execution_id, "its command began and nobody was told", "told it again")
    elif execution.state is State.TERMINATING:
        ports.launcher.stop(execution.execution_id, execution.attempt)  # told again until it is seen stopped
    elif not task.supervised:
        yield from _terminate_expired(ports, execution)


def _repair_unlaunched(ports: Ports, execution: Execution, starting_up: bool) -> Iterator[Repair]:
    """STARTING without a task: its push was lost between the commit and the launch, or it is still being launched."""
    begun = execution.starting_at or execution.updated_at
    waited = ports.clock.now() - begun
    window = ports.launcher.relaunch_window
    if window is not None and waited >= window:
        yield from _repair_missing(ports, execution)
    elif starting_up or waited > LOOK_AFTER:
        _push(ports, execution)
        yield Repair(execution.execution_id, "it was to be launched and has no task", "pushed it again")


def _repair_missing(ports: Ports, execution: Execution) -> Iterator[Repair]:
    """The platform knows no task of it. Two looks, apart, before that is believed: listings lag behind and leave out."""
    now = ports.clock.now()
    if now < (execution.starting_at or execution.updated_at) + GONE_AFTER:
        return
    if execution.missing_since is None:
        store.with_retries(ports.clock, partial(_note_look, ports, execution.execution_id, missing=True))
    elif now >= execution.missing_since + GONE_LOOKS_APART:
        _send_end(ports, execution, "stopped")
        yield Repair(execution.execution_id, "the platform knows no task of it", "settled it")


def _note_look(ports: Ports, execution_id: str, *, missing: bool) -> None:
    current = store.load_execution(ports.records, execution_id)
    noted = (
        None if current.document is None else lifecycle.note_look(current.document, ports.clock.now(), missing=missing)
    )
    if noted is not None:
        ports.records.commit([store.put(current, noted)])
        outbox.publish_status(ports, noted, current.version + 1)


def _end_in_queue(ports: Ports, execution_id: str) -> Iterator[Repair]:
    freed = store.with_retries(ports.clock, lambda: _expire(ports, execution_id))
    if freed is not None:
        releases.announce(ports, freed)
        yield Repair(execution_id, "its queue timeout passed", "ended it")


def _expire(ports: Ports, execution_id: str) -> releases.Freed | None:
    current = store.load_execution(ports.records, execution_id)
    if current.document is None:
        return None
    expired = lifecycle.expire_in_queue(current.document, ports.clock.now())
    if expired is None:
        return None
    audit = store.audit(
        ports.clock, "reconciler", "expire", expired.state.value, execution_id=execution_id, message=expired.message
    )
    return releases.change_and_release(ports, current, expired, audit)


def _terminate_expired(ports: Ports, execution: Execution) -> Iterator[Repair]:
    """End what is past its clocks and has nobody beside it to do so."""

    def expire(current: Execution) -> Execution | None:
        now = ports.clock.now()
        return lifecycle.expire_start(current, now) or lifecycle.expire_run(current, now, DEADLINE_GRACE)

    if expire(execution) is not None and kills.end(ports, execution.execution_id, "reconciler", expire):
        yield Repair(execution.execution_id, "it is past its deadline and its runner did not end it", "had it stopped")


def _held_up_locks(ports: Ports) -> Iterator[Repair]:
    """Locks whose head is over, or could start and was not granted. No commit leaves one so; a restored backup might."""
    for lock in lock_queues.busy_locks(ports.records):
        head = store.load_execution(ports.records, lock.queue[0]).document
        over = head is None or not head.is_active
        if not over and head is not None and (head.granted or not _heads_all(ports, head)):
            continue
        # Taking out the dead head grants the next; with a living one, taking out nobody grants itself.
        leaver = lock.queue[0] if over else ""
        freed = store.with_retries(ports.clock, partial(releases.release, ports, leaver, [lock.name]))
        releases.announce(ports, freed)
        problem = "its holder is over" if over else "its first waiter could start and was not granted"
        yield Repair(f"lock {lock.name}", problem, "released it" if over else "granted it")


def _heads_all(ports: Ports, execution: Execution) -> bool:
    named = {lock.name: store.load_lock(ports.records, lock.name).document for lock in execution.locks}
    return locks.heads_all({name: lock or locks.empty(name) for name, lock in named.items()}, execution.execution_id)


def _push(ports: Ports, execution: Execution) -> None:
    ports.queue.send("starts", messages.encode(StartMessage(execution_id=execution.execution_id)))


def _send_end(ports: Ports, execution: Execution, event: EndEvent, task: TaskState | None = None) -> None:
    message = EndMessage(
        execution_id=execution.execution_id,
        attempt=execution.attempt,
        event=event,
        exit_code=None if task is None else task.exit_code,
        message="" if task is None else task.message,
    )
    ports.queue.send("ends", messages.encode(message))


def _stale_projections(ports: Ports, since: datetime) -> Iterator[Repair]:
    """status.json behind its record, for what changed since the last round."""
    now = ports.clock.now()
    for hours in range(int((now - since) / timedelta(hours=1)) + 2):
        of_hour = store.hour(now - timedelta(hours=hours))
        for shard in range(store.SHARDS):
            partition = store.shard_partition(of_hour, shard)
            for record in store.partition_records(ports.records, store.INDEX_UPDATED, partition, descending=True):
                execution = msgspec.json.decode(record.body, type=Execution)
                if execution.updated_at < since:
                    break
                shown = ports.outbox.get(object_keys.status(execution.execution_id))
                if shown is None or outbox.shown_version(shown.data) < record.version:
                    outbox.publish_status(ports, execution, record.version)
                    yield Repair(execution.execution_id, "its status.json was behind its record", "wrote it")
