"""Ending an execution's claim on its locks: one commit that changes the record, empties its places in the queues and
grants whoever heads all of theirs then."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from runvoy_agent.core import locks
from runvoy_agent.core.model import Execution, LockRecord
from runvoy_agent.handlers import messages, outbox, store
from runvoy_agent.handlers.messages import StartMessage
from runvoy_agent.handlers.store import Loaded
from runvoy_agent.ports import Ports, Write
from runvoy_protocol.states import State


class Freed(NamedTuple):
    """What a commit changed, each execution with the version it has now."""

    changed: list[tuple[Execution, int]]


def change_and_release(
    ports: Ports, current: Loaded[Execution], changed: Execution, audit: Callable[[], Write]
) -> Freed:
    """Commit `changed`; if it is no longer active, release its locks in the same commit. Raises ports.Conflict.

    The commit writes or Checks every lock record it read (see core.locks.release).
    """
    writes: list[Write] = [store.put(current, changed), audit()]
    freed = [(changed, current.version + 1)]
    if not changed.is_active and changed.locks:
        held = _load_locks(ports, [lock.name for lock in changed.locks])
        before = _documents(held)
        waiting = {
            execution_id: store.load_execution(ports.records, execution_id)
            for execution_id in locks.next_in_line(before, locks.leave(before, changed.execution_id))
        }
        candidates = {
            execution_id: loaded.document for execution_id, loaded in waiting.items() if loaded.document is not None
        }
        wanted = {lock.name for candidate in candidates.values() for lock in candidate.locks}
        others = _load_locks(ports, sorted(wanted - held.keys()))
        release = locks.release(before, _documents(others), changed.execution_id, candidates)
        every = {**held, **others}
        writes += [
            store.put(every[name], release.locks[name]) if name in release.locks else every[name].check
            for name in sorted(every)
        ]
        for granted in release.granted:
            loaded = waiting[granted.execution_id]
            writes.append(store.put(loaded, granted))
            freed.append((granted, loaded.version + 1))
    ports.records.commit(writes)
    return Freed(freed)


def announce(ports: Ports, freed: Freed) -> None:
    """Tell what a commit changed: status.json of each, and a push for those that may start."""
    for execution, version in freed.changed:
        outbox.publish_status(ports, execution, version)
        if execution.state is State.QUEUED and execution.granted:
            ports.queue.send("starts", messages.encode(StartMessage(execution_id=execution.execution_id)))


def _load_locks(ports: Ports, names: list[str]) -> dict[str, Loaded[LockRecord]]:
    return {name: store.load_lock(ports.records, name) for name in names}


def _documents(loaded: dict[str, Loaded[LockRecord]]) -> dict[str, LockRecord]:
    return {name: lock.document or locks.empty(name) for name, lock in loaded.items()}
