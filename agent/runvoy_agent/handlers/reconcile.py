"""The reconciler: once a minute, mend what got lost between two steps. Every repair is one that a delivery would have
made, had it come; so running it twice, or beside the handlers, changes nothing more."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from typing import NamedTuple

import msgspec

from runvoy_agent.core import lifecycle, locks
from runvoy_agent.core.model import Execution, InboxGrantee
from runvoy_agent.handlers import kills, lock_queues, messages, outbox, releases, store
from runvoy_agent.handlers.messages import EndMessage, InboxDelivery, StartMessage
from runvoy_agent.ports import Ports
from runvoy_protocol import ids, object_keys
from runvoy_protocol.states import State

log = logging.getLogger("runvoy.reconcile")

LISTED_BACK = timedelta(minutes=70)
"""A grant lives for 55 minutes and a request for 60: an upload older than this cannot be on its way any more."""

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
    repairs = [
        *_lost_uploads(ports),
        *_active_executions(ports, starting_up),
        *_held_up_locks(ports),
        *_stale_projections(ports),
    ]
    for repair in repairs:
        log.info("%s: %s; %s", *repair)
    return repairs


def _lost_uploads(ports: Ports) -> Iterator[Repair]:
    """Objects in the inbox, of keys that were granted uploads lately, that no delivery was handled for."""
    now = ports.clock.now()
    oldest = now - LISTED_BACK
    for shard in range(store.SHARDS):
        for record in store.partition_records(ports.records, store.INDEX_GRANTEES, store.shard_partition("", shard)):
            grantee = msgspec.json.decode(record.body, type=InboxGrantee)
            if grantee.granted_at >= oldest:
                yield from _lost_uploads_of(ports, grantee.key_id, ids.uuid7(oldest, bytes(10)))


def _lost_uploads_of(ports: Ports, key_id: str, after_id: str) -> Iterator[Repair]:
    after = object_keys.request(key_id, after_id)
    while True:
        page = ports.inbox.list(object_keys.inbox_prefix(key_id), after=after)
        for info in page:
            place = object_keys.parse_request(info.key)
            if place is not None and not _is_answered(ports, key_id, place.request_id):
                ports.queue.send("inbox", messages.encode(InboxDelivery(object_key=info.key)))
                yield Repair(info.key, "no delivery of it was handled", "delivered it again")
        if not page:
            return
        after = page[-1].key


def _is_answered(ports: Ports, key_id: str, request_id: str) -> bool:
    if ports.records.get(store.execution_key(request_id)) is not None:
        return True
    return bool(ports.outbox.list(object_keys.receipts_prefix(key_id, request_id), limit=1))


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
    expired = lifecycle.expire_start(execution, now) or lifecycle.expire_run(execution, now, DEADLINE_GRACE)
    if expired is not None:
        yield from _terminate(ports, execution)
    elif execution.state is State.TERMINATING and (starting_up or idle > PUSH_AGAIN_AFTER):
        # Told again until it is seen stopped; its stop is found below.
        ports.launcher.stop(execution.execution_id, execution.attempt)
    if not starting_up and idle < LOOK_AFTER:
        return
    task = ports.launcher.describe(execution.execution_id, execution.attempt)
    if task.phase == "stopped":
        _send_stopped(ports, execution)
        yield Repair(execution.execution_id, "its task stopped and nobody was told", "told it again")
    elif task.phase == "missing" and execution.state is State.STARTING:
        yield from _repair_unlaunched(ports, execution, starting_up)
    elif task.phase == "missing":
        yield from _repair_missing(ports, execution, idle)


def _repair_unlaunched(ports: Ports, execution: Execution, starting_up: bool) -> Iterator[Repair]:
    """STARTING without a task: its push was lost between the commit and the launch, or it is still being launched."""
    begun = execution.starting_at or execution.updated_at
    waited = ports.clock.now() - begun
    if waited < GONE_AFTER and (starting_up or waited > LOOK_AFTER):
        _push(ports, execution)
        yield Repair(execution.execution_id, "it was to be launched and has no task", "pushed it again")
    elif waited >= GONE_AFTER:
        yield from _repair_missing(ports, execution, waited)


def _repair_missing(ports: Ports, execution: Execution, idle: timedelta) -> Iterator[Repair]:
    """The platform knows no task of it. Two looks, apart, before that is believed: listings lag behind."""
    if idle < GONE_AFTER + GONE_LOOKS_APART:
        return
    _send_stopped(ports, execution)
    yield Repair(execution.execution_id, "the platform knows no task of it", "settled it")


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


def _terminate(ports: Ports, execution: Execution) -> Iterator[Repair]:
    def expire(current: Execution) -> Execution | None:
        now = ports.clock.now()
        return lifecycle.expire_start(current, now) or lifecycle.expire_run(current, now, DEADLINE_GRACE)

    if kills.end(ports, execution.execution_id, "reconciler", expire):
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


def _send_stopped(ports: Ports, execution: Execution) -> None:
    message = EndMessage(execution_id=execution.execution_id, attempt=execution.attempt, event="stopped")
    ports.queue.send("ends", messages.encode(message))


def _stale_projections(ports: Ports) -> Iterator[Repair]:
    """status.json behind its record, for what changed in this hour or the last."""
    now = ports.clock.now()
    for of_hour in (store.hour(now - timedelta(hours=1)), store.hour(now)):
        for shard in range(store.SHARDS):
            partition = store.shard_partition(of_hour, shard)
            for record in store.partition_records(ports.records, store.INDEX_UPDATED, partition):
                execution = msgspec.json.decode(record.body, type=Execution)
                shown = ports.outbox.get(object_keys.status(execution.execution_id))
                if shown is None or outbox.shown_version(shown.data) < record.version:
                    outbox.publish_status(ports, execution, record.version)
                    yield Repair(execution.execution_id, "its status.json was behind its record", "wrote it")
