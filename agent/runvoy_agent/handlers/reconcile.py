"""The reconciler: once a minute, mend what got lost between two steps. Every repair is one that a delivery would have
made, had it come; so running it twice, or beside the handlers, changes nothing more."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple

import msgspec

from runvoy_agent.core import lifecycle, locks
from runvoy_agent.core.model import Execution, Reconciled
from runvoy_agent.handlers import (
    batches,
    kills,
    lock_queues,
    lost_uploads,
    messages,
    outbox,
    pushes,
    releases,
    seals,
    secret_values,
    store,
)
from runvoy_agent.handlers.messages import EndEvent, EndMessage, InboxDelivery
from runvoy_agent.ports import Conflict, Ports, Put, TaskState
from runvoy_protocol import object_keys
from runvoy_protocol.states import State

log = logging.getLogger("runvoy.reconcile")

FIRST_LOOK_BACK = timedelta(days=1)
"""Where no round ever came through: none may have for as long as that."""

OVERLAP = timedelta(minutes=5)
"""Index reads may be stale."""

PUSH_AGAIN_AFTER = timedelta(seconds=30)
RANGES_IDLE = timedelta(minutes=2)
"""Longer than a range takes: a batch of which none was done for so long has lost some."""

LOOK_AFTER = timedelta(minutes=1)
GONE_AFTER = timedelta(minutes=10)
GONE_LOOKS_APART = timedelta(minutes=2)  # longer than a listing leaves out a task that is there: no two at one omission
GONE_LOOKS_WITHIN = timedelta(minutes=5)  # since an older look it may have been back unseen: no looks at two omissions
DEADLINE_GRACE = timedelta(seconds=150)
"""After a deadline the runner has its grace (90 s at most) to end the command, and a minute to say so."""


class Repair(NamedTuple):
    """What was wrong with what, and what was done."""

    subject: str
    problem: str
    action: str


def handle(ports: Ports, *, starting_up: bool = False) -> list[Repair]:
    """One round. `starting_up`: nothing else runs yet, so nothing can be merely late and no grace is given.

    The inbox comes last and has a mark of its own: one that takes long must not hold up the rest, round after round.
    """
    repairs = [*_of_the_records(ports, starting_up), *_of_the_audit(ports), *_of_the_inbox(ports, starting_up)]
    for repair in repairs:
        log.info("%s: %s; %s", *repair)
    return repairs


def _of_the_records(ports: Ports, starting_up: bool) -> Iterator[Repair]:
    began = ports.clock.now()
    mark = store.load(ports.records, store.RECONCILED_KEY, Reconciled)
    since = mark.document.at if mark.document else began - FIRST_LOOK_BACK
    yield from _active_executions(ports, starting_up)
    yield from _held_up_locks(ports)
    yield from _stale_projections(ports, since - OVERLAP)
    yield from _discarded_values(ports)
    _mark(ports, mark, Reconciled(at=began))


def _of_the_audit(ports: Ports) -> Iterator[Repair]:
    late = seals.seal(ports)
    if late:
        yield Repair("the audit", f"{late} records came after their minute was sealed", "sealed them as late")


def _of_the_inbox(ports: Ports, starting_up: bool) -> Iterator[Repair]:
    mark = store.load(ports.records, store.RECONCILED_INBOX_KEY, Reconciled)
    look = lost_uploads.Look(ports, mark.document, starting_up=starting_up)
    yield from _lost_ranges(ports, starting_up)
    for object_key in look.deliver_again():
        yield Repair(object_key, "no delivery of it was handled", "delivered it again")
    _mark(ports, mark, look.reached())


def _mark(ports: Ports, mark: store.Loaded[Reconciled], reached: Reconciled) -> None:
    try:
        ports.records.commit([store.put(mark, reached)])
    except Conflict:
        log.info("another round was finished meanwhile; the earlier mark stays")


def _lost_ranges(ports: Ports, starting_up: bool) -> Iterator[Repair]:
    """Batches that were taken apart and do not get on: some of their ranges were lost."""
    now = ports.clock.now()
    for batch in batches.under_way(ports.records):
        if starting_up or now - batch.updated_at > RANGES_IDLE:
            object_key = object_keys.batch(batch.key_id, batch.batch_id)
            # The batch again, not its ranges: whoever handles it sends those that are missing.
            delivery = InboxDelivery(object_key=object_key, version=batch.object_version)
            ports.queue.send("inbox", messages.encode(delivery))
            yield Repair(object_key, "some of its requests were not answered", "delivered it again")


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
    # Of what waits for room the record knows the answer. Thousands may wait, and ECS answers some twenty calls a second: a round
    # that looked at each would end there, before it came to the locks, the audit and the inbox.
    has_none = lifecycle.waits_for_room(execution) and ports.launcher.relaunch_window is not None
    task = TaskState("missing") if has_none else ports.launcher.describe(execution.execution_id, execution.attempt)
    if task.phase != "missing" and execution.missing_since is not None:
        _note(ports, execution.execution_id, partial(lifecycle.note_look, now=now, missing=False))
    if task.phase == "stopped":
        _send_end(ports, execution, "stopped", task)
        yield Repair(execution.execution_id, "its task stopped and nobody was told", "told it again")
    elif task.phase == "missing" and execution.state is State.STARTING:
        yield from _repair_unlaunched(ports, execution, starting_up)
    elif task.phase == "missing":
        yield from _repair_missing(ports, execution, starting_up)
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
    if window is not None and waited >= window and not lifecycle.waits_for_room(execution):
        yield from _repair_missing(ports, execution, starting_up)
    elif starting_up or waited > LOOK_AFTER:
        _forget_launches(ports, execution, starting_up)
        _push(ports, execution)  # whoever handles it has it end if it waited for room for longer than it may
        yield Repair(execution.execution_id, "it was to be launched and has no task", "pushed it again")


def _forget_launches(ports: Ports, execution: Execution, starting_up: bool) -> bool:
    """Where a launch may be repeated for ever: nobody is still at one after a start, or after so long, and one who died of it
    left a count behind that would let nothing end. Whether that is so."""
    waited = ports.clock.now() - (execution.starting_at or execution.updated_at)
    if ports.launcher.relaunch_window is not None or not (starting_up or waited > GONE_AFTER):
        return False
    _note(ports, execution.execution_id, lifecycle.forget_launches)
    return True


def _repair_missing(ports: Ports, execution: Execution, starting_up: bool) -> Iterator[Repair]:
    """The platform knows no task of it. Two looks are to say so before that is believed, for it frees locks: see GONE_LOOKS_…"""
    now = ports.clock.now()
    if execution.state is State.TERMINATING and _forget_launches(ports, execution, starting_up):
        current = store.load_execution(ports.records, execution.execution_id).document
        if current is not None and kills.end_unlaunched(ports, current, partial(_expiry, ports)):
            yield Repair(execution.execution_id, "it was to be stopped and was never launched", "ended it")
            return
    if now < (execution.starting_at or execution.updated_at) + GONE_AFTER:
        return
    if execution.missing_since is None or now > execution.missing_since + GONE_LOOKS_WITHIN:
        _note(ports, execution.execution_id, partial(lifecycle.note_look, now=now, missing=True))
    elif now >= execution.missing_since + GONE_LOOKS_APART:
        _send_end(ports, execution, "stopped")
        yield Repair(execution.execution_id, "the platform knows no task of it", "settled it")


def _note(ports: Ports, execution_id: str, change: Callable[[Execution], Execution | None]) -> None:
    """Commit what `change` makes of the execution, if anything."""

    def attempt() -> None:
        current = store.load_execution(ports.records, execution_id)
        noted = None if current.document is None else change(current.document)
        if noted is not None:
            ports.records.commit([store.put(current, noted)])
            outbox.publish_status(ports, noted, current.version + 1)

    store.with_retries(ports.clock, attempt)


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
    return releases.change_and_release(ports, current, expired, _expiry(ports, expired))


def _expiry(ports: Ports, expired: Execution) -> Put:
    return store.audit(
        ports.clock,
        "reconciler",
        "expire",
        expired.state.value,
        execution_id=expired.execution_id,
        message=expired.message,
    )


def _terminate_expired(ports: Ports, execution: Execution) -> Iterator[Repair]:
    """End what is past its clocks and has nobody beside it to do so."""

    def expire(current: Execution) -> Execution | None:
        now = ports.clock.now()
        return lifecycle.expire_start(current, now) or lifecycle.expire_run(current, now, DEADLINE_GRACE)

    if expire(execution) is not None and kills.end(ports, execution.execution_id, expire, partial(_expiry, ports)):
        yield Repair(execution.execution_id, "it is past its deadline and its runner did not end it", "had it stopped")


def _held_up_locks(ports: Ports) -> Iterator[Repair]:
    """Locks whose head is over, or could start and was not granted. No commit leaves one so; a restored backup might."""
    for lock in lock_queues.busy_locks(ports.records):
        repair = store.with_retries(ports.clock, partial(_mend_lock, ports, lock.name))
        if repair is not None:
            yield repair


def _mend_lock(ports: Ports, name: str) -> Repair | None:
    queue = (store.load_lock(ports.records, name).document or locks.empty(name)).queue
    head = store.load_execution(ports.records, queue[0]).document if queue else None
    over = head is None or not head.is_active
    if not queue or (head is not None and not over and (head.granted or not _heads_all(ports, head))):
        return None
    # Taking out the dead head grants the next; with a living one, taking out nobody grants itself.
    leaver = queue[0] if over else ""
    problem = "its holder is over" if over else "its first waiter could start and was not granted"
    audit = store.audit(
        ports.clock,
        "reconciler",
        "mend-lock",
        "released" if over else "granted",
        subject=name,
        execution_id=queue[0],
        message=problem,
    )
    releases.announce(ports, releases.release(ports, leaver, [name], [audit]))
    return Repair(f"lock {name}", problem, "released it" if over else "granted it")


def _heads_all(ports: Ports, execution: Execution) -> bool:
    named = store.load_locks(ports.records, [lock.name for lock in execution.locks])
    held = {name: lock.document or locks.empty(name) for name, lock in named.items()}
    return locks.heads_all(held, execution.execution_id)


def _push(ports: Ports, execution: Execution) -> None:
    pushes.push(ports.queue, execution)


def _send_end(ports: Ports, execution: Execution, event: EndEvent, task: TaskState | None = None) -> None:
    message = EndMessage(
        execution_id=execution.execution_id,
        attempt=execution.attempt,
        event=event,
        exit_code=None if task is None else task.exit_code,
        message="" if task is None else task.message,
        never_began=task is not None and task.never_began,
        pull_started_at=None if task is None else task.pull_started_at,
        task_stopped_at=None if task is None else task.stopped_at,
    )
    ports.queue.send("ends", messages.encode(message))


def _discarded_values(ports: Ports) -> Iterator[Repair]:
    for name in secret_values.sweep(ports):
        yield Repair(f"secret {name}", "a value that nothing refers to was still stored", "deleted it")


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
