"""The routes about locks, and what an execution is told of its own."""

from __future__ import annotations

import msgspec

from runvoy_agent.core import locks
from runvoy_agent.core.model import Execution, LockRecord
from runvoy_agent.handlers.documents import commits, store
from runvoy_agent.handlers.documents.store import Loaded
from runvoy_agent.handlers.locks import releases
from runvoy_agent.handlers.routes import Call, Response, answer
from runvoy_agent.ports import Records
from runvoy_protocol.control import LockAnswer, LockEntry, LocksAnswer, ReleaseRequest
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.states import State
from runvoy_protocol.status import LockStatus

SHOWN_WAITERS = 100


def list_locks(call: Call) -> Response:
    """Every lock with somebody in its queue, by name."""
    records = call.ports.records
    found = sorted(busy_locks(records), key=lambda lock: lock.name)
    return answer(LocksAnswer(locks=tuple(_shown(records, lock, 1) for lock in found)))


def show_lock(call: Call) -> Response:
    lock = _lock(call).document
    if lock is None:
        raise RunvoyError(
            ErrorCode.NOT_FOUND,
            f"nobody ever asked for the lock {call.groups['name']!r}",
            "See `runvoy locks list`; a lock is there once a run names it.",
        )
    return answer(_shown(call.ports.records, lock, SHOWN_WAITERS))


def release_lock(call: Call) -> Response:
    """Take a lock from its holder, whose task goes on: the next in line starts beside it, with a higher fence."""
    asked = call.body(ReleaseRequest)
    call.concerns(execution_id=asked.execution_id)
    freed = commits.with_retries(call.ports.clock, lambda: _release(call, asked.execution_id))
    releases.announce(call.ports, freed)
    return show_lock(call)._replace(audited=True)


def _release(call: Call, execution_id: str) -> releases.Freed:
    name = call.groups["name"]
    lock = _lock(call).document or locks.empty(name)
    if lock.queue[:1] != (execution_id,):
        holder = f"is held by {lock.queue[0]}" if lock.queue else "is free"
        raise RunvoyError(ErrorCode.CONFLICT, f"the lock {name!r} is not held by {execution_id}: it {holder}")
    holder_execution = store.load_execution(call.ports.records, execution_id)
    if holder_execution.document is not None and holder_execution.document.state is State.QUEUED:
        raise RunvoyError(
            ErrorCode.CONFLICT,
            f"execution {execution_id} was not started yet and would start without the lock",
            "Kill it instead: that frees all of its locks.",
        )
    message = f"the lock {name} was taken from its holder"
    audit = call.audit("release-lock", message=message)
    return releases.release(call.ports, execution_id, [name], [holder_execution.check, audit, *call.hold()])


def waiting_locks(records: Records, execution: Execution) -> tuple[LockStatus, ...]:
    """The execution's locks with its places in their queues, and who stands before it."""
    found = []
    named = store.load_locks(records, [one.name for one in execution.locks])
    for one in execution.locks:
        shown = LockStatus(name=one.name, fence=one.fence)
        lock = named[one.name].document
        if lock is not None and execution.execution_id in lock.queue:
            shown = place_in(records, shown, lock, execution.execution_id)
        found.append(shown)
    return tuple(found)


def place_in(records: Records, shown: LockStatus, lock: LockRecord, execution_id: str) -> LockStatus:
    """A lock as `shown`, with the place of an execution that is in its queue, and who heads that."""
    position = lock.queue.index(execution_id)
    if position == 0:
        return msgspec.structs.replace(shown, position=0)
    holder = store.load_execution(records, lock.queue[0]).document
    return msgspec.structs.replace(
        shown,
        position=position,
        holder=lock.queue[0],
        holder_owner=holder.owner if holder else None,
        held_since=holder.granted_at if holder else None,
    )


def busy_locks(records: Records) -> list[LockRecord]:
    """The locks with somebody in their queue."""
    found = []
    for shard in range(store.SHARDS):
        for record in store.partition_records(records, store.INDEX_LOCKS, store.shard_partition("", shard)):
            found.append(msgspec.json.decode(record.body, type=LockRecord))
    return found


def _shown(records: Records, lock: LockRecord, most: int) -> LockAnswer:
    entries = []
    known = store.load_executions(records, lock.queue[:most])
    for position, execution_id in enumerate(lock.queue[:most]):
        execution = known[execution_id].document
        if execution is None:
            continue
        entries.append(
            LockEntry(
                execution_id=execution_id,
                position=position,
                owner=execution.owner,
                state=execution.state,
                admitted_at=execution.admitted_at,
                granted_at=execution.granted_at,
            )
        )
    return LockAnswer(name=lock.name, fence=lock.fence, length=len(lock.queue), queue=tuple(entries))


def _lock(call: Call) -> Loaded[LockRecord]:
    return store.load_lock(call.ports.records, call.groups["name"])
