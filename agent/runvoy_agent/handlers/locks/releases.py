"""Ending an execution's claim on its locks: one commit that changes the record, empties its places in the queues and
grants whoever heads all of theirs then."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from runvoy_agent.core import locks
from runvoy_agent.core.model import Execution, LockRecord
from runvoy_agent.handlers.documents import outbox, pushes, store
from runvoy_agent.handlers.documents.store import Loaded
from runvoy_agent.handlers.quotas import counts, places
from runvoy_agent.ports import Check, Ports, Write
from runvoy_protocol.states import State


class Freed(NamedTuple):
    """What a commit changed, each execution with the version it has now; and whose place it freed, for others that wait."""

    changed: list[tuple[Execution, int]]
    place_of: str | None = None


def change_and_release(
    ports: Ports, current: Loaded[Execution], changed: Execution, audit: Write, checks: Sequence[Check] = ()
) -> Freed:
    """Commit `changed`, if `checks` hold; if it is no longer active, release its locks in the same commit, and count it no
    more. Raises ports.Conflict."""
    names = [] if changed.is_active else [lock.name for lock in changed.locks]
    counted = counts.changes(current.document, changed)
    freed = release(ports, changed.execution_id, names, [store.put(current, changed), audit, *counted, *checks])
    before = current.document
    gave_place = before is not None and before.limited and counts.gives_place(before, changed)
    return Freed([(changed, current.version + 1), *freed.changed], changed.owner if gave_place else None)


def release(ports: Ports, execution_id: str, names: Iterable[str], writes: Sequence[Write] = ()) -> Freed:
    """Commit `writes`, and with them take the execution out of the queues of these locks. Raises ports.Conflict.

    The commit writes or Checks every lock record it read (see core.locks.release). An execution that is in none of the
    queues may still free one: whoever heads a queue is looked at again.
    """
    held = store.load_locks(ports.records, sorted(names))
    before = _documents(held)
    after = locks.leave(before, execution_id)
    waiting = store.load_executions(ports.records, locks.heads(after))
    candidates = {head: loaded.document for head, loaded in waiting.items() if loaded.document is not None}
    wanted = {lock.name for candidate in candidates.values() for lock in candidate.locks}
    others = store.load_locks(ports.records, sorted(wanted - held.keys()))
    plan = locks.release(before, _documents(others), execution_id, candidates, ports.clock.now())
    every = {**held, **others}
    commit = [*writes]
    commit += [
        store.put(every[name], plan.locks[name]) if name in plan.locks else every[name].check for name in sorted(every)
    ]
    freed = []
    for granted in plan.granted:
        loaded = waiting[granted.execution_id]
        commit.append(store.put(loaded, granted))
        freed.append((granted, loaded.version + 1))
    ports.records.commit(commit)
    return Freed(freed)


def announce(ports: Ports, freed: Freed) -> None:
    """Tell what a commit changed: status.json of each, and a push for those that may start, and for who waits for a place that is
    free now."""
    for execution, version in freed.changed:
        outbox.publish_status(ports, execution, version)
        if execution.state is State.QUEUED and execution.granted:
            pushes.push(ports.queue, execution)
    if freed.place_of is not None:
        places.wake(ports, freed.place_of)


def _documents(loaded: dict[str, Loaded[LockRecord]]) -> dict[str, LockRecord]:
    return {name: lock.document or locks.empty(name) for name, lock in loaded.items()}
